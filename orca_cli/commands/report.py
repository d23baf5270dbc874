"""`orca report`: a table of the results, methods as rows and tasks as columns; reads records, writes nothing in runs."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from orca_cli import storage, terminal
from orca_cli.configuration import default_folders
from orca_cli.exceptions import DataError, SweepError, suggest

if TYPE_CHECKING:
    from orca_cli.report.collect import Collection
    from orca_cli.report.tables import Table

# The formats are named here too, because --help must not wait for the modules that make them.
FORMATS = ("table", "md", "csv", "json", "latex")
EXAMPLES = """\
examples:
  orca report                                  all runs of ./runs (or $ORCA_RUNS)
  orca report runs/digits                      one task; also a single run, or several folders
  orca report --task digits --metric otdd --metric none
  orca report --format latex --out table.tex   for a paper; md, csv and json as well
  orca report --strict                         exit code 3 where a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own, and runs that are not
completed are counted in their cell and listed with the reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "A table of the results: methods as rows, tasks as columns, mean and deviation over seeds."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs; default: $ORCA_RUNS, else ./runs"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output")
    parser.add_argument("--task", action="append", default=[], metavar="NAME", help="only this task; may be repeated")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="only this metric; may be repeated"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 3 where runs have failed, died or cannot be read"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print or write the table, and return the exit code."""
    from orca_cli.report.collect import collect
    from orca_cli.report.render import terminal_of, text_of
    from orca_cli.report.tables import build_table

    folders = arguments.runs or [default_folders()["runs"]]
    collection = collect(folders)
    for key in ("task", "metric"):
        collection = _filtered(collection, key, getattr(arguments, key))
    table = build_table(collection)
    if arguments.out is not None:
        storage.write_text(arguments.out, text_of(table, arguments.format))
        terminal.print_error(f"written: {arguments.out}")
    elif arguments.format == "table":
        terminal.print_result(*terminal_of(table, terminal.stdout().width))
    else:
        terminal.print_text(text_of(table, arguments.format))
    return _judge(table, arguments.strict)


def _filtered(collection: Collection, key: str, names: list[str]) -> Collection:
    if not names:
        return collection
    known = {getattr(run, key) for run in collection.runs}
    for name in names:
        if name not in known:
            raise DataError(f"no run has the {key} '{name}'", where=f"--{key}", hint=suggest(name, known))
    return dataclasses.replace(
        collection,
        runs=[run for run in collection.runs if getattr(run, key) in names],
        superseded=[run for run in collection.superseded if getattr(run, key) in names],
    )


def _judge(table: Table, strict: bool) -> int:
    failed = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if strict and (failed or table.broken):
        raise SweepError(
            f"{failed} runs have failed and {len(table.broken)} cannot be read",
            where="--strict",
            hint="they are listed below the table",
        )
    return 0
