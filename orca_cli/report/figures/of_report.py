"""Which figures a report has, made from its table and the details of its runs."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.report.figures.charts import LOOKS, Bars, Chart, Dot, Dots, Lines, Series
from orca_cli.report.figures.over_tasks import over_tasks
from orca_cli.report.records import details as reading
from orca_cli.report.records.collect import Run
from orca_cli.report.records.details import Details, Points, mean_curve
from orca_cli.report.statistics import across
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.verdicts import shown_of
from orca_cli.report.tables.layout import decimals_of, number
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Cell, Column, Method, Table

MOST_CURVES = 60  # methods on tasks whose curves are drawn
MOST_IN_A_PLOT = 6
MOST_SEEDS = 20  # in the mean of a curve
MOST_SPARKS = 200  # runs whose learning is shown in a row


@dataclass(frozen=True)
class Group:
    """The runs of one method on one task; `name` is unique in the report."""

    column: Column
    method: Method
    name: str
    look: int
    runs: list[Run]

    @property
    def shown(self) -> list[Run]:
        """Return the runs that a curve is the mean of."""
        return self.runs[:MOST_SEEDS]

    @property
    def counted(self) -> str:
        """Return the name with the number of these runs, and of all if there are more."""
        count = len(self.runs)
        return f"{self.name} ({f'{MOST_SEEDS} of {count}' if count > MOST_SEEDS else count})"


def names_of(methods: Sequence[Method]) -> dict[Method, str]:
    """Return the shortest name that no other method has; the metric's for a single one."""
    names = across.names_of(methods) if len(methods) > 1 else [method.metric for method in methods]
    return {method: clean(name) for method, name in zip(methods, names, strict=True)}


def groups_of(table: Table) -> list[Group]:
    """Return the completed runs by task and method; within a task names are as short as they may be."""
    order = {row.method: place for place, row in enumerate(table.rows)}
    found = []
    for place, column in enumerate(table.columns):
        cells = [(row.method, row.cells[place]) for row in table.rows if row.cells[place].runs]
        names = names_of([method for method, _ in cells])
        taken: set[int] = set()
        for method, cell in cells:
            look = _look(order[method], taken)
            found.append(Group(column, method, names[method], look, cell.runs))
    return found


def _look(place: int, taken: set[int]) -> int:
    """Return a look for a method: on every task the same, unless another of the task's methods has it already."""
    free = [look for look in range(LOOKS) if look not in taken] or [place % LOOKS + LOOKS * (len(taken) // LOOKS)]
    look = place % LOOKS if place % LOOKS in free else free[0]
    taken.add(look)
    return look


def read_all(groups: Sequence[Group]) -> dict[Path, Details]:
    """Return run folder -> details, curves only where they are shown: of `drawn` groups and of the first runs."""
    shown = {run.path for group in drawn(groups) for run in group.shown}
    every = [run for group in groups for run in group.runs]
    shown |= {run.path for run in every[:MOST_SPARKS]}
    return {run.path: reading.read(run, with_curves=run.path in shown) for run in every}


def title_of(column: Column, columns: Sequence[Column]) -> str:
    """Return a column's task and data, with what tells it from other columns of the same."""
    same = [other for other in columns if other.name == column.name]
    if len(same) < 2:
        return clean(column.name)
    words = [column.error_name or "no result", column.protocol, column.size, "synthetic" * column.synthetic]
    return clean(f"{column.name} ({', '.join(filter(None, words))})")


def all_of(
    table: Table, comparison: Comparison | None, groups: Sequence[Group], found: Mapping[Path, Details]
) -> Iterator[Chart]:
    """Yield every figure of a report."""
    if comparison is not None:
        yield from gains(comparison)
    yield from errors(table)
    if len(table.columns) > 1:
        with contextlib.suppress(DataError):  # sets that cannot be counted
            yield from over_tasks(across.across(table))
    yield from (chart for _, chart in curves(groups, found, table))
    yield from times(groups, found)


def errors(table: Table) -> Iterator[Dots]:
    """Yield a figure for each task: the mean error of every method, simple models and the best constant beside."""
    for place, column in enumerate(table.columns):
        scale = 100.0 if column.percent else 1.0
        cells = [(row.method, row.cells[place]) for row in table.rows if row.cells[place].mean is not None]
        names = names_of([method for method, _ in cells])
        decimals = decimals_of([scale * (cell.mean or 0) for _, cell in cells])
        rows = []
        for method, cell in sorted(cells, key=lambda pair: pair[1].mean or 0):
            rows.append((names[method], (_error(cell, scale, decimals, method),)))
        rows += [
            (f"simple model: {clean(name)}", (_bound(low, scale, decimals, 3),))
            for name, (low, _) in table.baselines[place].items()
        ]
        if (bounds := table.trivial[place]) is not None:
            rows.append(("the best constant", (_bound(bounds[0], scale, decimals, 6),)))
        if cells:
            unit = f"{clean(column.error_name)}{', %' if column.percent else ''} (lower is better)"
            note = "Mean over seeds; line: lowest to highest seed. Square: not aligned (metric none)."
            yield Dots(f"errors-{place + 1}", title_of(column, table.columns), unit, tuple(rows), note)


def _error(cell: Cell, scale: float, decimals: int | None, method: Method) -> Dot:
    values = [scale * value for value in cell.values]
    mean = scale * (cell.mean or 0.0)
    text = f"{number(mean, decimals)} (n = {len(values)})"
    look = 0 if method.metric != "none" else 1
    return Dot(mean, look, "mean error", min(values), max(values), text)


def _bound(value: float, scale: float, decimals: int | None, look: int) -> Dot:
    return Dot(scale * value, look, "error", text=number(scale * value, decimals))


def gains(comparison: Comparison) -> Iterator[Dots]:
    """Yield the gain of every arm over all sets, then a figure for each arm: its gain on each set."""
    rows, unit = [], ""
    for one in comparison.overall:
        effect, unit = shown_of(one)
        ends = effect.interval or (effect.mean, effect.mean)
        text = f"{effect.mean:+.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"
        rows.append((clean(one.arm), (Dot(effect.mean, 0, "mean gain", *ends, text=text),)))
    base = clean(f"{comparison.axis}={comparison.baseline}")
    if rows:
        note = "Dot: mean over sets; line: 95 % bootstrap interval; right of 0: lower error."
        yield Dots("gains", f"Gain over {base}, all sets", unit, tuple(rows), note, line=0.0)
    for number_, arm in enumerate(dict.fromkeys(block.arm for block in comparison.blocks), 1):
        blocks = [block for block in comparison.blocks if block.arm == arm and block.seeds and block.column.percent]
        sets = []
        for block in sorted(blocks, key=lambda block: (block.column.name, block.others)):
            found = block.effect
            assert found is not None  # it has seeds
            ends = found.interval or (found.mean, found.mean)
            text = f"{found.mean:+.1f} (n = {found.n})"
            sets.append(
                (
                    clean(_label(block.column.name, block.others, blocks)),
                    (Dot(found.mean, 0, "mean gain", *ends, text=text),),
                )
            )
        if sets:
            note = "Dot: mean over seeds; line: 95 % bootstrap interval, too narrow for few seeds."
            yield Dots(f"gains-{number_}", f"{clean(arm)}: gain on each set", "points", tuple(sets), note, line=0.0)


def _label(task: str, others: tuple[tuple[str, str], ...], blocks: Sequence[object]) -> str:
    shared = set.intersection(*(set(block.others) for block in blocks))  # type: ignore[attr-defined]
    own = ", ".join(value for key, value in others if (key, value) not in shared and key != "source")
    return f"{task} ({own})" if own else task


def curves(groups: Sequence[Group], found: Mapping[Path, Details], table: Table) -> Iterator[tuple[Column, Lines]]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first MOST_CURVES methods on tasks; `left_out` counts the rest.
    """
    kinds: tuple[tuple[str, str, str, Callable[[Details], Points], bool], ...] = (
        ("distance", "distance to the source", "alignment epoch", lambda one: one.distance, True),
        ("loss", "training loss", "epoch", lambda one: one.loss, True),
        ("validation", "validation error", "epoch", lambda one: one.validation, False),
    )
    by_column: dict[Column, list[Group]] = defaultdict(list)
    for group in drawn(groups):
        by_column[group.column].append(group)
    for place, column in enumerate(table.columns):
        own, title = by_column[column], title_of(column, table.columns)
        for kind, y, x, points, is_log in kinds:
            scale = 100.0 if kind == "validation" and column.percent else 1.0
            # Distances of different metrics have nothing in common.
            metrics: list[str | None] = [None]
            if kind == "distance":
                metrics = [*sorted({group.method.metric for group in own})]
            for metric in metrics:
                chosen = [group for group in own if metric in (None, group.method.metric)]
                series = [one for group in chosen if (one := _series(group, found, points, kind, scale)).points]
                words = f"{title}: {y}" if metric is None else f"{title}: {clean(metric)} {y}"
                name = f"{kind}-{place + 1}" + ("" if metric is None else f"-{metrics.index(metric) + 1}")
                unit = f"{y}, %" if scale != 1.0 else y
                for part, shown in enumerate(_parts(series)):
                    wide = is_log and _is_wide(shown)
                    more = f", part {part + 1}" if len(series) > MOST_IN_A_PLOT else ""
                    suffix = f"-{part + 1}" if more else ""
                    yield column, Lines(f"{name}{suffix}", f"{words}{more}", x, unit, shown, _NOTES[kind], wide)


def _parts(series: Sequence[Series]) -> Iterator[tuple[Series, ...]]:
    for first in range(0, len(series), MOST_IN_A_PLOT):
        yield tuple(series[first : first + MOST_IN_A_PLOT])


_NOTES = {
    "distance": "Mean over seeds, band: lowest to highest; dotted: the floor, the distance between two halves of the source; "
    "circle: the steps that were kept.",
    "loss": "Mean over seeds, band: lowest to highest.",
    "validation": "Mean over seeds, band: lowest to highest; circle: the epoch whose weights are tested.",
}


def left_out(groups: Sequence[Group]) -> int:
    """Return how many methods on tasks have no curves in a report."""
    return len(groups) - len(drawn(groups))


def drawn(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with curves: of every task the same number, as far as there is room."""
    ranks: Counter[Column] = Counter()
    order = []
    for place, group in enumerate(groups):
        order.append((ranks[group.column], place))
        ranks[group.column] += 1
    return [groups[place] for place in sorted(place for _, place in sorted(order)[:MOST_CURVES])]


def _series(
    group: Group, found: Mapping[Path, Details], points: Callable[[Details], Points], kind: str, scale: float
) -> Series:
    own = [found[run.path] for run in group.shown]
    line = tuple((x, *(scale * y for y in ys)) for x, *ys in mean_curve(map(points, own)))
    floors = [one.floor[0] for one in own if one.floor is not None]
    at = {"distance": [one.steps for one in own], "validation": [one.chosen for one in own]}.get(kind, [])
    marks = {mark for mark in at if mark is not None}
    return Series(
        group.counted if len(own) > 1 else group.name,
        line,  # type: ignore[arg-type]
        group.look,
        chosen=float(min(marks)) if len(marks) == 1 and marks != {0} else None,
        level=math.fsum(floors) / len(floors) if floors and kind == "distance" else None,
    )


def _is_wide(series: Sequence[Series]) -> bool:
    ys = [y for one in series for _, *ys in one.points for y in ys]
    return min(ys) > 0 and max(ys) / min(ys) > 50


def times(groups: Sequence[Group], found: Mapping[Path, Details]) -> Iterator[Bars]:
    """Yield the mean time of stages 2 and 3 of every method, over all its runs."""
    by_method: dict[Method, list[Details]] = defaultdict(list)
    for group in groups:
        by_method[group.method] += [found[run.path] for run in group.runs]
    names = names_of(list(by_method))
    rows = []
    for method, own in by_method.items():
        means = [_mean([one.seconds.get(stage, 0.0) for one in own]) for stage in ("align", "finetune")]
        ratio = f"{means[0] / means[1]:.2f}" if means[1] else "-"
        rows.append((names[method], tuple(means), f"ratio {ratio}, n = {len(own)}"))
    if any(sum(lengths) for _, lengths, _ in rows):
        note = "Mean over a method's runs of all tasks; ratio: align / finetune."
        yield Bars("times", "Time of stages 2 and 3", "seconds a run", ("align", "finetune"), tuple(rows), note)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
