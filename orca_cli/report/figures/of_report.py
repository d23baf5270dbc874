"""Which figures a report has, made from its table and the details of its runs."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.report.figures.charts import LOOKS, Bars, Chart, Dot, Dots, Lines, Matrix, Series
from orca_cli.report.records import details as reading
from orca_cli.report.records.collect import Run
from orca_cli.report.records.details import Details, Points, mean_curve
from orca_cli.report.statistics import across
from orca_cli.report.statistics.across import Across
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Block, Comparison
from orca_cli.report.statistics.verdicts import unit_of
from orca_cli.report.tables.layout import decimals_of, number
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Method, Table

MOST_CURVES = 60  # methods on tasks whose curves are drawn
_MOST_IN_A_PLOT = 6
_MOST_SEEDS = 20  # in the mean of a curve
_MOST_PROFILES = 2 * LOOKS
_WIDEST = 4.0  # factor over the lowest error


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
        return self.runs[:_MOST_SEEDS]


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
        taken: set[int] = set()
        for order, row in rows:
            look = _look(order, taken)
            groups.append(Group(column, row.method, names[row.method], look, row.cells[place].runs))
    return groups


def _look(place: int, taken: set[int]) -> int:
    """Return a look for a method: on every task the same, unless another of the task's methods has it already."""
    free = [look for look in range(LOOKS) if look not in taken] or [place % LOOKS + LOOKS * (len(taken) // LOOKS)]
    look = place % LOOKS if place % LOOKS in free else free[0]
    taken.add(look)
    return look


def read_all(groups: Sequence[Group]) -> dict[Path, Details]:
    """Return run folder -> details, curves only of the runs whose curves are drawn."""
    drawn_paths = {run.path for group in drawn(groups) for run in group.shown}
    return {run.path: reading.read(run, with_curves=run.path in drawn_paths) for group in groups for run in group.runs}


def title_of(column: Column, columns: Sequence[Column]) -> str:
    """Return a column's task and data, with what tells it from other columns of the same."""
    same = [other for other in columns if other.name == column.name]
    if len(same) < 2:
        return clean(column.name)
    words = [column.error_name or "no result", column.protocol, column.size, "synthetic" * column.synthetic]
    return clean(f"{column.name} ({', '.join(filter(None, words))})")


def all_of(
    table: Table, comparison: Comparison | None, groups: Sequence[Group], details: Mapping[Path, Details]
) -> Iterator[Chart]:
    """Yield every figure of a report."""
    if comparison is not None:
        yield from gains(comparison)
    yield from errors(table)
    if len(table.columns) > 1:
        with contextlib.suppress(DataError):  # sets that cannot be counted
            yield from over_tasks(across.across(table))
    yield from (chart for _, chart in curves(groups, details, table))
    yield from times(groups, details)


def errors(table: Table) -> Iterator[Dots]:
    """Yield a figure for each task: the mean error of every method, simple models and the best constant beside."""
    for place, column in enumerate(table.columns):
        cells = [
            (mean, row.method, row.cells[place]) for row in table.rows if (mean := row.cells[place].mean) is not None
        ]
        if not cells:
            continue
        scale = 100.0 if column.percent else 1.0
        names = names_of([method for _, method, _ in cells])
        decimals = decimals_of([scale * mean for mean, *_ in cells])
        rows = []
        for mean, method, cell in sorted(cells, key=lambda one: one[0]):
            values = [scale * value for value in cell.values]
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
    """Yield performance profiles, mean ranks, and a matrix for each thing said of pairs; as there are methods enough."""
    if not overview.profiles:
        return
    yield _profiles(overview)
    if overview.ranks.mean:
        ranks = sorted(overview.ranks.mean.items(), key=lambda pair: pair[1])
        rows = tuple(Dot(clean(name), rank, 0, text=f"{rank:.2f}") for name, rank in ranks)
        note = f"Mean over the {len(overview.ranks.tasks)} tasks on which every method has an error; 1 is best."
        yield Dots("ranks", "Mean rank", "rank (lower is better)", rows, note)
    if overview.pairs:
        largest = max(abs(pair.gain) for pair in overview.pairs) or 1.0
        cells = {
            (pair.row, pair.column): (f"{pair.gain:+.1f}{'*' * pair.is_earned}", pair.gain / largest)
            for pair in overview.pairs
        }
        unit = "per cent of the error" if overview.pairs[0].is_relative else "points"
        note = (
            f"Mean gain of the row over the column, {unit}; above 0: lower errors. *: p <= 0.05, Holm over all pairs."
        )
        yield _matrix("pairs", "Every pair", overview.methods, cells, note)


def _profiles(overview: Across) -> Lines:
    series = []
    for place, one in enumerate(overview.profiles[:_MOST_PROFILES]):
        corners = [(x, share) for x, share in one.points if x <= _WIDEST] + [(_WIDEST, one.share(_WIDEST))]
        points = tuple((x, 100 * share, 100 * share, 100 * share) for x, share in corners)
        series.append(Series(clean(one.method), points, place))
    rest = len(overview.profiles) - len(series)
    more = f" The best {len(series)} of {len(overview.profiles)} methods." if rest else ""
    note = f"Share of tasks on which a method's error is within this factor of the lowest; higher is better.{more}"
    axes = ("times the lowest error", "share of tasks, %")
    return Lines("profiles", "Performance profiles", *axes, tuple(series), note, is_step=True)


def _matrix(
    name: str, title: str, methods: Sequence[str], cells: Mapping[tuple[str, str], tuple[str, float]], note: str
) -> Matrix:
    names = tuple(map(clean, methods))
    rows = [[cells.get((row, column), ("", None)) for column in methods] for row in methods]
    texts, shades = (tuple(tuple(cell[part] for cell in row) for row in rows) for part in (0, 1))
    return Matrix(name, title, names, names, texts, shades, note)  # type: ignore[arg-type]


_KINDS: tuple[tuple[str, str, str, Callable[[Details], Points], str], ...] = (
    (
        *("distance", "distance to the source", "alignment epoch", lambda one: one.distance),
        "; dotted: the floor, the distance between two halves of the source; circle: the steps that were kept",
    ),
    ("loss", "training loss", "epoch", lambda one: one.loss, ""),
    (
        *("validation", "validation error", "epoch", lambda one: one.validation),
        "; circle: the epoch whose weights are tested",
    ),
)


def curves(groups: Sequence[Group], details: Mapping[Path, Details], table: Table) -> Iterator[tuple[Column, Lines]]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first MOST_CURVES methods on tasks.
    """
    by_column: dict[Column, list[Group]] = defaultdict(list)
    for group in drawn(groups):
        by_column[group.column].append(group)
    for place, column in enumerate(table.columns):
        task_groups, title = by_column[column], title_of(column, table.columns)
        for kind, y, x, points, marks in _KINDS:
            scale = 100.0 if kind == "validation" and column.percent else 1.0
            # Distances of different metrics have nothing in common.
            metrics = sorted({group.method.metric for group in task_groups}) if kind == "distance" else [""]
            for order, metric in enumerate(metrics, 1):
                chosen = [group for group in task_groups if metric in ("", group.method.metric)]
                series = [one for group in chosen if (one := _series(group, details, points, kind, scale)).points]
                words = f"{title}: {clean(metric)} {y}" if metric else f"{title}: {y}"
                name = f"{kind}-{place + 1}" + (f"-{order}" if metric else "")
                unit, note = f"{y}, %" if scale != 1.0 else y, f"Mean over seeds, band: lowest to highest{marks}."
                for first in range(0, len(series), _MOST_IN_A_PLOT):
                    shown, part = tuple(series[first : first + _MOST_IN_A_PLOT]), first // _MOST_IN_A_PLOT + 1
                    suffix, more = (f"-{part}", f", part {part}") if len(series) > _MOST_IN_A_PLOT else ("", "")
                    is_log = kind != "validation" and _is_wide(shown)
                    yield column, Lines(f"{name}{suffix}", f"{words}{more}", x, unit, shown, note, is_log)


def drawn(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with curves: of every task the same number, as far as there is room."""
    ranks: Counter[Column] = Counter()
    order = []
    for place, group in enumerate(groups):
        order.append((ranks[group.column], place))
        ranks[group.column] += 1
    return [groups[place] for place in sorted(place for _, place in sorted(order)[:MOST_CURVES])]


def _series(
    group: Group, details: Mapping[Path, Details], points: Callable[[Details], Points], kind: str, scale: float
) -> Series:
    shown, count = [details[run.path] for run in group.shown], len(group.runs)
    line = tuple((x, *(scale * y for y in ys)) for x, *ys in mean_curve(map(points, shown)))
    floors = [one.floor for one in shown if one.floor is not None]
    at = {"distance": [one.steps for one in shown], "validation": [one.chosen for one in shown]}.get(kind, [])
    marks = {mark for mark in at if mark is not None}
    seeds = f" ({f'{len(shown)} of {count}' if count > len(shown) else count})" if count > 1 else ""
    return Series(
        group.name + seeds,
        line,  # type: ignore[arg-type]
        group.look,
        chosen=float(min(marks)) if len(marks) == 1 and marks != {0} else None,
        level=mean_of(floors) if floors and kind == "distance" else None,
    )


def _is_wide(series: Sequence[Series]) -> bool:
    ys = [y for one in series for _, *ys in one.points for y in ys]
    return min(ys) > 0 and max(ys) / min(ys) > 50


def times(groups: Sequence[Group], details: Mapping[Path, Details]) -> Iterator[Bars]:
    """Yield the mean time of stages 2 and 3 of every method, over all its runs."""
    by_method: dict[Method, list[Details]] = defaultdict(list)
    for group in groups:
        by_method[group.method] += [details[run.path] for run in group.runs]
    names = names_of(list(by_method))
    rows = []
    for method, method_details in by_method.items():
        align, finetune = (
            mean_of([one.seconds.get(stage, 0.0) for one in method_details]) for stage in ("align", "finetune")
        )
        ratio = f"{align / finetune:.2f}" if finetune else "-"
        rows.append((names[method], (align, finetune), f"ratio {ratio}, n = {len(method_details)}"))
    if any(sum(lengths) for _, lengths, _ in rows):
        note = "Mean over a method's runs of all tasks; ratio: align / finetune."
        yield Bars("times", "Time of stages 2 and 3", "seconds a run", ("align", "finetune"), tuple(rows), note)
