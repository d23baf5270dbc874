"""`orca data check`: open data through the task's own reader, and report what is there and what is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.commands.data import add_names, select
from orca_cli.commands.options import add_allow_module, check_at_least
from orca_cli.config.catalogue import DataSet
from orca_cli.data import data_folder
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError
from orca_cli.terminal import Result, counted

_FEW = 12  # classes whose counts are shown one by one
EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check source=cifar10 task=deepsea          task= or source= if both have the name
  orca data check fsd50k --samples 500                 read fewer samples; targets are always counted in full
  orca data check jsb task.path=~/jsb                  files that are elsewhere

Exit code 11 if something is wrong: NaN or infinite inputs, invalid targets, an empty split, a file that has changed, one per
cent or more of a split that is also in another one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Open data through the task's own reader and look. Nothing is trained and no data file is changed; the "
        "checksums of files seen for the first time are recorded beside them."
    )
    add_names(parser, "+", "tasks or sources; KEY=VALUE are settings of a run")
    text = "read at most N samples of a split; default: 20000"
    parser.add_argument("--samples", type=int, default=20_000, metavar="N", help=text)
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what was found."""
    check_at_least("--samples", arguments.samples, 1)
    chosen = select(arguments.names, arguments.config_dir, takes_settings=True, needs_name=True)
    terminal.configure_logging()
    records: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    # A task and a source may have the same name: the task is meant, unless the word says source=.
    sources = {word.partition("=")[2] for word in arguments.names if word.startswith("source=")}
    tasks = {entry.name for entry in chosen.entries if entry.group == "task"}
    for entry in chosen.entries:
        if entry.group == "source" and entry.name in tasks and entry.name not in sources:
            continue
        try:
            record = _check(entry, chosen.folder, chosen.settings, arguments)
        except OrcaError as error:
            failures.append(type(error)(error.what, where=error.where or entry.name, hint=error.hint))
            continue
        records.append(record)
        if problems := record["problems"]:
            failures.append(DataError("; ".join(problems), where=entry.name))
        # Now: the result is lost if the next one is interrupted.
        terminal.log.info(f"{entry.name}: {counted(len(problems), 'problem')} found")
    shown = [terminal.facts(_lines(record)) for record in records]
    return Result({"schema": 1, "data_sets": records}, shown, failures)


def _check(entry: DataSet, data: Path, settings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    from orca_cli.commands.data.examination import check_source, check_task
    from orca_cli.config import compose

    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"{entry.group}={entry.name}", *settings]).config
    reporter = terminal.LogReporter()
    problems: list[str] = []
    is_task = entry.group == "task"
    node = config.task if is_task else config.source
    # The data set's file does not describe files in another folder, or generated data.
    is_elsewhere = node.get("path") is not None or node.get("origin") == "generated"
    files = [] if is_elsewhere else _files(entry, data, problems)
    if is_task:
        record = check_task(config, reporter, arguments.samples, problems)
    else:
        record = check_source(config, reporter, problems)
    return {"name": entry.name, "group": entry.group, "files": files, **record, "problems": problems}


def _files(entry: DataSet, data: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the checksums of the files that are here; those that differ from what they should be are problems."""
    folder = data / entry.name
    records: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if folder.is_dir():
            with suppress(StorageError):  # somebody else's folder, where nothing is recorded
                stack.enter_context(data_folder.locked(entry, data, terminal.LogReporter()))
        for file in entry.files:
            digest: str | None = None
            if not (folder / file.path).is_file():
                continue
            try:
                with suppress(StorageError):  # as above
                    digest = data_folder.verify(file, folder)
            except ChecksumError as error:
                problems.append(str(error))
            records.append({"path": file.path, "sha256": digest})
    return records


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    shape = " x ".join(map(str, record["input_shape"])) or "texts"
    synthetic = ", synthetic" if record.get("synthetic") else ""
    yield record["name"], f"{record['group']}: {record['kind']}, {shape} to {record['num_outputs']}{synthetic}"
    if record.get("note"):
        yield "note", record["note"]
    yield from (("file", f"{file['path']}: SHA-256 {(file['sha256'] or 'none')[:12]}") for file in record["files"])
    for name, split in record["splits"].items():
        words = [counted(split["n"], "sample")]
        for what in ("inputs", "targets"):
            if (numbers := split.get(what)) is not None and numbers["min"] is not None:
                words.append(f"{what} {numbers['min']:.4g} to {numbers['max']:.4g}, {numbers['nan']} NaN")
        if "classes" in split:
            counts = split["classes"]["counts"]
            few = len(counts) <= _FEW
            words.append(f"per class {' '.join(map(str, counts)) if few else f'{min(counts)} to {max(counts)}'}")
        yield name, "; ".join(words)
    shared = [one for one in record.get("overlaps", ()) if one["shared"]]
    yield from (("overlap", "{shared} of {of} in {second} also in {first}".format(**one)) for one in shared)
    yield from (("WRONG", text) for text in record["problems"] or ())
    if not record["problems"]:
        yield "", "no problems found"
