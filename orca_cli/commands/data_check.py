"""`orca data check`: open data through the task's own reader, and say what is there and what is wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from orca_cli import data_folder, parts, terminal
from orca_cli.catalogue import DataSet
from orca_cli.commands.data import chosen, table
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError, UsageError

SCHEMA = 1
EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check source=cifar10 task=deepsea          task= and source= where both have the name
  orca data check fsd50k --samples 500                 read fewer samples; all targets are counted all the same

Exit code 11 where something is wrong: NaN or infinite inputs, targets that are
none, an empty split, a file that is not what it was, one per cent or more of a
split that is in another one too. Warnings say what one should know."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Open data through the task's own reader and look: nothing is changed, nothing is trained."
    parser.epilog = EXAMPLES
    parser.add_argument("words", nargs="+", metavar="NAME", help="tasks or sources; KEY=VALUE are settings of a run")
    parser.add_argument(
        "--samples", type=int, default=20_000, metavar="N", help="read at most N samples of a split; default: 20000"
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
        if record["problems"]:
            failures.append(DataError(f"{len(record['problems'])} things are wrong: {'; '.join(record['problems'])}"))
            failures[-1].where = entry.name
    if arguments.json:
        terminal.print_text(json.dumps({"schema": SCHEMA, "data_sets": records}, indent=2, allow_nan=False) + "\n")
    for failure in failures:
        terminal.print_error(f"orca: error: {failure}")
    return failures[0].code if failures else 0


def _check(entry: DataSet, data: Path, settings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    from orca_cli import compose
    from orca_cli.stages.data_check import check_source, check_task

    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"{entry.group}={entry.name}", *settings]).config
    reporter = terminal.LogReporter()
    problems: list[str] = []
    files = _files(entry, data, problems)
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
    folder, found = data / entry.name, []
    for file in entry.files:
        path = folder / file.path
        if not path.is_file():
            continue
        terminal.log.info(f"reading {path}")
        try:
            known = data_folder.expected(file, folder)
            digest: str | None = data_folder.verify(file, folder)
            word = "new" if known is None else "published" if file.sha256 else "recorded"
        except StorageError:  # a folder of others, where nothing can be recorded
            digest, word = None, "not recorded: the folder cannot be written"
        except ChecksumError as error:
            digest, word = None, "differs"
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
        rows.append(("file", f"{file['path']}: SHA-256 {(file['sha256'] or '')[:12]} {file['checksum']}"))
    splits = record.get("splits") or {"all": record}
    for name, split in splits.items():
        rows.append((name, _split(split)))
    for overlap in record.get("overlaps", []):
        part = "" if overlap["complete"] else " (of those that were read)"
        text = f"{overlap['shared']} of {overlap['of']} in {overlap['second']} also in {overlap['first']}{part}"
        rows.append(("overlap", text))
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
        words.append(f"targets {_range(split['targets'])}")
    if "classes" in split:
        found = split["classes"]
        text = f"per class {found['min']} / {found['median']:g} / {found['max']} (least, median, most)"
        words.append(text + (f", {len(found['empty'])} empty" if found["empty"] else ""))
    if split.get("repeated"):
        words.append(f"{split['repeated']} repeated inputs")
    return "; ".join(words)


def _range(numbers: dict[str, Any]) -> str:
    none = [f"{numbers[key]} {word}" for key, word in (("nan", "NaN"), ("infinite", "infinite")) if numbers[key]]
    known = "no number" if numbers["min"] is None else f"{numbers['min']:.4g} to {numbers['max']:.4g}"
    return ", ".join([known, *none])
