"""`orca report`: a table of the results, methods as rows and tasks as columns; reads records, writes nothing in runs."""

import argparse
import dataclasses
import shlex
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.options import RUNS, WHERE, argument
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError, SweepError, UnavailableError, UsageError
from orca_cli.report.collect import Collection, Run, collect
from orca_cli.report.conditions import PROGRAM, program_name
from orca_cli.report.formats import FORMATS, Page, page_of
from orca_cli.report.layout import clean
from orca_cli.report.paired import compare
from orca_cli.report.ranks import rank
from orca_cli.report.selection import (
    RATE,
    Values,
    choose,
    pair,
    select_study,
    where,
)
from orca_cli.report.table import Table, build_table, with_published
from orca_cli.runs.settings import canonical
from orca_cli.terminal import Result, counted

_FORM_OF = {
    ".html": "html",
    ".md": "md",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
}  # ending of a file -> format
EXAMPLES = """\
examples:
  orca report                                  all runs of ./runs (or $ORCA_RUNS)
  orca report runs/digits                      one task; also a single run, or several folders
  orca report --where task=digits --where train.lr=1e-4,2e-4      runs by any settings
  orca report --study alignment                a study's runs only: its sets as columns, its arms as rows
  orca report --study alignment --against metric=none --where body=minilm      does each metric help, and by how much
  orca report --study alignment --compare      methods over all tasks: mean ranks, each against the first
  orca report --study table3 --choose train.lr --against arm=naive             each arm at its own rate, chosen on validation
  orca report --against metric=none --any-program      runs of several versions of the program, paired all the same
  orca report --baselines docs/published.csv   others' results below: lines of task,method,error,source
  orca report --out table.tex                  for a paper; md, csv and json as well
  orca report --out page.html                  the same and more as one page
  orca report --figures figures                every figure as SVG
  orca report --strict                         exit code 3 if a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own. Runs that are not completed are
counted in their cell and listed with the reason."""
_ENDING = "default: that of --out by its ending, else table; --json is short for json"
_AGAINST = (
    "pair runs that differ in KEY only with those of KEY=VALUE: mean gain, 95 %% interval, exact p"
)
_COMPARE = "all methods over all tasks: mean ranks, and each method against the first, with exact p"
_ANY_PROGRAM = "compare runs whatever version of the program made them; without it, runs of different sources are no pair"
_OTHERS = "other people's results as rows: lines of task,method,error,source; errors as in result.json (fractions)"
ARGUMENTS = (
    RUNS,
    argument("--format", choices=(*FORMATS, "html"), help=_ENDING),
    argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output"),
    argument("--study", metavar="NAME", help="only the runs of this study, named by its axes"),
    WHERE,
    argument(
        "--choose",
        metavar="KEY",
        help="each arm at its own value of this setting, chosen by validation on the lowest seed; the other seeds are judged",
    ),
    argument("--against", metavar="KEY=VALUE", help=_AGAINST),
    argument("--compare", action="store_true", help=_COMPARE),
    argument("--any-program", action="store_true", help=_ANY_PROGRAM),
    argument("--baselines", type=Path, metavar="FILE.csv", help=_OTHERS),
    argument("--figures", type=Path, metavar="FOLDER", help="write the figures as SVG as well"),
    argument(
        "--strict", action="store_true", help="exit with 3 if runs failed, died or cannot be read"
    ),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the table with the values of all seeds, or write it to a file."""
    if sum(map(bool, (arguments.against, arguments.compare, arguments.baselines))) > 1:
        hint = "ask for one after the other; others' results have no runs to compare"
        raise UsageError(
            "do not go together", where="--against, --compare and --baselines", hint=hint
        )
    table = _table(arguments)
    failures: list[OrcaError] = []
    failed = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if arguments.strict and (failed or table.broken):
        text = f"{counted(failed, 'run')} failed and {len(table.broken)} cannot be read"
        failures.append(SweepError(text, where="--strict", hint="they are listed below the table"))
    comparison = (
        None if arguments.against is None else compare(table, *pair(arguments.against, "--against"))
    )
    page = Page(table, comparison, rank(table) if arguments.compare else None)
    if arguments.figures is not None:
        _write_figures(page, arguments.figures)
    ending = "" if arguments.out is None else arguments.out.suffix.lower()
    form = "json" if arguments.json else arguments.format or _FORM_OF.get(ending, "table")
    if form == "table" and arguments.out is None:
        return Result(page.record(), page.renderables(terminal.stdout().width), failures)
    text = (
        page_of(page, shlex.join(arguments.typed), arguments.study or "")
        if form == "html"
        else page.text(form)
    )
    if arguments.out is None:
        return Result(page.record(), [text], failures)
    storage.write_text(arguments.out, text)
    terminal.print_error(f"written: {arguments.out}")
    return Result({"schema": 1, "written": str(arguments.out)}, failures=failures)


def _write_figures(page: Page, folder: Path) -> None:
    from orca_cli.report import figures  # imports numpy

    if not figures.is_available():
        raise UnavailableError(
            "figures need matplotlib", where="--figures", hint="pip install 'orca-transfer[plot]'"
        )
    charts = list(figures.all_charts(page.table, page.comparison))
    for chart in charts:
        storage.write_text(folder / f"{chart.name}.svg", figures.svg(chart))
    terminal.print_error(f"written: {counted(len(charts), 'figure')} in {folder}")


def _of_any_program(collection: Collection) -> tuple[Collection, str]:
    """Return the runs as if one program had made them all, and the first line of their table, which says so."""
    programs = sorted({program_name(run) for run in collection.runs if run.facts})
    heading = f"runs of any program are compared (--any-program): {', '.join(programs)}"

    def without(run: Run) -> list[Run]:
        return [dataclasses.replace(run, facts=run.facts | {PROGRAM: "any"})]

    return collection.changed(without), clean(heading)


def _rates(table: Table) -> str:
    """Return a first line for comparisons that says which learning rates the arms had; empty if no run records one."""
    values = Values()
    rates: list[set[str]] = []  # of each set
    for place in range(len(table.columns)):
        cells = (row.cells[place] for row in table.rows)
        typed = (values.lookup(cell.runs[0], RATE) for cell in cells if cell.runs)
        rates.append({canonical(rate) for rate in typed if rate is not None})
    if any(len(of_set) > 1 for of_set in rates):
        return f"arms at different rates, not chosen on validation (--choose {RATE} does that)"
    return "one rate for all arms of a set" if any(rates) else ""


def _table(arguments: argparse.Namespace) -> Table:
    """Return the table of the runs that the options leave."""
    key = arguments.choose
    if key and key == (arguments.against or "").partition("=")[0]:
        hint = f"every arm has one {key}: leave out --choose or --against"
        raise UsageError(f"'{key}' is chosen", where="--against", hint=hint)
    folders = arguments.runs or [Path(default_folders()["runs"])]
    collection = collect(folders)
    if arguments.study is not None:
        collection = select_study(collection, folders, arguments.study)
    values = Values()
    for text in arguments.where:
        collection = where(collection, text, values)
    headings = []
    if arguments.any_program:
        collection, heading = _of_any_program(collection)
        headings.append(heading)
    if key is not None:
        collection, heading, remarks = choose(collection, key, values)
        headings.append(heading)
        table = dataclasses.replace(build_table(collection), remarks=remarks)
    else:
        table = build_table(collection)
        if arguments.compare or (
            arguments.against and not arguments.against.startswith(f"{RATE}=")
        ):
            headings.append(_rates(table))
    table = dataclasses.replace(table, heading="; ".join(filter(None, headings)))
    if arguments.baselines is not None:
        table = with_published(table, arguments.baselines)
    return table
