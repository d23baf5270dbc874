"""A report as one self-contained HTML page: one style sheet, one script, text; nothing from the network.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing. The template escapes every text, and control characters are written out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orca_cli import __version__
from orca_cli.exceptions import DataError
from orca_cli.report.credits import CITATION, credits_of
from orca_cli.report.figures import contents
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.contents import Group, groups_of, title_of
from orca_cli.report.figures.svg import draw, style
from orca_cli.report.records import details
from orca_cli.report.records.collect import Run, Score
from orca_cli.report.records.details import Baseline
from orca_cli.report.records.study_members import Origin
from orca_cli.report.statistics import across
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.verdicts import Claim, claim_of, layouts_of
from orca_cli.report.tables.holes import holes_of
from orca_cli.report.tables.layout import Entry, Layout, alarms_of, layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Table

_LONGEST = 2000  # characters of a text, such as a command
_ALWAYS = ("completed runs", "methods", "tasks")  # tiles that are shown with 0 too
_MOST_ROWS = 1000  # of a table with a row for each run
_MOST_ENVIRONMENTS = 20
_OPEN_TASKS = 3  # whose curves are shown without a click
_LEAST_FILTERED = 5  # rows; shorter tables need no filter
_SETTINGS = ("settings", "with")  # columns that hold several key=value
_NUMBER = re.compile(r"(?:\* )?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")  # after the star of a marked cell


@dataclass(frozen=True)
class Cell:
    """A text, smaller lines below it, the number that it is sorted by, and its class in the style sheet."""

    text: str
    value: float | None = None
    look: str = ""
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageTable:
    """A table that a click on a header sorts; the rows of `foot` stay below, whatever the order."""

    name: str
    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    is_filtered: bool = False


@dataclass(frozen=True)
class Block:
    """A part of a section: whatever is given, in this order. `summary` folds the charts."""

    heading: str = ""
    text: str = ""
    claims: Sequence[Claim] = ()
    charts: Sequence[Chart] = ()
    summary: str = ""
    is_open: bool = False
    table: PageTable | None = None
    caption: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A section with its anchor."""

    name: str
    heading: str
    blocks: list[Block]


def page(table: Table, comparison: Comparison | None, command: str, origin: Origin) -> str:
    """Return the page, which names the command that made it; the same records give the same bytes."""
    groups = groups_of(table)
    runs = [run for row in table.rows for cell in row.cells for run in cell.runs]
    newest = max((run.path.name[:10] for run in runs), default="")
    shown: list[Section] = sections(table, comparison, groups, origin)
    sheet, script = _file("style.css") + style(), _file("script.js")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_cleaned
    )
    return environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        script=Markup(script),
        draw=_drawn,
        study=origin.study,
        command=command,
        version=__version__,
        newest=newest if newest.startswith("20") else "",
        tiles=_tiles(table, runs),
        alarms=alarms_of(table),
        rates=table.heading,
        sections=shown,
        citation=CITATION.splitlines(),
        credits=credits_of(*zip(*(run.conf_names for run in runs), strict=True)) if runs else [],
    )


def _cleaned(value: Any) -> Any:
    return clean(value, longest=_LONGEST) if type(value) is str else value  # Markup is ours


def _drawn(chart: Chart) -> Markup:
    return Markup(draw(chart, standalone=False))  # it escapes its texts


def _tiles(table: Table, runs: list[Run]) -> list[tuple[str, int]]:
    states = Counter(run.state for run in table.unfinished)
    tiles = {
        "completed runs": len(runs),
        "methods": len(table.rows),
        "tasks": len({column.name for column in table.columns}),
        "seeds": len({run.seed for run in runs}),
        "running": states["running"],
        "failed or stopped": states.total() - states["running"],
        "unreadable": len(table.broken),
    }
    return [(name, count) for name, count in tiles.items() if count or name in _ALWAYS]


def _file(name: str) -> str:
    return resources.files("orca_cli.report.page").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def sections(table: Table, comparison: Comparison | None, groups: Sequence[Group], origin: Origin) -> list[Section]:
    """Return the sections of a page that have anything to show."""
    built = (
        ("verdicts", "Verdicts", _verdicts(comparison, table)),
        ("results", "Results", _results(table)),
        ("across", "Over all tasks", _over_all_tasks(table)),
        ("baselines", "Simple models", _baselines(table, groups)),
        ("curves", "Curves", _curves(table, groups)),
        ("times", "Times", _times(table, groups)),
        ("runs", "Runs", _runs(table, groups)),
        ("holes", "What is missing", _holes(table, origin)),
        ("environment", "Environment", _environment(groups)),
    )
    shown = [Section(name, heading, list(blocks)) for name, heading, blocks in built]
    return [section for section in shown if section.blocks]


def _verdicts(comparison: Comparison | None, table: Table) -> Iterator[Block]:
    if comparison is None:
        return
    text = (
        f"Against {comparison.axis}={comparison.baseline}, in pairs of equal seed and settings. A mean gain within "
        f"±{comparison.margin:g} counts as none."
    )
    claims = [claim_of(one, comparison) for one in comparison.overall]
    first, second = layouts_of(comparison, table)
    first = replace(first, notes=first.notes[len(claims) :])  # without the sentences
    yield Block(text=text, claims=claims, charts=list(contents.gains(comparison)))
    yield _explained(first, "gains")
    yield Block(heading="Set by set")
    yield _explained(second, "gains-by-set")


def _results(table: Table) -> Iterator[Block]:
    if (layout := layout_of(table)).rows:
        shown = _layout_table(layout, "table-of-results", len(table.rows), holes=True)
        yield Block(text=layout.caption, table=shown, notes=layout.notes)
        yield Block(charts=list(contents.errors(table)))


def _over_all_tasks(table: Table) -> Iterator[Block]:
    """Yield profiles, ranks and pairs of the methods; nothing with fewer than two methods or tasks."""
    if len(table.columns) < 2:
        return
    try:
        overview = across.across(table)
    except DataError as error:
        yield Block(text=f"{error.what}; {error.hint}")
        return
    if len(overview.methods) < 2 or not overview.profiles:
        return
    yield Block(charts=list(contents.over_tasks(overview)))
    for place, layout in enumerate(across.layouts_of(overview, table), 1):
        yield _explained(layout, f"across-{place}")


def _baselines(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    """Yield errors and seconds of simple models by task, and how often the runs are better."""
    rows = []
    for column in table.columns:
        scores = [score for group in groups if group.column == column for score in group.scores]
        errors = _errors([score.value for score in scores if score.value is not None], column)
        measured: dict[str, list[tuple[Baseline, float | None]]] = defaultdict(list)
        for model, value in ((model, score.value) for score in scores for model in score.models):
            measured[model.name].append((model, value))
        for name, pairs in sorted(measured.items()):
            seconds = [model.seconds for model, _ in pairs if model.seconds is not None]
            is_better = [value < model.error for model, value in pairs if value is not None]
            about = Counter(model.about for model, _ in pairs if model.about).most_common(1)
            wins = f"{sum(is_better)} of {len(is_better)}"
            rows.append(
                {
                    "task": Cell(title_of(column, table.columns)),
                    "simple model": Cell(name),
                    "its error": _errors([model.error for model, _ in pairs], column),
                    "its seconds": _number(mean_of(seconds) if seconds else None),
                    "runs' errors": errors,
                    "runs that are better": _number(mean_of(is_better) if is_better else None, wins),
                    "settings": Cell(about[0][0] if about else "", look="w"),
                }
            )
    text = (
        "Simple models on the same split of the same data, fitted beside the runs. Errors: lowest to highest over runs; per "
        "cent where the task's error is one."
    )
    if rows:
        yield Block(text=text, table=_listing("table-of-baselines", rows))


def _errors(values: Sequence[float], column: Column) -> Cell:
    """Return a cell with the range of some errors, which is sorted by their mean."""
    if not values:
        return _number(None)
    shown = [_error(value, column).text for value in (min(values), max(values))]
    return _number(mean_of(values), " to ".join(dict.fromkeys(shown)))


def _error(value: float | None, column: Column) -> Cell:
    return _number(100 * value, "{:.2f}".format) if value is not None and column.percent else _number(value)


def _curves(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    by_column: dict[Column, list[Chart]] = defaultdict(list)
    for column, chart in contents.curves(groups, table):
        by_column[column].append(chart)
    if not by_column:
        return
    yield Block(
        text="Each line is the mean over a method's seeds, the band from the lowest to the highest. Dotted: the floor, "
        "the distance between two halves of the source data. Circle: the epoch that was kept, unless it is the last."
    )
    if (count := len(contents.drawn(groups))) < len(groups):
        yield Block(text=f"Curves of {count} of {len(groups)} methods on tasks are drawn; --task and --where choose.")
    for place, (column, charts) in enumerate(by_column.items()):
        yield Block(charts=charts, summary=title_of(column, table.columns), is_open=place < _OPEN_TASKS)


def _times(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    """Yield the mean time of each stage by method and task, and the ratio of stages 2 and 3."""
    rows = []
    for group in groups:
        if timed := [score.times for score in group.scores if score.times]:
            times = {stage: [one[stage] for one in timed if stage in one] for stage in details.STAGES}
            means = {stage: mean_of(seconds) if seconds else None for stage, seconds in times.items()}
            align, finetune = means["align"], means["finetune"]
            ratio = align / finetune if align is not None and finetune else None
            rows.append(
                {"task": Cell(title_of(group.column, table.columns)), "method": Cell(group.name)}
                | {"runs": _number(len(timed), str)}
                | {stage: _number(mean, _seconds) for stage, mean in means.items()}
                | {"align / finetune": _number(ratio, "{:.2f}".format)}
            )
    text = (
        "Wall time of each stage, mean over runs. What was taken from another run or from the cache took no time here."
    )
    if rows:
        yield Block(text=text, charts=list(contents.times(groups)), table=_listing("table-of-times", rows))


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _runs(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    """Yield a table of the completed runs: error, choices, distance, times."""
    every = [(group, *pair) for group in groups for pair in zip(group.runs, group.scores, strict=True)]
    rows = []
    for group, run, score in every[:_MOST_ROWS]:
        decided = ", ".join(f"{key}={value}" for key, value in run.decided.items())
        rows.append(
            {
                "method": Cell(f"{title_of(group.column, table.columns)}: {group.name}"),
                "seed": _number(run.seed, str),
                "error": _error(score.value, group.column),
                "validation": _error(score.validation, group.column),
                "align steps": _number(score.steps, str),
                "distance": _distance(score),
                "epoch": _number(score.epoch, f"{score.epoch} ({score.chosen_by})"),
                "align": _number(score.times.get("align"), _seconds),
                "finetune": _number(score.times.get("finetune"), _seconds),
                "test reads": _number(score.test_reads, str),
                "decided by the run": Cell(decided if len(decided) <= 200 else f"{decided[:200]}..."),
                "folder": Cell(run.path.name),
            }
        )
    if not rows:
        return
    text = (
        "Every completed run: its test error, what was kept of alignment and fine-tuning, and how often the test split was "
        "read. Errors in per cent where the task's is one. distance: before > after alignment (floor)."
    )
    if len(rows) < len(every):
        text += f" The first {len(rows)} of {len(every)} runs; --task, --metric and --where choose."
    yield Block(text=text, table=_listing("table-of-runs", rows, is_filtered=len(rows) >= _LEAST_FILTERED))


def _distance(score: Score) -> Cell:
    if score.before is None or score.after is None:
        return _number(None)
    floor = "" if score.floor is None else f" ({score.floor:.3g})"
    return _number(score.after, f"{score.before:.3g} > {score.after:.3g}{floor}")


def _holes(table: Table, origin: Origin) -> Iterator[Block]:
    """Yield what is missing, and the command that fills each hole."""
    missing = holes_of(table, origin)
    if not missing:
        yield Block(text="Nothing: every method has every seed of its task, and every run is completed.")
        return
    rows = [
        {"what": Cell(hole.what), "state": Cell(hole.state), "reason": Cell(hole.reason, look="w")}
        | {"command that fills it": Cell(hole.command, look="k")}
        for hole in missing[:_MOST_ROWS]
    ]
    words = ", ".join(f"{count} {state}" for state, count in Counter(hole.state for hole in missing).items())
    more = f" The first {_MOST_ROWS} are listed." if len(missing) > _MOST_ROWS else ""
    text = f"{words}.{more} A command repeats no completed run, and resumes an interrupted one."
    yield Block(text=text, table=_listing("table-of-holes", rows))


def _environment(groups: Sequence[Group]) -> Iterator[Block]:
    """Yield the environments of the runs: versions, device, machine."""
    every = [details.environment(run.path) for group in groups for run in group.runs]
    counts = Counter(one for one in every if one is not None)
    rows = [
        {"python": Cell(python), "device": Cell(device), "machine": Cell(machine, look="w")}
        | {"packages": Cell(packages, look="w"), "runs": _number(count, str)}
        for (python, device, machine, packages), count in counts.most_common(_MOST_ENVIRONMENTS)
    ]
    if not rows:
        return
    if len(counts) > 1:
        yield Block(text="The runs were made in different environments: equal seeds do not give equal bits.")
    if unknown := every.count(None):
        yield Block(text=f"{unknown} runs do not say in what they were made.")
    yield Block(table=_listing("table-of-environments", rows))


def _number(value: float | None, shown: str | Callable[[float], str] = "{:.4g}".format) -> Cell:
    """Return a cell with a number, shown as the given text or formatted by a function; a dash for None."""
    if value is None:
        return Cell("–", look="n")
    return Cell(shown if isinstance(shown, str) else shown(value), value, "n")


def _listing(name: str, rows: Sequence[dict[str, Cell]], *, is_filtered: bool = False) -> PageTable:
    """Return a table of one or more rows, header -> cell; columns of numbers are sorted by them."""
    heads = [Cell(head, look="n" if cell.look == "n" else "") for head, cell in rows[0].items()]
    return PageTable(name, heads, [list(row.values()) for row in rows], (), is_filtered)


def _explained(layout: Layout, name: str) -> Block:
    return Block(
        table=_layout_table(layout, name, len(layout.rows)) if layout.rows else None,
        caption=layout.caption,
        notes=layout.notes,
    )


def _layout_table(layout: Layout, name: str, methods: int, *, holes: bool = False) -> PageTable:
    """Return a layout as a table whose first column names a row.

    Args:
        layout: of the table.
        name: of the table in the document.
        methods: how many rows are sorted; those behind them (simple models, others' results) stay below.
        holes: an empty cell of a method is something that was not run.
    """
    heads = [Cell(" · ".join(filter(None, layout.names)))]
    for place, (first, *below) in enumerate(layout.columns):
        heads.append(Cell(first, look="n alarm" if place in layout.alarmed else "n", below=tuple(below)))
    heads += [Cell("rank", look="n")] if layout.ranked else []
    rows = []
    for place, (names, entries, rank) in enumerate(layout.rows):
        is_method = place < methods
        has_settings = layout.names[-1] in _SETTINGS and is_method and bool(names[-1])
        fields, settings = (names[:-1], names[-1]) if has_settings else (names, "")
        first_cell = Cell(" · ".join(filter(None, fields)), below=tuple(filter(None, settings.split(", "))))
        ranks = [_sorted(Entry(rank), is_hole=False)] if layout.ranked else []
        rows.append([first_cell, *(_sorted(entry, is_hole=holes and is_method) for entry in entries), *ranks])
    return PageTable(name, heads, rows[:methods], rows[methods:], holes and methods >= _LEAST_FILTERED)


def _sorted(entry: Entry, *, is_hole: bool) -> Cell:
    """Return a cell that is sorted by the number that it begins with."""
    below = (entry.rest,) if entry.rest else ()
    if match := _NUMBER.match(entry.main):
        return Cell(entry.main, float(match[1]), "n best" if entry.best else "n", below)
    if is_hole and entry.main == "-" and not below:
        return Cell("not run", look="n hole")
    return Cell("–" if entry.main == "-" else entry.main, look="n", below=below)
