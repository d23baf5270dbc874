"""`orca report`: tables of the results, by data set or as one.

It reads records, and writes nothing in runs.
"""

import argparse
import dataclasses
import shlex
from pathlib import Path

from rich.console import RenderableType

from orca_cli import storage, terminal
from orca_cli.commands.options import RUNS, WHERE, argument
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import (
    DataError,
    OrcaError,
    SweepError,
    UnavailableError,
    UsageError,
    suggest,
)
from orca_cli.report.collect import Collection, Run, collect
from orca_cli.report.conditions import PROGRAM, program_name
from orca_cli.report.formats import FORMATS, Page, page_of
from orca_cli.report.layout import clean
from orca_cli.report.overview import by_data_set, overview
from orca_cli.report.paired import compare
from orca_cli.report.published import with_published
from orca_cli.report.ranks import rank
from orca_cli.report.selection import RATE, Values, choose, pair, select_study, where
from orca_cli.report.table import Table, build_table
from orca_cli.runs.settings import canonical
from orca_cli.terminal import Result, counted

# Ending of a file -> format.
_FORMAT_OF = {
    ".html": "html",
    ".md": "md",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
}
EXAMPLES = """\
examples:
  orca report                                  all data sets of ./runs (or $ORCA_RUNS), newest first
  orca report --last                           only the data set of the newest run, with all notes
  orca report --name my                        only the data set `my`
  orca report runs/digits                      one data set; also a single run, or several folders
  orca report --where task=digits --where train.lr=1e-4,2e-4      runs by any settings
  orca report --study alignment                \
a study's runs only: its sets as columns, its arms as rows
  orca report --study alignment --against metric=none --where body=minilm      \
does each metric help, and by how much
  orca report --study alignment --compare      \
methods over all tasks: mean ranks, each against the first
  orca report --study table3 --choose train.lr --against arm=naive             \
each arm at its own rate, chosen on validation
  orca report --against metric=none --any-program      \
runs of several versions of the program, paired all the same
  orca report --baselines docs/published.csv   \
others' results below: lines of task,method,error,source
  orca report --out table.tex                  for a paper; md, csv and json as well
  orca report --out page.html                  the same and more as one page
  orca report --figures figures                every figure as SVG
  orca report --strict                         exit code 3 if a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own. Runs that \
are not completed are
counted; orca runs list says why."""
ARGUMENTS = (
    RUNS,
    argument(
        "--format",
        choices=(*FORMATS, "html"),
        help="default: that of --out by its ending, else table; --json is short for json",
    ),
    argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output"),
    argument("--study", metavar="NAME", help="only the runs of this study, named by its axes"),
    argument("--name", metavar="NAME", help="only the runs on this data set"),
    argument("--last", action="store_true", help="only the data set of the newest run"),
    WHERE,
    argument(
        "--choose",
        metavar="KEY",
        help="each arm at its own value of this setting, chosen by validation on the lowest seed; "
        "the other seeds are judged",
    ),
    argument(
        "--against",
        metavar="KEY=VALUE",
        help="pair runs that differ in KEY only with those of KEY=VALUE: mean gain, 95 %% "
        "interval, exact p",
    ),
    argument(
        "--compare",
        action="store_true",
        help="all methods over all tasks: mean ranks, and each method against the first, with "
        "exact p",
    ),
    argument(
        "--any-program",
        action="store_true",
        help="compare runs whatever version of the program made them; without it, runs of "
        "different sources are no pair",
    ),
    argument(
        "--baselines",
        type=Path,
        metavar="FILE.csv",
        help="other people's results as rows: lines of task,method,error,source; errors as in "
        "result.json (fractions)",
    ),
    argument("--figures", type=Path, metavar="FOLDER", help="write the figures as SVG as well"),
    argument(
        "--strict", action="store_true", help="exit with 3 if runs failed, died or cannot be read"
    ),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the table with the values of all seeds, or write it to a file."""
    _check_exclusive(arguments)
    values = Values()
    collection = _selected(arguments, values)
    table = _table(collection, arguments, values)
    failures = _strict_failures(table) if arguments.strict else []
    # At most one of the options replaces the table by another view.
    page = Page(table)
    if arguments.against is not None:
        key, reference = pair(arguments.against, "--against")
        page = Page(table, comparison=compare(table, key, reference))
    elif arguments.compare:
        page = Page(table, ranking=rank(table))
    if arguments.figures is not None:
        _write_figures(page, arguments.figures)
    form = _form(arguments)
    # A table on a terminal fits its width; the text of any other format does not depend on it.
    if form == "table" and arguments.out is None:
        console = terminal.stdout()
        if not collection.runs and not collection.broken:
            renderables: list[RenderableType] = ["no run meets the conditions"]
        elif _is_overview(arguments) and len(by_data_set(collection)) > 1:
            words = ["orca", "report", *map(str, arguments.runs)]
            renderables = overview(collection, console, shlex.join(words))
        else:
            renderables = page.renderables(console.width)
        return Result(page.record(), renderables, failures)
    if form == "html":
        # A page shows the command that made it.
        text = page_of(page, shlex.join(arguments.typed), arguments.study or "")
    else:
        text = page.text(form)
    if arguments.out is None:
        return Result(page.record(), [text], failures)
    storage.write_text(arguments.out, text)
    # On standard error, since standard output is for results.
    terminal.print_error(f"written: {arguments.out}")
    return Result({"schema": 1, "written": str(arguments.out)}, failures=failures)


def _check_exclusive(arguments: argparse.Namespace) -> None:
    """Raise UsageError if options are given that do not go together."""
    modes = (arguments.against, arguments.compare, arguments.baselines)
    if sum(bool(mode) for mode in modes) > 1:
        hint = "ask for one after the other; others' results have no runs to compare"
        options = "--against, --compare and --baselines"
        raise UsageError("do not go together", where=options, hint=hint)
    key = arguments.choose
    # Each arm keeps only one value of a chosen key, so that nothing is left to pair by it.
    if key and key == _axis(arguments):
        hint = f"every arm has one {key}: leave out --choose or --against"
        raise UsageError(f"'{key}' is chosen", where="--against", hint=hint)


def _axis(arguments: argparse.Namespace) -> str:
    """Return the KEY of --against; empty without it."""
    against: str = arguments.against or ""
    return against.partition("=")[0]


def _form(arguments: argparse.Namespace) -> str:
    """Return the format: as typed, else by the ending of --out."""
    if arguments.json:
        return "json"
    if arguments.format:
        return str(arguments.format)
    if arguments.out is None:
        return "table"
    # A file with any other ending gets the table as text.
    return _FORMAT_OF.get(arguments.out.suffix.lower(), "table")


def _strict_failures(table: Table) -> list[OrcaError]:
    """Return the failure of --strict if runs failed, died or cannot be read."""
    # Interrupted and running runs have not failed: their command, typed again, completes them.
    failed_count = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if not failed_count and not table.broken:
        return []
    message = f"{counted(failed_count, 'run')} failed and {len(table.broken)} cannot be read"
    return [SweepError(message, where="--strict", hint="orca runs list says why")]


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


def _is_overview(arguments: argparse.Namespace) -> bool:
    """Return whether nothing is typed that asks for one table of all data sets."""
    asked = ("format", "study", "choose", "against", "compare", "baselines", "any_program")
    return not any(getattr(arguments, name) for name in asked)


def _selected(arguments: argparse.Namespace, values: Values) -> Collection:
    """Return the runs that the options select; `values` are kept for later questions."""
    folders = arguments.runs or [default_folders()["runs"]]
    collection = collect(folders)
    # First: the runs then have the names of the study, which --where may ask for.
    if arguments.study is not None:
        collection = select_study(collection, folders, arguments.study)
    for text in arguments.where:
        collection = where(collection, text, values)
    if arguments.name is not None:
        sets = by_data_set(collection)
        if arguments.name not in sets:
            hint = suggest(arguments.name, sets)
            message = f"no run uses the data set '{arguments.name}'"
            raise DataError(message, where="--name", hint=hint)
        collection = sets[arguments.name]
    if arguments.last:
        return next(iter(by_data_set(collection).values()), collection)
    return collection


def _table(collection: Collection, arguments: argparse.Namespace, values: Values) -> Table:
    """Return the table of the selected runs, with what the options make of them."""
    # Texts of the table's first line.
    headings = []
    remarks: list[str] = []
    if arguments.any_program:
        # After --where, which may select by the program that is made equal now.
        headings.append(_programs_text(collection))
        collection = collection.changed(_of_any_program)
    if arguments.choose is not None:
        # After all selection: only among runs that are shown.
        collection, heading, remarks = choose(collection, arguments.choose, values)
        headings.append(heading)
    table = build_table(collection)
    # Arms at different rates would compare the rates as well, and nobody would see it.
    compares_arms = arguments.compare or _axis(arguments) not in ("", RATE)
    if compares_arms and arguments.choose is None:
        headings.append(_rates_text(table))
    heading = "; ".join(text for text in headings if text)
    table = dataclasses.replace(table, heading=heading, remarks=remarks)
    # Last, since published rows have no runs that could be selected.
    if arguments.baselines is not None:
        table = with_published(table, arguments.baselines)
    return table


def _programs_text(collection: Collection) -> str:
    """Return the heading of --any-program, which names the programs of the runs."""
    programs = {program_name(run) for run in collection.runs if run.facts}
    programs_text = ", ".join(sorted(programs))
    return clean(f"runs of any program are compared (--any-program): {programs_text}")


def _of_any_program(run: Run) -> list[Run]:
    """Return a run without the fact which program made it."""
    # Runs are pairs only if this fact is the same.
    return [dataclasses.replace(run, facts=run.facts | {PROGRAM: "any"})]


def _rates_text(table: Table) -> str:
    """Return the heading of a comparison that says how the arms' learning rates were set.

    It is empty if no run records one.
    """
    values = Values()
    heading = ""
    for column in range(len(table.columns)):
        rates = _rates(table, column, values)
        if len(rates) > 1:
            return f"arms at different rates, not chosen on validation (--choose {RATE} does that)"
        if rates:
            heading = "one rate for all arms of a set"
    return heading


def _rates(table: Table, column: int, values: Values) -> set[str]:
    """Return the learning rates of all arms in one column of the table."""
    rates = set()
    for row in table.rows:
        runs = row.cells[column].runs
        if not runs:
            continue
        # The runs of a cell differ in their seed only.
        rate = values.lookup(runs[0], RATE)
        if rate is not None:
            # 1e-4 and 0.0001 are one rate.
            rates.add(canonical(rate))
    return rates
