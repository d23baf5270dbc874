"""Which figures a report has, made from its table and the curves of its runs."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.report.figures.charts import LOOKS, Chart, Dot, Dots, Lines, Series
from orca_cli.report.records import details
from orca_cli.report.records.collect import Run, Score
from orca_cli.report.records.details import Curves, mean_curve
from orca_cli.report.statistics import across
from orca_cli.report.statistics.across import Across
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Block, Comparison
from orca_cli.report.statistics.verdicts import unit_of
from orca_cli.report.tables.layout import decimals_of, number
from orca_cli.report.tables.notes import clean, column_names
from orca_cli.report.tables.table import Column, Method, Table

MOST_CURVES = 60  # methods on tasks whose curves are drawn
_MOST_IN_A_PLOT = 6
_MOST_SEEDS = 20  # in the mean of a curve
_MOST_PROFILES = 2 * LOOKS
_WIDEST = 4.0  # factor over the lowest error


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


def all_charts(table: Table, comparison: Comparison | None) -> Iterator[Chart]:
    """Yield every figure of a report."""
    groups = groups_of(table)
    if comparison is not None:
        yield from gains(comparison)
    yield from errors(table)
    if len(table.columns) > 1:
        with contextlib.suppress(DataError):  # sets that cannot be counted
            yield from over_tasks(across.across(table))
    yield from (chart for _, chart in curves(groups, table))
    yield from times(groups)


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
            look, text = int(method.metric == "none"), f"{number(scale * mean, decimals)} (n = {len(values)})"
            rows.append(Dot(names[method], scale * mean, look, min(values), max(values), text))
        bounds = [(f"simple model: {clean(name)}", low, 3) for name, (low, _) in table.baselines[place].items()]
        if (trivial := table.trivial[place]) is not None:
            bounds.append(("the best constant", trivial[0], 6))
        rows += [Dot(name, scale * value, look, text=number(scale * value, decimals)) for name, value, look in bounds]
        unit = f"{clean(column.error_name)}{', %' if column.percent else ''} (lower is better)"
        note = "Mean over seeds; line: lowest to highest seed. Square: not aligned (metric none)."
        yield Dots(f"errors-{place + 1}", title_of(column, table.columns), unit, tuple(rows), note)


def gains(comparison: Comparison) -> Iterator[Dots]:
    """Yield the gain of every arm over all sets, then a figure for each arm: its gain on each set."""
    rows, unit = [], ""
    for one in comparison.overall:
        effect, unit = one.judged, unit_of(one)
        low, high = effect.interval or (effect.mean, effect.mean)
        text = f"{effect.mean:+.1f} [{low:.1f}, {high:.1f}]"
        rows.append(Dot(clean(one.arm), effect.mean, 0, low, high, text))
    base = clean(f"{comparison.axis}={comparison.baseline}")
    if rows:
        note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
        yield Dots("gains", f"Gain over {base}, all sets", unit, tuple(rows), note, line=0.0)
    for place, arm in enumerate(dict.fromkeys(block.arm for block in comparison.blocks), 1):
        blocks = [block for block in comparison.blocks if block.arm == arm and block.seeds and block.column.percent]
        sets = []
        for block in sorted(blocks, key=lambda block: (block.column.name, block.others)):
            gain = block.effect
            assert gain is not None  # it has seeds
            low, high = gain.interval or (gain.mean, gain.mean)
            text = f"{gain.mean:+.1f} (n = {gain.n})"
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


# What is drawn along epochs (a field of `Curves`), the names of its axes, and what marks mean.
_KINDS = (
    (
        *("distance", "distance to the source", "alignment epoch"),
        "; dotted: the floor, the distance between two halves of the source; circle: the steps that were kept",
    ),
    ("loss", "training loss", "epoch", ""),
    ("validation", "validation error", "epoch", "; circle: the epoch whose weights are tested"),
)


def curves(groups: Sequence[Group], table: Table) -> Iterator[tuple[Column, Lines]]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first MOST_CURVES methods on tasks.
    """
    by_column: dict[Column, list[Group]] = defaultdict(list)
    read: dict[Path, Curves] = {}
    for group in drawn(groups):
        by_column[group.column].append(group)
        read |= {run.path: details.curves(run.path) for run in group.runs[:_MOST_SEEDS]}
    for place, column in enumerate(table.columns):
        task_groups, title = by_column[column], title_of(column, table.columns)
        for kind, y, x, marks in _KINDS:
            scale = column.scale if kind == "validation" else 1.0
            # Distances of different metrics have nothing in common.
            metrics = sorted({group.method.metric for group in task_groups}) if kind == "distance" else [""]
            for order, metric in enumerate(metrics, 1):
                chosen = [group for group in task_groups if metric in ("", group.method.metric)]
                series = [one for group in chosen if (one := _series(group, read, kind, scale)).points]
                words = f"{title}: {clean(metric)} {y}" if metric else f"{title}: {y}"
                name = f"{kind}-{place + 1}" + (f"-{order}" if metric else "")
                unit, note = f"{y}, %" if scale != 1.0 else y, f"Mean over seeds, band: lowest to highest{marks}."
                for first in range(0, len(series), _MOST_IN_A_PLOT):
                    shown, part = tuple(series[first : first + _MOST_IN_A_PLOT]), first // _MOST_IN_A_PLOT + 1
                    suffix, more = (f"-{part}", f", part {part}") if len(series) > _MOST_IN_A_PLOT else ("", "")
                    is_log = kind != "validation" and _is_wide(shown)
                    yield column, Lines(f"{name}{suffix}", f"{words}{more}", x, unit, shown, note, is_log)


def drawn(groups: Sequence[Group]) -> list[Group]:
    """Return the groups whose curves are drawn, shared out evenly over the tasks."""
    seen: Counter[Column] = Counter()
    order = []
    for place, group in enumerate(groups):
        order.append((seen[group.column], place))
        seen[group.column] += 1
    return [groups[place] for place in sorted(place for _, place in sorted(order)[:MOST_CURVES])]


def _series(group: Group, read: Mapping[Path, Curves], kind: str, scale: float) -> Series:
    shown, count = group.scores[:_MOST_SEEDS], len(group.runs)
    curve = mean_curve(getattr(read[run.path], kind) for run in group.runs[:_MOST_SEEDS])
    line = tuple((x, scale * mean, scale * low, scale * high) for x, mean, low, high in curve)
    floors = [one.floor for one in shown if one.floor is not None]
    at = {"distance": [one.steps for one in shown], "validation": [one.epoch for one in shown]}.get(kind, [])
    marks = {mark for mark in at if mark is not None}
    seeds = f" ({f'{len(shown)} of {count}' if count > len(shown) else count})" if count > 1 else ""
    return Series(
        group.name + seeds,
        line,
        group.look,
        chosen=float(min(marks)) if len(marks) == 1 and marks != {0} else None,
        level=mean_of(floors) if floors and kind == "distance" else None,
    )


def _is_wide(series: Sequence[Series]) -> bool:
    ys = [y for one in series for _, *ys in one.points for y in ys]
    return min(ys) > 0 and max(ys) / min(ys) > 50


def times(groups: Sequence[Group]) -> Iterator[Dots]:
    """Yield the mean time of stages 2 and 3 together of every method, over all its runs."""
    by_method: dict[Method, list[Score]] = defaultdict(list)
    for group in groups:
        by_method[group.method] += group.scores
    names, rows = names_of(list(by_method)), []
    for place, (method, scores) in enumerate(by_method.items()):
        align, finetune = (mean_of([one.times.get(stage, 0.0) for one in scores]) for stage in ("align", "finetune"))
        ratio = f"{align / finetune:.2f}" if finetune else "-"
        rows.append(Dot(names[method], align + finetune, place, text=f"ratio {ratio}, n = {len(scores)}"))
    if any(row.value for row in rows):
        note = "Mean over a method's runs of all tasks; ratio: align / finetune."
        yield Dots("times", "Time of stages 2 and 3", "seconds a run", tuple(rows), note, line=0.0)
