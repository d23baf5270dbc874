"""`orca data check`: open data through the task's own reader, and report what is there and what is wrong."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.commands.data import Selection, add_names, select
from orca_cli.commands.options import add_allow_module, check_at_least
from orca_cli.config import parts
from orca_cli.config.catalogue import DataSet
from orca_cli.data import data_folder
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError
from orca_cli.terminal import Result

_FEW = 12  # classes whose counts are shown one by one
_NO_PROBLEM = "no problems found"
EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check source=cifar10 task=deepsea          task= and source= if both have the name
  orca data check fsd50k --samples 500                 read fewer samples; targets are always counted in full
  orca data check jsb task.path=~/jsb                  files that are elsewhere

Exit code 11 if something is wrong: NaN or infinite inputs, invalid targets, an
empty split, a file that has changed, one per cent or more of a split that is
also in another one. Warnings are worth knowing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Open data through the task's own reader and look. Nothing is trained and no data file is changed; the "
        "checksums of files seen for the first time are recorded beside them."
    )
    add_names(parser, "+", "tasks or sources; KEY=VALUE are settings of a run")
    text = "read at most N samples of a split; default: 20000"
    parser.add_argument("--samples", type=int, default=20_000, metavar="N", help=text)
    parser.add_argument("--offline", action="store_true", help="open no connection (only task=hub would)")
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what was found."""
    check_at_least("--samples", arguments.samples, 1)
    chosen = select(arguments.names, arguments.config_dir, takes_settings=True, needs_name=True)
    terminal.configure_logging()
    if arguments.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by the libraries when they are imported
    for module in arguments.allow_module:
        parts.allow_module(module)
    # A task and a source may have the same name: the task is meant, unless the word says source=.
    by_name = {entry.name: entry for entry in reversed(chosen.entries)}
    sources = {word.partition("=")[2] for word in arguments.names if word.startswith("source=")}
    records: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    for entry in [entry for entry in chosen.entries if by_name[entry.name] is entry or entry.name in sources]:
        try:
            record = _check(entry, chosen, arguments)
        except OrcaError as error:
            if len(arguments.names) - len(chosen.settings) == 1:
                raise
            failures.append(error)
            terminal.log.info(f"{entry.name}: failed")
            continue
        records.append(record)
        verdict = _NO_PROBLEM
        if problems := record["problems"]:
            verdict = problems[0] if len(problems) == 1 else f"{len(problems)} problems; the first: {problems[0]}"
            failures.append(DataError(verdict, where=entry.name))
        terminal.log.info(f"{entry.name}: {verdict}")  # now: the result is lost if the next one is interrupted
    shown = [terminal.facts(_lines(record)) for record in records]
    return Result({"schema": 1, "data_sets": records}, shown, failures)


def _check(entry: DataSet, chosen: Selection, arguments: argparse.Namespace) -> dict[str, Any]:
    from orca_cli.commands.data.examination import check_source, check_task
    from orca_cli.config import compose

    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"{entry.group}={entry.name}", *chosen.settings]).config
    reporter = terminal.LogReporter()
    problems: list[str] = []
    is_task = entry.group == "task"
    node = config.task if is_task else config.source
    # The data set's file does not describe files in another folder, or generated data.
    is_elsewhere = node.get("path") is not None or node.get("origin") == "generated"
    files = [] if is_elsewhere else _files(entry, chosen.folder, problems)
    record = check_task(config, reporter, arguments.samples) if is_task else check_source(config, reporter)
    about = {"name": entry.name, "group": entry.group, "files": files}
    return {**about, **record, "problems": problems + record["problems"]}


def _files(entry: DataSet, data: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the checksums of the files that are here; those that differ from what they should be are problems."""
    folder = data / entry.name
    records: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if folder.is_dir():
            with suppress(StorageError):  # somebody else's folder, where nothing is recorded
                stack.enter_context(data_folder.locked(entry, data, terminal.LogReporter()))
        for file in entry.files:
            path = folder / file.path
            size: int | None = None
            digest: str | None = None
            if path.is_file():
                terminal.log.info(f"reading {path}")
                size = path.stat().st_size
                try:
                    expected = data_folder.expected(file, folder)
                    digest = data_folder.verify(file, folder)
                    word = "recorded now" if expected is None else "as published" if file.sha256 else "as recorded"
                except StorageError:  # somebody else's folder, as above
                    word = "not recorded, the folder is not writable"
                except ChecksumError as error:
                    word = "DIFFERS"
                    problems.append(str(error))
            elif data_folder.is_there(file, folder):
                word = "unpacked"
            else:
                continue
            records.append({"path": file.path, "bytes": size, "sha256": digest, "checksum": word})
    return records


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    shape = " x ".join(map(str, record.get("input_shape", []))) or "texts"
    kind = record.get("kind") or record["modality"]
    synthetic = ", synthetic" if record.get("synthetic") else ""
    yield record["name"], f"{record['group']}: {kind}, {shape} to {record['num_outputs']}{synthetic}"
    if record.get("note"):
        yield "note", record["note"]
    for file in record["files"]:
        digest = f"SHA-256 {file['sha256'][:12]} " if file["sha256"] else ""
        yield "file", f"{file['path']}: {digest}{file['checksum']}"
    splits = record.get("splits") or {"all": record}
    for name, split in splits.items():
        yield name, _split(split)
    for text in _overlaps(record.get("overlaps", []), [*splits]):
        yield "overlap", text
    yield from (("warning", text) for text in record["warnings"])
    yield from (("WRONG", text) for text in record["problems"])
    if not record["problems"]:
        yield "", _NO_PROBLEM


def _split(split: dict[str, Any]) -> str:
    read = split.get("read", split["n"])
    words = [f"{split['n']} samples" + (f" ({read} read)" if read != split["n"] else "")]
    if "inputs" in split:
        words.append(f"inputs {_range(split['inputs'])}")
    if "words" in split:
        words.append("{min} to {max} words, median {median:g}".format(**split["words"]))
    if "targets" in split:
        words.append(f"targets {_range(split['targets'], 'unknown (NaN)')}")
    if "classes" in split:
        words.append(_classes(split["classes"]))
    if split.get("repeated"):
        words.append(f"repeated inputs: {split['repeated']}")
    return "; ".join(words)


def _range(numbers: dict[str, Any], nan: str = "NaN") -> str:
    invalid = [f"{numbers[key]} {word}" for key, word in (("nan", nan), ("infinite", "infinite")) if numbers[key]]
    range_text = "no finite number" if numbers["min"] is None else f"{numbers['min']:.4g} to {numbers['max']:.4g}"
    return ", ".join([range_text, *(invalid or ["no NaN"])])


def _classes(classes: dict[str, Any]) -> str:
    counts = classes["counts"]
    ignored = f", {classes['ignored']} ignored" if classes.get("ignored") else ""
    if len(counts) == 1:
        return f"{counts[0]} are 1{ignored}"
    if len(counts) <= _FEW:
        return f"per class {' '.join(map(str, counts))}{ignored}"
    empty = f", {len(classes['empty'])} of {len(counts)} empty" if classes["empty"] else ""
    return f"per class {classes['min']} to {classes['max']}, median {classes['median']:g}{empty}{ignored}"


def _overlaps(overlaps: list[dict[str, Any]], splits: list[str]) -> list[str]:
    """Return a line for every two splits that share samples, or one line if none do."""
    part = "" if all(overlap["complete"] for overlap in overlaps) else ", of the samples that were read"
    shared = [
        "{shared} of {of} in {second} also in {first}".format(**overlap) + part
        for overlap in overlaps
        if overlap["shared"]
    ]
    return shared or [f"none between {', '.join(splits[:-1])} and {splits[-1]}{part}"] * bool(overlaps)
