"""`orca report`: a table of the results, methods as rows and tasks as columns; reads records, writes nothing in runs."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import webbrowser
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError, SweepError, UnavailableError, UsageError
from orca_cli.report.figures import contents, files
from orca_cli.report.records.collect import collect
from orca_cli.report.records.filters import Values, pair, where
from orca_cli.report.records.study_members import origin_of, select_study
from orca_cli.report.rendering.console import FORMATS, Page
from orca_cli.report.statistics.across import across
from orca_cli.report.statistics.paired import Comparison, compare
from orca_cli.report.tables import published
from orca_cli.report.tables.choice import RATE, choose, rates_of
from orca_cli.report.tables.rows import merged, ordered
from orca_cli.report.tables.table import Table, build_table
from orca_cli.runs import studies
from orca_cli.terminal import Result

MARGIN = 0.5

EXAMPLES = """\
examples:
  orca report                                  all runs of ./runs (or $ORCA_RUNS)
  orca report runs/digits                      one task; also a single run, or several folders
  orca report --task digits --metric otdd --metric none
  orca report --where train.lr=1e-4,2e-4 --by body,train.lr --sort digits      rows by any settings, the best on digits first
  orca report --study alignment                a study's runs only: its sets as columns, its arms as rows
  orca report --study alignment --against metric=none --where body=minilm      does each metric help, and by how much
  orca report --study alignment --compare      methods over all tasks: profiles, ranks, every pair with p
  orca report --study table3 --choose train.lr --against arm=naive             each arm at its own rate, chosen on validation
  orca report --baselines docs/published.csv   others' results below: lines of task,method,error,source
  orca report --format latex --out table.tex   for a paper; md, csv and json as well
  orca report --open                           the same and more as one page in a browser; --format html --out page.html
  orca report --figures figures                every figure as SVG, PNG and PDF
  orca report --strict                         exit code 3 if a run has failed or cannot be read

Seeds of one method are averaged; runs that differ in a setting get rows of their own. Runs that are not completed are
counted in their cell and listed with the reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "A table of the results: methods as rows, tasks as columns, mean and deviation over seeds."
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs; default: $ORCA_RUNS, else ./runs"
    )
    parser.add_argument(
        "--format", choices=(*FORMATS, "html"), default="table", help="default: table; --json is short for json"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of standard output")
    for key in ("task", "metric"):
        parser.add_argument(
            f"--{key}", action="append", default=[], metavar="NAME", help=f"only this {key}; may be repeated"
        )
    parser.add_argument("--study", metavar="NAME", help="only the runs of this study, named by its axes")
    text = "only runs with this, of any setting, typed, decided or left as it is; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "a row for each combination of values of these keys; what differs besides is averaged"
    parser.add_argument("--by", metavar="KEY,...", help=text)
    text = (
        "each arm at its own value of this setting, the one with the lowest validation error on the lowest seed; the other "
        "seeds alone are shown and judged"
    )
    parser.add_argument("--choose", metavar="KEY", help=text)
    text = "rows by the error on a task, by rank, time (of a run) or name; default: name"
    parser.add_argument("--sort", metavar="TASK|rank|time|name", help=text)
    text = (
        "pair runs that differ in KEY only with those of KEY=VALUE: mean gain, 95 %% interval, exact p, a sentence each"
    )
    parser.add_argument("--against", metavar="KEY=VALUE", help=text)
    text = "all methods over all tasks: performance profiles, mean ranks, every pair"
    parser.add_argument("--compare", action="store_true", help=text)
    text = "with --against: a mean gain within +-X (points, or %% of the error) counts as none; default: 0.5"
    parser.add_argument("--margin", type=float, metavar="X", help=text)
    text = (
        "other people's results as rows: lines of task,method,error,source; errors in units of result.json (fractions)"
    )
    parser.add_argument("--baselines", type=Path, metavar="FILE.csv", help=text)
    text = "show the page (--format html) in a browser; written to --out, or orca-report.html"
    parser.add_argument("--open", action="store_true", help=text)
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="write the figures as SVG, PNG and PDF as well")
    parser.add_argument(
        "--figures-as",
        default=",".join(files.FORMATS),
        metavar="LIST",
        help="default: svg,png,pdf; only svg needs no matplotlib",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 3 if runs failed, died or cannot be read")


def execute(arguments: argparse.Namespace) -> Result:
    """Return the table with the values of all seeds, or write it to a file."""
    _check(arguments)
    folders = arguments.runs or [Path(default_folders()["runs"])]
    table = _table(arguments, folders)
    failures: list[OrcaError] = []
    failed = sum(run.state in ("failed", "dead") for run in table.unfinished)
    if arguments.strict and (failed or table.broken):
        text = f"{failed} runs failed and {len(table.broken)} cannot be read"
        failures.append(SweepError(text, where="--strict", hint="they are listed below the table"))
    page = Page(table, _comparison(table, folders, arguments), across(table) if arguments.compare else None)
    form = "json" if arguments.json else "html" if arguments.open else arguments.format
    if arguments.figures is not None:
        failures += _write_figures(page, arguments)
    if form == "html":
        return _html(page, arguments, folders, failures)
    if arguments.out is not None:
        storage.write_text(arguments.out, page.text(form))
        terminal.print_error(f"written: {arguments.out}")
        return Result({"schema": 1, "written": str(arguments.out)}, failures=failures)
    shown: list[RenderableType] = []
    shown += page.renderables(terminal.stdout().width) if form == "table" else [page.text(form)]
    study_names = sorted({name for folder in folders for name in studies.names(folder)}) if form == "table" else []
    if study_names and arguments.study is None:
        names = " or ".join(f"--study {name}" for name in study_names)
        shown.append(Text(f"- some runs may belong to a study, which names them: {names}"))
    return Result(page.record(), shown, failures)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    files.formats_of(arguments.figures_as)
    for one, other, hint in (
        ("against", "baselines", "others' results have no runs to compare"),
        ("compare", "baselines", "others' results have no runs to compare"),
        ("against", "compare", "ask for one after the other"),
        ("against", "by", "runs are paired by all of their settings"),
        ("against", "sort", "it is about the rows of the table"),
        ("compare", "sort", "it is about the rows of the table"),
    ):
        if getattr(arguments, one) and getattr(arguments, other):
            raise UsageError(f"does not go with --{one}", where=f"--{other}", hint=hint)
    named = {"by": (arguments.by or "").split(","), "against": [(arguments.against or "").partition("=")[0]]}
    for option, keys in named.items():
        if arguments.choose and arguments.choose in keys:
            hint = f"every arm has one {arguments.choose}: leave out --choose or --{option}"
            raise UsageError(f"'{arguments.choose}' is chosen", where=f"--{option}", hint=hint)
    if arguments.open and (arguments.json or arguments.format not in ("table", "html")):
        raise UsageError("shows a page", where="--open", hint="leave --json and --format out, or --open")


def _table(arguments: argparse.Namespace, folders: list[Path]) -> Table:
    """Return the table of the runs that the options leave."""
    collection = collect(folders)
    if arguments.study is not None:
        collection = select_study(collection, folders, arguments.study)
    values = Values()
    for key in ("task", "metric"):
        if names := getattr(arguments, key):
            collection = where(collection, f"{key}={','.join(names)}", values, f"--{key}")
    for text in arguments.where:
        collection = where(collection, text, values)
    heading, remarks = "", list[str]()
    if arguments.choose is not None:
        collection, heading, remarks = choose(collection, arguments.choose, values)
    table = build_table(collection) if arguments.by is None else merged(collection, arguments.by, values)
    if arguments.choose is not None:
        table = dataclasses.replace(table, choice=arguments.choose, heading=heading, remarks=remarks)
    elif arguments.compare or (arguments.against and not arguments.against.startswith(f"{RATE}=")):
        table = dataclasses.replace(table, heading=rates_of(table))
    if arguments.sort is not None:
        table = ordered(table, arguments.sort)
    if arguments.baselines is not None:
        results = published.fitting(published.read(arguments.baselines), table, str(arguments.baselines))
        table = dataclasses.replace(table, published=results)
    return table


def _html(page: Page, arguments: argparse.Namespace, folders: list[Path], failures: list[OrcaError]) -> Result:
    """Return or write the page, and show it."""
    from orca_cli.report.page import document

    origin = origin_of(folders, arguments.study, default_folders()["runs"])
    html = document.page(page.table, page.comparison, shlex.join(arguments.typed), origin)
    out = arguments.out or (Path("orca-report.html") if arguments.open else None)
    if out is None:
        return Result({"schema": 1}, [html], failures)
    storage.write_text(out, html)
    terminal.print_error(f"written: {out}")
    if arguments.open and not webbrowser.open(out.resolve().as_uri()):
        terminal.log.warning(f"no browser was found: open {out} yourself")
    return Result({"schema": 1, "written": str(out)}, failures=failures)


def _write_figures(page: Page, arguments: argparse.Namespace) -> list[OrcaError]:
    """Write the figures; returns why some are missing."""
    charts = contents.all_charts(page.table, page.comparison)
    try:
        written = files.write(charts, arguments.figures, files.formats_of(arguments.figures_as))
    except UnavailableError as error:
        return [error]
    terminal.print_error(f"written: {len(written)} figures in {arguments.figures}")
    return []


def _comparison(table: Table, folders: list[Path], arguments: argparse.Namespace) -> Comparison | None:
    """Return the comparison that --against asks for; None without it."""
    margin = MARGIN if arguments.margin is None else arguments.margin
    if not 0 <= margin < math.inf:
        raise UsageError(f"{margin} is out of range", where="--margin", hint="allowed: 0 or more")
    if arguments.against is None:
        if arguments.margin is not None:
            raise UsageError("applies only to a comparison", where="--margin", hint="add --against metric=none")
        return None
    axis, value = pair(arguments.against, "--against")
    return compare(table, axis, value, margin, origin_of(folders, arguments.study, default_folders()["runs"]))
