"""`orca report`: a table of the results, methods as rows and tasks as columns; reads records, writes nothing in runs."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.configuration import default_folders
from orca_cli.exceptions import DataError, SweepError, suggest
from orca_cli.report.collect import Collection, collect
from orca_cli.report.formats import FORMATS, record_of, terminal_of, text_of
from orca_cli.report.studies import of_study
from orca_cli.report.table import build_table
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca report                                  all runs of ./runs (or $ORCA_RUNS)
  orca report runs/digits                      one task; also a single run, or several folders
  orca report --task digits --metric otdd --metric none
  orca report --study alignment                a study's runs only: its sets as columns, its arms as rows
  orca report --format latex --out table.tex   for a paper; md, csv and json as well
  orca report --strict                         exit code 3 if a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own. Runs that are not completed are
counted in their cell and listed with the reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "A table of the results: methods as rows, tasks as columns, mean and deviation over seeds."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs; default: $ORCA_RUNS, else ./runs"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table; --json is short for json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output")
    for key in ("task", "metric"):
        parser.add_argument(
            f"--{key}", action="append", default=[], metavar="NAME", help=f"only this {key}; may be repeated"
        )
    parser.add_argument("--study", metavar="NAME", help="only the runs of this study, named by its axes")
    parser.add_argument("--strict", action="store_true", help="exit with 3 if runs failed, died or cannot be read")


def execute(arguments: argparse.Namespace) -> Result:
    """Return the table with the values of all seeds, or write it to a file."""
    folders = arguments.runs or [Path(default_folders()["runs"])]
    collection = collect(folders)
    if arguments.study is not None:
        collection = of_study(collection, folders, arguments.study)
    for key in ("task", "metric"):
        collection = _filtered(collection, key, getattr(arguments, key))
    table, form = build_table(collection), arguments.format
    failures = []
    failed = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if arguments.strict and (failed or table.broken):
        text = f"{failed} runs failed and {len(table.broken)} cannot be read"
        failures.append(SweepError(text, where="--strict", hint="they are listed below the table"))
    if arguments.out is not None:
        storage.write_text(arguments.out, text_of(table, "json" if arguments.json else form))
        terminal.print_error(f"written: {arguments.out}")
        return Result({"schema": 1, "written": str(arguments.out)}, failures=failures)
    shown = terminal_of(table, terminal.stdout().width) if form == "table" else [text_of(table, form)]
    return Result(record_of(table), shown, failures)


def _filtered(collection: Collection, key: str, names: list[str]) -> Collection:
    if not names:
        return collection
    known = {getattr(run, key) for run in collection.runs}
    for name in names:
        if name not in known:
            raise DataError(f"no run has the {key} '{name}'", where=f"--{key}", hint=suggest(name, known))
    runs, superseded = (
        [run for run in found if getattr(run, key) in names] for found in (collection.runs, collection.superseded)
    )
    return dataclasses.replace(collection, runs=runs, superseded=superseded)
