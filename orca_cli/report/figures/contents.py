"""Which figures a report has, made from its table and the curves of its runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orca_cli.exceptions import DataError
from orca_cli.report.figures.charts import LOOKS, Chart, Dot, Dots, Lines, Series
from orca_cli.report.records import details
from orca_cli.report.records.collect import Run, Score
from orca_cli.report.records.details import Curves, mean_curve
from orca_cli.report.statistics import across
from orca_cli.report.statistics.across import Across
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Block, Comparison
from orca_cli.report.statistics.verdicts import gain_text
from orca_cli.report.tables.layout import decimals_of, number
from orca_cli.report.tables.notes import clean, column_names
from orca_cli.report.tables.table import Column, Method, Table

MOST_CURVES = 60  # methods on tasks whose curves are drawn
_MOST_IN_A_PLOT = 6
_MOST_SEEDS = 20  # in the mean of a curve
_MOST_PROFILES = 2 * LOOKS
_WIDEST = 4.0  # factor over the lowest error
# What is drawn along epochs (a field of `Curves`), and the names of its axes.
_KINDS = (
    ("distance", "distance to the source", "alignment epoch"),
    ("loss", "training loss", "epoch"),
    ("validation", "validation error", "epoch"),
)


@dataclass(frozen=True)
class Group:
    """The runs of one method on one task and their scores; `name` is unique on the task, `look` the same on all tasks."""

    column: Column
    method: Method
    name: str
    look: int
    runs: list[Run]
    scores: list[Score]


def names_of(methods: Sequence[Method]) -> dict[Method, str]:
    """Return the shortest name that no other method has; the metric's for a single one."""
    names = across.names_of(methods) if len(methods) > 1 else [method.metric for method in methods]
    return {method: clean(name) for method, name in zip(methods, names, strict=True)}


def groups_of(table: Table) -> list[Group]:
    """Return the completed runs by task and method; within a task names are as short as they may be."""
    groups = []
    for place, column in enumerate(table.columns):
        rows = [(order, row) for order, row in enumerate(table.rows) if row.cells[place].runs]
        names = names_of([row.method for _, row in rows])
        for order, row in rows:
            cell = row.cells[place]
            groups.append(Group(column, row.method, names[row.method], order, cell.runs, cell.scores))
    return groups


def title_of(column: Column, columns: Sequence[Column]) -> str:
    """Return a column's task and data, with what distinguishes it from other columns of the same."""
    return clean(column_names(columns)[columns.index(column)])


def all_charts(table: Table, comparison: Comparison | None) -> list[Chart]:
    """Return every figure of a report."""
    charts: list[Chart] = [] if comparison is None else [*gains(comparison)]
    charts += errors(table)
    if len(table.columns) > 1:
        with contextlib.suppress(DataError):  # sets that cannot be counted
            charts += over_tasks(across.across(table))
    return charts + [chart for _, chart in curves(groups_of(table), table)]


def errors(table: Table) -> Iterator[Dots]:
    """Yield a figure for each task: the mean error of every method, simple models and the best constant beside."""
    for place, column in enumerate(table.columns):
        cells = {row.method: row.cells[place] for row in table.rows if row.cells[place].values}
        if not cells:
            continue
        scale, names = column.scale, names_of(list(cells))
        means = {method: mean_of(cell.values) for method, cell in cells.items()}
        decimals = decimals_of([scale * mean for mean in means.values()])
        rows = []
        for method, mean in sorted(means.items(), key=lambda pair: pair[1]):
            values = [scale * value for value in cells[method].values]
            text = f"{number(scale * mean, decimals)} (n = {len(values)})"
            rows.append(Dot(names[method], scale * mean, 0, min(values), max(values), text))
        bounds = [(f"simple model: {clean(name)}", low, 3) for name, (low, _) in table.baselines[place].items()]
        if (trivial := table.trivial[place]) is not None:
            bounds.append(("the best constant", trivial[0], 6))
        rows += [Dot(name, scale * value, look, text=number(scale * value, decimals)) for name, value, look in bounds]
        unit = f"{clean(column.error_name)}{', %' if column.percent else ''} (lower is better)"
        note = "Mean over seeds; line: lowest to highest seed."
        yield Dots(f"errors-{place + 1}", title_of(column, table.columns), unit, tuple(rows), note)


def gains(comparison: Comparison) -> Iterator[Dots]:
    """Yield the gain of every arm over all sets, then a figure for each arm: its gain on each set."""
    rows = []
    for one in comparison.overall:
        low, high = one.gain.interval or (one.gain.mean, one.gain.mean)
        rows.append(Dot(clean(one.arm), one.gain.mean, 0, low, high, gain_text(one.gain, 1)))
    base = clean(f"{comparison.axis}={comparison.baseline}")
    if rows:
        note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
        yield Dots("gains", f"Gain over {base}, all sets", comparison.unit, tuple(rows), note, line=0.0)
    for place, arm in enumerate(dict.fromkeys(block.arm for block in comparison.blocks), 1):
        blocks = [block for block in comparison.blocks if block.arm == arm and block.seeds and block.column.percent]
        sets = []
        for block in sorted(blocks, key=lambda block: (block.column.name, block.others)):
            gain = block.effect
            assert gain is not None  # it has seeds
            low, high = gain.interval or (gain.mean, gain.mean)
            text = f"{gain_text(gain, 1).split()[0]} (n = {gain.n})"
            sets.append(Dot(clean(_label(block, blocks)), gain.mean, 0, low, high, text))
        if sets:
            note = "Dot: mean over seeds; line: 95 % t interval."
            yield Dots(f"gains-{place}", f"{clean(arm)}: gain on each set", "points", tuple(sets), note, line=0.0)


def _label(block: Block, blocks: Sequence[Block]) -> str:
    shared = set.intersection(*(set(other.others) for other in blocks))
    settings = ", ".join(value for key, value in block.others if (key, value) not in shared and key != "source")
    return f"{block.column.name} ({settings})" if settings else block.column.name


def over_tasks(overview: Across) -> Iterator[Chart]:
    """Yield performance profiles and mean ranks, where there are methods enough."""
    if not overview.profiles:
        return
    shown = overview.profiles[:_MOST_PROFILES]
    series = []
    for place, one in enumerate(shown):
        corners = [(x, share) for x, share in one.points if x <= _WIDEST] + [(_WIDEST, one.share(_WIDEST))]
        points = tuple((x, 100 * share, 100 * share, 100 * share) for x, share in corners)
        series.append(Series(clean(one.method), points, place))
    note = "Share of tasks on which a method's error is within this factor of the lowest; higher is better."
    if len(shown) < (count := len(overview.profiles)):
        note += f" The best {len(shown)} of {count} methods."
    axes = ("times the lowest error", "share of tasks, %")
    yield Lines("profiles", "Performance profiles", *axes, tuple(series), note, is_step=True)
    if overview.ranks.mean:
        ranks = sorted(overview.ranks.mean.items(), key=lambda pair: pair[1])
        rows = tuple(Dot(clean(name), rank, 0, text=f"{rank:.2f}") for name, rank in ranks)
        note = f"Mean over the {len(overview.ranks.tasks)} tasks on which every method has an error; 1 is best."
        yield Dots("ranks", "Mean rank", "rank (lower is better)", rows, note)


def curves(groups: Sequence[Group], table: Table) -> Iterator[tuple[Column, Lines]]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first MOST_CURVES
    methods on tasks.
    """
    drawn = groups[:MOST_CURVES]
    read = {run.path: details.curves(run.path) for group in drawn for run in group.runs[:_MOST_SEEDS]}
    for place, column in enumerate(table.columns):
        title = title_of(column, table.columns)
        for kind, y, x in _KINDS:
            scale = column.scale if kind == "validation" else 1.0
            series: dict[str, list[Series]] = {}  # distances of different metrics have nothing in common
            for group in (group for group in drawn if group.column == column):
                one = _series(group, [read[run.path] for run in group.runs[:_MOST_SEEDS]], kind, scale)
                metric = f"{clean(group.method.metric)} " if kind == "distance" else ""
                if one.points:
                    series.setdefault(metric, []).append(one)
            plots = [
                (metric, tuple(lines[first : first + _MOST_IN_A_PLOT]))
                for metric, lines in sorted(series.items())
                for first in range(0, len(lines), _MOST_IN_A_PLOT)
            ]
            for part, (metric, lines) in enumerate(plots, 1):
                unit = f"{y}, %" if scale != 1.0 else y
                heading, note = f"{title}: {metric}{y}", "Mean over seeds, band: lowest to highest."
                yield column, Lines(f"{kind}-{place + 1}-{part}", heading, x, unit, lines, note)


def _series(group: Group, read: Sequence[Curves], kind: str, scale: float) -> Series:
    """Return the mean curve of a method on a task."""
    curve = mean_curve(getattr(one, kind) for one in read)
    points = tuple((x, scale * mean, scale * low, scale * high) for x, mean, low, high in curve)
    name = group.name + (f" ({len(read)})" if len(read) > 1 else "")
    return Series(name, points, group.look)
