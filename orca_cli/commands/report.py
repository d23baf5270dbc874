"""`orca report`: a table of the results, methods as rows and tasks as columns; reads records, writes nothing in runs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orca_cli import storage, terminal
from orca_cli.configuration import default_folders
from orca_cli.exceptions import DataError, OrcaError, SweepError, suggest
from orca_cli.report.collect import Collection, collect
from orca_cli.report.formats import FORMATS, record_of, terminal_of, text_of
from orca_cli.report.table import Table, build_table

EXAMPLES = """\
examples:
  orca report                                  all runs of ./runs (or $ORCA_RUNS)
  orca report runs/digits                      one task; also a single run, or several folders
  orca report --task digits --metric otdd --metric none
  orca report --format latex --out table.tex   for a paper; md, csv and json as well
  orca report --strict                         exit code 3 if a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own. Runs that are not completed are
counted in their cell and listed with the reason."""


@dataclass(frozen=True)
class Report:
    """A table, and how it is shown.

    Args:
        table: the results.
        form: one of FORMATS.
        written: the file that has it; None if it is to be shown.
        failures: with --strict, that runs failed.
    """

    table: Table
    form: str
    written: Path | None
    failures: Sequence[OrcaError]

    @property
    def code(self) -> int:
        """Exit code."""
        return self.failures[0].code if self.failures else 0

    def record(self) -> dict[str, Any]:
        """Return the table with the values of all seeds, or where it was written."""
        return record_of(self.table) if self.written is None else {"schema": 1, "written": str(self.written)}

    def show(self) -> Iterable[RenderableType]:
        """Return the table in its format."""
        if self.written is not None:
            return []
        is_table = self.form == "table"
        return terminal_of(self.table, terminal.stdout().width) if is_table else [text_of(self.table, self.form)]


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
    parser.add_argument("--strict", action="store_true", help="exit with 3 if runs failed, died or cannot be read")


def execute(arguments: argparse.Namespace) -> Report:
    """Return the table, or write it to a file."""
    collection = collect(arguments.runs or [default_folders()["runs"]])
    for key in ("task", "metric"):
        collection = _filtered(collection, key, getattr(arguments, key))
    table = build_table(collection)
    if arguments.out is not None:
        storage.write_text(arguments.out, text_of(table, "json" if arguments.json else arguments.format))
        terminal.print_error(f"written: {arguments.out}")
    return Report(table, arguments.format, arguments.out, _failures(table) if arguments.strict else [])


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


def _failures(table: Table) -> list[OrcaError]:
    failed = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if not failed and not table.broken:
        return []
    text = f"{failed} runs failed and {len(table.broken)} cannot be read"
    return [SweepError(text, where="--strict", hint="they are listed below the table")]
