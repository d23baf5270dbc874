"""`orca report`: tables of the results, one for each data set or one for all.

It reads the records of runs, and writes nothing to their folders.
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

# Suffix of a file -> format.
_FORMAT_OF = {
    ".html": "html",
    ".md": "md",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
}
EXAMPLES = """\
examples:
  orca report                                  \
all data sets in ./runs (or $ORCA_RUNS), newest first
  orca report --last                           only the data set of the newest run, with all notes
  orca report --name my                        only the data set `my`
  orca report runs/digits                      \
only the runs in this folder; several folders and single runs are allowed
  orca report --where task=digits --where train.lr=1e-4,2e-4      only runs with these settings
  orca report --study alignment                \
only the runs of a study, with data sets as columns and methods as rows
  orca report --study alignment --against metric=none --where body=minilm      \
how much each metric reduces the error, compared with no alignment
  orca report --study alignment --compare      \
rank the methods over all tasks, and test each method against the best
  orca report --study table3 --choose train.lr --against arm=naive             \
compare methods, each at the learning rate that is best for it on validation data
  orca report --against metric=none --any-program      \
also compare runs of different versions of orca
  orca report --baselines docs/published.csv   \
add results from papers; the file has the columns task,method,error,source
  orca report --out table.tex                  \
write a LaTeX table; the suffixes .md, .csv and .json work as well
  orca report --out page.html                  write a web page with tables and figures
  orca report --figures figures                write every figure as SVG
  orca report --strict                         \
exit with code 3 if a run failed or cannot be read

A row averages the runs that differ only in their seed. Runs that are not completed are counted \
below the table; `orca runs list` shows why they are not completed."""
ARGUMENTS = (
    RUNS,
    argument(
        "--format",
        choices=(*FORMATS, "html"),
        help="format of the output; default: json if --json is given, else by the suffix of --out "
        "(.html, .md, .tex, .csv, .json), else table",
    ),
    argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output"),
    argument(
        "--study",
        metavar="NAME",
        help="only the runs of this study (`orca list studies` shows all); methods have the names "
        "that the study gives them",
    ),
    argument("--name", metavar="NAME", help="only the runs on this data set"),
    argument("--last", action="store_true", help="only the data set of the newest run"),
    WHERE,
    argument(
        "--choose",
        metavar="KEY",
        help="for each arm (method), choose the value of the setting KEY that has the lowest "
        "validation error on one seed; only the runs with other seeds are shown and compared",
    ),
    argument(
        "--against",
        metavar="KEY=VALUE",
        help="compare VALUE with all other values of KEY, in pairs of runs that differ only in "
        "KEY; show the mean gain, its 95 %% interval and an exact p-value",
    ),
    argument(
        "--compare",
        action="store_true",
        help="compare all methods over all tasks: mean ranks, and an exact p-value of each method "
        "against the method with the best mean rank",
    ),
    argument(
        "--any-program",
        action="store_true",
        help="compare runs even if different versions of the program made them; without this "
        "option, such runs are not paired",
    ),
    argument(
        "--baselines",
        type=Path,
        metavar="FILE.csv",
        help="add published results as rows; the file has the columns task,method,error,source; "
        "errors are in the units of result.json (fractions, not per cent)",
    ),
    argument("--figures", type=Path, metavar="FOLDER", help="also write the figures as SVG files"),
    argument(
        "--strict",
        action="store_true",
        help="exit with code 3 if a run failed, was killed or cannot be read",
    ),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the table of results with the values of all seeds, or write it to a file."""
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
    # A table on a terminal fits its width; other formats do not depend on the terminal.
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
        # A page shows the command that wrote it.
        text = page_of(page, shlex.join(arguments.typed), arguments.study or "")
    else:
        text = page.text(form)
    if arguments.out is None:
        return Result(page.record(), [text], failures)
    storage.write_text(arguments.out, text)
    # On standard error, since standard output is for results.
    terminal.print_error(f"wrote {arguments.out}")
    return Result({"schema": 1, "written": str(arguments.out)}, failures=failures)


def _check_exclusive(arguments: argparse.Namespace) -> None:
    """Raise UsageError if the command line has options that exclude each other."""
    modes = (arguments.against, arguments.compare, arguments.baselines)
    if sum(bool(mode) for mode in modes) > 1:
        hint = (
            "use only one of these options; --baselines adds published results, which have no runs "
            "to compare"
        )
        options = "--against, --compare, --baselines"
        raise UsageError("cannot be combined with each other", where=options, hint=hint)
    key = arguments.choose
    # Each arm keeps only one value of a chosen key, so no runs remain that differ in the key.
    if key and key == _axis(arguments):
        raise UsageError(
            f"cannot compare by {key}: with --choose {key}, each arm keeps one value of {key}",
            where="--against",
            hint="remove --choose or --against",
        )


def _axis(arguments: argparse.Namespace) -> str:
    """Return the KEY of --against; empty without it."""
    against: str = arguments.against or ""
    return against.partition("=")[0]


def _form(arguments: argparse.Namespace) -> str:
    """Return the format: the option --format, or else the suffix of --out."""
    if arguments.json:
        return "json"
    if arguments.format:
        return str(arguments.format)
    if arguments.out is None:
        return "table"
    # A file with any other suffix gets the table as text.
    return _FORMAT_OF.get(arguments.out.suffix.lower(), "table")


def _strict_failures(table: Table) -> list[OrcaError]:
    """Return the failure of --strict if runs failed, were killed or cannot be read."""
    # Interrupted and running runs have not failed: rerunning their command completes them.
    failed_count = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if not failed_count and not table.broken:
        return []
    message = f"{counted(failed_count, 'run')} failed and {len(table.broken)} cannot be read"
    return [SweepError(message, where="--strict", hint="`orca runs list` shows why")]


def _write_figures(page: Page, folder: Path) -> None:
    from orca_cli.report import figures  # imports numpy

    if not figures.is_available():
        raise UnavailableError(
            "needs the package 'matplotlib'",
            where="--figures",
            hint="install it: pip install 'orca-transfer[plot]'",
        )
    charts = list(figures.all_charts(page.table, page.comparison))
    for chart in charts:
        storage.write_text(folder / f"{chart.name}.svg", figures.svg(chart))
    terminal.print_error(f"wrote {counted(len(charts), 'figure')} to {folder}")


def _is_overview(arguments: argparse.Namespace) -> bool:
    """Return whether no option asks for one table of all data sets."""
    asked = ("format", "study", "choose", "against", "compare", "baselines", "any_program")
    return not any(getattr(arguments, name) for name in asked)


def _selected(arguments: argparse.Namespace, values: Values) -> Collection:
    """Return the runs that the options select; `values` caches their settings for later use."""
    folders = arguments.runs or [default_folders()["runs"]]
    collection = collect(folders)
    # First: the runs then have the names of the study, which --where may use.
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
    """Return the table of the selected runs, after the options have changed it."""
    # Texts for the table's first line.
    headings = []
    remarks: list[str] = []
    if arguments.any_program:
        # After --where, which may select by program; the programs are made equal here.
        headings.append(_programs_text(collection))
        collection = collection.changed(_of_any_program)
    if arguments.choose is not None:
        # After all selection, since the choice is made only among runs that are shown.
        collection, heading, remarks = choose(collection, arguments.choose, values)
        headings.append(heading)
    table = build_table(collection)
    # Arms at different learning rates also compare the rates, which the heading has to say.
    compares_arms = arguments.compare or _axis(arguments) not in ("", RATE)
    if compares_arms and arguments.choose is None:
        headings.append(_rates_text(table))
    heading = "; ".join(text for text in headings if text)
    table = dataclasses.replace(table, heading=heading, remarks=remarks)
    # Last, since published rows have no runs to select.
    if arguments.baselines is not None:
        table = with_published(table, arguments.baselines)
    return table


def _programs_text(collection: Collection) -> str:
    """Return the heading of --any-program, which names the programs of the runs."""
    programs = {program_name(run) for run in collection.runs if run.facts}
    programs_text = ", ".join(sorted(programs))
    return clean(f"runs of several program versions are compared (--any-program): {programs_text}")


def _of_any_program(run: Run) -> list[Run]:
    """Return a run whose record does not say which program made it."""
    # Only runs with the same program are paired.
    return [dataclasses.replace(run, facts=run.facts | {PROGRAM: "any"})]


def _rates_text(table: Table) -> str:
    """Return the heading of a comparison that says how the arms' learning rates were set.

    It is empty if no run has a recorded learning rate.
    """
    values = Values()
    heading = ""
    for column in range(len(table.columns)):
        rates = _rates(table, column, values)
        if len(rates) > 1:
            return (
                "the arms have different learning rates, which were not chosen on validation data; "
                f"to choose them, add --choose {RATE}"
            )
        if rates:
            heading = "all arms on a data set have the same learning rate"
    return heading


def _rates(table: Table, column: int, values: Values) -> set[str]:
    """Return the learning rates of all arms in one column of the table."""
    rates = set()
    for row in table.rows:
        runs = row.cells[column].runs
        if not runs:
            continue
        # The runs of a cell differ only in their seed.
        rate = values.lookup(runs[0], RATE)
        if rate is not None:
            # 1e-4 and 0.0001 are the same rate.
            rates.add(canonical(rate))
    return rates
