"""`orca data check`: open data through the task's own reader, and say what is there and what is wrong."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from orca_cli import data_folder, parts, terminal
from orca_cli.catalogue import DataSet
from orca_cli.commands.data import chosen, table
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError, UsageError

SCHEMA = 1
_FEW = 12  # classes whose counts are printed one by one
EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check source=cifar10 task=deepsea          task= and source= where both have the name
  orca data check fsd50k --samples 500                 read fewer samples; all targets are counted all the same
  orca data check jsb task.path=~/jsb                  files that lie elsewhere

Exit code 11 where something is wrong: NaN or infinite inputs, targets that are
none, an empty split, a file that is not what it was, one per cent or more of a
split that is in another one too. Warnings say what one should know."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Open data through the task's own reader and look. Nothing is trained, no file of data is changed; the "
        "checksums of files that are seen for the first time are recorded beside them."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("words", nargs="+", metavar="NAME", help="tasks or sources; KEY=VALUE are settings of a run")
    parser.add_argument(
        "--samples", type=int, default=20_000, metavar="N", help="read at most N samples of a split; default: 20000"
    )
    parser.add_argument(
        "--offline", action="store_true", help="open no connection; only task=hub reads over the network"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, ...")
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME", help="trust a module that a YAML file names"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print what was found, and return the exit code."""
    if arguments.samples < 1:
        raise UsageError(f"--samples {arguments.samples} is below 1", hint="give 1 or more")
    found, data, settings = chosen(arguments.words, arguments.config_dir)
    if len(settings) == len(arguments.words):
        raise UsageError("a name is needed", hint="orca data list shows them")
    terminal.configure_logging()
    if arguments.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by the libraries when they are imported
    for module in arguments.allow_module:
        parts.allow_module(module)
    # A task and a source may have the same name: the task is meant, unless the word says source=.
    by_name = {entry.name: entry for entry in reversed(found)}
    sources = {word.partition("=")[2] for word in arguments.words if word.startswith("source=")}
    records, failures = [], []
    for entry in [entry for entry in found if by_name[entry.name] is entry or entry.name in sources]:
        try:
            record = _check(entry, data, settings, arguments)
        except OrcaError as error:
            if len(arguments.words) - len(settings) == 1:
                raise
            failures.append(error)
            continue
        records.append(record)
        if not arguments.json:
            _print(record)
        if first := next(iter(record["problems"]), None):
            count = len(record["problems"])
            failures.append(DataError(first if count == 1 else f"{count} things are wrong; first: {first}"))
            failures[-1].where = entry.name
    if arguments.json:
        terminal.print_text(json.dumps({"schema": SCHEMA, "data_sets": records}, indent=2, allow_nan=False) + "\n")
    for failure in failures:
        terminal.print_error(f"orca: error: {failure}")
    return failures[0].code if failures else 0


def _check(entry: DataSet, data: Path, settings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    from orca_cli import compose
    from orca_cli.commands.data_examination import check_source, check_task

    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"{entry.group}={entry.name}", *settings]).config
    reporter = terminal.LogReporter()
    problems: list[str] = []
    node = config.task if entry.group == "task" else config.source
    # Files of another folder, or data that are made, are not those that the data set's file speaks of.
    is_elsewhere = node.get("path") is not None or node.get("origin") == "generated"
    files = [] if is_elsewhere else _files(entry, data, problems)
    if entry.group == "task":
        record = check_task(config, reporter, arguments.samples)
    else:
        record = check_source(config, reporter)
    return {
        "name": entry.name,
        "group": entry.group,
        "files": files,
        **record,
        "problems": problems + record["problems"],
    }


def _files(entry: DataSet, data: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the checksums of the files that are there; those that differ from what they should be are problems."""
    folder = data / entry.name
    with ExitStack() as stack:
        if folder.is_dir():
            with suppress(StorageError):  # a folder of others, where nothing is recorded
                stack.enter_context(data_folder.locked(entry, data, terminal.LogReporter()))
        return _compare(entry, folder, problems)


def _compare(entry: DataSet, folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in entry.files:
        path = folder / file.path
        if not path.is_file():
            if data_folder.is_there(file, folder):
                found.append({"path": file.path, "bytes": None, "sha256": None, "checksum": "unpacked"})
            continue
        terminal.log.info(f"reading {path}")
        digest: str | None = None
        try:
            known = data_folder.expected(file, folder)
            digest = data_folder.verify(file, folder)
            word = "recorded now" if known is None else "as published" if file.sha256 else "as recorded"
        except StorageError:  # a folder of others, where nothing can be recorded
            word = "not recorded, since the folder cannot be written"
        except ChecksumError as error:
            word = "DIFFERS"
            problems.append(str(error))
        found.append({"path": file.path, "bytes": path.stat().st_size, "sha256": digest, "checksum": word})
    return found


def _print(record: dict[str, Any]) -> None:
    shape = " x ".join(map(str, record.get("input_shape", []))) or "texts"
    kind = record.get("kind") or record["modality"]
    synthetic = ", synthetic" if record.get("synthetic") else ""
    rows = [(record["name"], f"{record['group']}: {kind}, {shape} to {record['num_outputs']}{synthetic}")]
    if record.get("note"):
        rows.append(("note", record["note"]))
    for file in record["files"]:
        digest = f"SHA-256 {file['sha256'][:12]} " if file["sha256"] else ""
        rows.append(("file", f"{file['path']}: {digest}{file['checksum']}"))
    splits = record.get("splits") or {"all": record}
    rows += [(name, _split(split)) for name, split in splits.items()]
    rows += [("overlap", text) for text in _overlaps(record.get("overlaps", []), list(splits))]
    rows += [("warning", text) for text in record["warnings"]]
    rows += [("WRONG", text) for text in record["problems"]]
    if not record["problems"]:
        rows.append(("", "nothing is wrong"))
    terminal.print_result(table(("", ""), rows))


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
    none = [f"{numbers[key]} {word}" for key, word in (("nan", nan), ("infinite", "infinite")) if numbers[key]]
    known = "no number" if numbers["min"] is None else f"{numbers['min']:.4g} to {numbers['max']:.4g}"
    return ", ".join([known, *(none or ["no NaN"])])


def _classes(found: dict[str, Any]) -> str:
    counts = found["counts"]
    ignored = f", {found['ignored']} ignored" if found.get("ignored") else ""
    if len(counts) == 1:
        return f"{counts[0]} are 1{ignored}"
    if len(counts) <= _FEW:
        return f"per class {' '.join(map(str, counts))}{ignored}"
    empty = f", {len(found['empty'])} of {len(counts)} empty" if found["empty"] else ""
    return f"per class {found['min']} to {found['max']}, median {found['median']:g}{empty}{ignored}"


def _overlaps(found: list[dict[str, Any]], splits: list[str]) -> list[str]:
    """Return a line for every two splits that share samples, or one line where none do."""
    if not found:
        return []
    part = "" if all(overlap["complete"] for overlap in found) else ", of the samples that were read"
    shared = [overlap for overlap in found if overlap["shared"]]
    if not shared:
        return [f"none between {', '.join(splits[:-1])} and {splits[-1]}{part}"]
    return [
        f"{entry['shared']} of {entry['of']} in {entry['second']} also in {entry['first']}{part}" for entry in shared
    ]
