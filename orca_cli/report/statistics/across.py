"""The methods of a table over all its tasks: performance profiles, mean ranks, pairwise matrix.

A method is a row of the table, a task a column; an error is the mean over the seeds of a cell. A missing error counts as
infinitely bad in a profile; ranks are over the tasks that every method has, pairs over those that both have.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import TEST_SET, mixed_test_sets
from orca_cli.report.statistics.differences import (
    LARGEST_P,
    LEAST,
    difference,
    holm,
    mean_of,
    ranks_of,
    relative,
    signed_rank,
)
from orca_cli.report.statistics.paired import check_sets
from orca_cli.report.tables.layout import MISSING, Entry, Layout, alarms_of, excluded_runs, p_text
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Method, Table

MOST = 20  # methods in a matrix; their pairs grow with the square, and nobody reads more
_FACTORS = (1.0, 1.1, 1.5, 2.0, 4.0)  # where tables show a profile
_SAME = 1e-12  # ratios that differ by rounding only
CSV_COLUMNS = (
    *("measure", "method", "other", "factor", "tasks", "unit", "value"),
    *("wins", "ties", "losses", "p", "smallest_p", "holm_p"),
)


@dataclass(frozen=True)
class Across:
    """Methods over tasks.

    Args:
        methods: names of the rows that have an error, best first: by mean rank where there is one, else by the first corner
            of the profile.
        counted: the columns that two methods or more have an error on.
        holes: method -> the tasks that it has no error on; only methods that lack some.
        without_ratio: those that count, but not in profiles, since an error is 0 or below.
        negative: those of them with an error below 0, which pairs leave out where gains are relative.
        pairs: empty for more than `MOST` methods.
    """

    methods: list[str]
    columns: list[Column]
    counted: list[Column]
    holes: dict[str, list[str]]
    without_ratio: list[str]
    negative: list[str]
    profiles: list[Profile]
    ranks: Ranks
    pairs: list[Pair]


def across(table: Table) -> Across:
    """Return how the methods of a table do over all of its tasks; with fewer than two methods, the lists are empty.

    Raises:
        DataError: a task was measured in several ways, or on different test data.
    """
    columns = table.columns
    shown = [row for row in table.rows if any(cell.mean is not None for cell in row.cells)]
    rows = dict(zip(names_of([row.method for row in shown]), shown, strict=True))
    means = {name: [cell.mean for cell in row.cells] for name, row in rows.items()}
    errors = [[mean for cell in table.cells(place) if (mean := cell.mean) is not None] for place in range(len(columns))]
    counted = [place for place in range(len(columns)) if len(errors[place]) > 1]
    check_sets([columns[place] for place in counted], "--compare")
    for place in counted:
        if tests := mixed_test_sets(run for row in shown for run in row.cells[place].runs):
            what = f"the runs of {clean(columns[place].name)} were tested on {len(tests)} different test sets"
            some = ", ".join(sorted(name[:8] for name in tests)[:5])
            raise DataError(what, where="--compare", hint=f"narrow with --where {TEST_SET}=..., one of {some}")
    ranks = mean_ranks(means)
    method_profiles = profiles(means)
    order = {one.method: (ranks.mean.get(one.method, math.inf), -one.share(1.0), one.method) for one in method_profiles}
    methods = sorted(order, key=lambda name: order[name]) if method_profiles else sorted(rows)
    few = methods if len(methods) <= MOST else []
    holes = {
        name: [column.name for mean, column in zip(means[name], columns, strict=True) if mean is None]
        for name in methods
    }
    lowest = [(columns[place].name, min(errors[place])) for place in counted]
    by_test = {name: [cell.by_test for cell in rows[name].cells] for name in few}
    return Across(
        methods,
        columns,
        [columns[place] for place in counted],
        {name: lacking for name, lacking in holes.items() if lacking},
        [name for name, error in lowest if error <= 0],
        [name for name, error in lowest if error < 0],
        sorted(method_profiles, key=lambda one: methods.index(one.method)),
        ranks,
        matrix(by_test, [column.percent for column in columns]),
    )


def names_of(methods: Sequence[Method]) -> list[str]:
    """Return a name for each method that no other has: what they differ in, the source only if nothing else does."""
    fields = [name for name in ("body", "metric", "finetune") if len({getattr(one, name) for one in methods}) > 1]
    common = set.intersection(*(set(one.settings) for one in methods)) if methods else set()
    names = []
    for one in methods:
        settings = (f"{key}={value}" for key, value in one.settings if (key, value) not in common)
        names.append(" ".join((*(getattr(one, name) for name in fields), *settings)) or str(one))
    counts = Counter(names)
    named = zip(names, methods, strict=True)
    return [f"{name} source={method.source}" if counts[name] > 1 else name for name, method in named]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over tasks; 1 is best, ties share the mean of their ranks.

    Args:
        mean: method -> mean rank; only methods that were ranked.
        tasks: places of the tasks over which they are.
        friedman: p of Friedman's test that the ranks of all methods come from the same distribution; None for fewer than three
            methods or two tasks, and where all methods are tied everywhere.
    """

    mean: dict[str, float]
    tasks: tuple[int, ...]
    friedman: float | None


def mean_ranks(errors: Mapping[str, Sequence[float | None]]) -> Ranks:
    """Return the mean ranks over the tasks on which every method has an error; a hole takes its task out, for all.

    `errors`: method -> its error on every task, in the same order for all; None where it has none.
    """
    every = list(zip(*errors.values(), strict=True))
    tasks = tuple(place for place, task in enumerate(every) if None not in task)
    if not tasks or len(errors) < 2:
        return Ranks({}, tasks, None)
    ranks = [ranks_of([value for value in every[place] if value is not None]) for place in tasks]
    mean = {
        method: statistics.fmean(method_ranks)
        for method, method_ranks in zip(errors, zip(*ranks, strict=True), strict=True)
    }
    return Ranks(mean, tasks, _friedman(ranks))


def _friedman(ranks: Sequence[Sequence[float]]) -> float | None:
    """Return the p of ranks [task][method], by the chi-squared limit with the correction for ties (Conover 1999, 5.8)."""
    n, k = len(ranks), len(ranks[0])
    sums = [math.fsum(method_ranks) for method_ranks in zip(*ranks, strict=True)]
    spread = math.fsum(rank * rank for task in ranks for rank in task) - n * k * (k + 1) ** 2 / 4
    if n < 2 or k < 3 or spread <= 0:
        return None
    from scipy.special import chdtrc  # scipy.stats takes five times as long to import

    statistic = (k - 1) * math.fsum((rank_sum - n * (k + 1) / 2) ** 2 for rank_sum in sums) / spread
    return float(chdtrc(k - 1, statistic))


@dataclass(frozen=True)
class Profile:
    """One method's profile.

    Args:
        ratios: one for each task that counts, 1 or more, in rising order; infinity where the method has no error.
        missing: on how many of these tasks it has none.
    """

    method: str
    ratios: tuple[float, ...]
    missing: int

    def share(self, factor: float) -> float:
        """Return the share of tasks, 0 to 1, on which the error is at most `factor` (1 or more) times the lowest."""
        return bisect.bisect_right(self.ratios, factor * (1 + _SAME)) / len(self.ratios)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return the corners of the step function: factor and share from there on; the first is at 1, none is infinite."""
        factors = sorted({1.0, *(ratio for ratio in self.ratios if math.isfinite(ratio))})
        return [(factor, self.share(factor)) for factor in factors]


def profiles(errors: Mapping[str, Sequence[float | None]]) -> list[Profile]:
    """Return the profile of every method, in their order; empty where no task counts.

    Tasks count on which two or more methods have an error, the lowest above 0: nothing is a multiple of 0. `errors` are as in
    `mean_ranks`.
    """
    tasks: list[list[float]] = []
    for task in zip(*errors.values(), strict=True):
        defined = [value for value in task if value is not None]
        if len(defined) > 1 and min(defined) > 0:
            lowest = min(defined)
            errors_on = (math.inf if value is None else value for value in task)
            tasks.append([1.0 if value <= lowest * (1 + _SAME) else value / lowest for value in errors_on])
    columns = zip(errors, zip(*tasks, strict=True), strict=True) if tasks else ()
    return [Profile(method, tuple(sorted(ratios)), ratios.count(math.inf)) for method, ratios in columns]


@dataclass(frozen=True)
class Pair:
    """Method `row` against method `column`; `gain` is above 0 where `row` has the lower errors.

    Args:
        tasks: on how many both have an error.
        points: mean over the tasks whose error is a per cent of column's error less row's, in points; None without such a task.
        relative: mean over all tasks of column's error less row's, in per cent of the mean of the two errors, -200 to 200.
        wins, ties, losses: of `row`, by task.
        p: two-sided, exact signed-rank test over tasks; of points if all tasks have them, else of the relative differences.
        smallest: the smallest p possible with this number of nonzero differences.
        corrected: Holm's p over all pairs of the matrix.
        is_relative: `gain` and `p` are about `relative`.
    """

    row: str
    column: str
    tasks: int
    points: float | None
    relative: float
    wins: int
    ties: int
    losses: int
    p: float
    smallest: float
    corrected: float = 1.0
    is_relative: bool = False

    @property
    def gain(self) -> float:
        """Return the mean difference that the pair is judged by: in points, or in per cent of the error."""
        return self.relative if self.is_relative or self.points is None else self.points

    @property
    def is_earned(self) -> bool:
        """Return whether the two differ: at least six tasks that differ, and Holm's p at most 0.05."""
        return self.wins + self.losses >= LEAST and self.corrected <= LARGEST_P

    def turned(self) -> Pair:
        """Return the same comparison seen from the other method."""
        points = None if self.points is None else -self.points
        turned = replace(self, row=self.column, column=self.row, points=points, relative=-self.relative)
        return replace(turned, wins=self.losses, losses=self.wins)


def matrix(errors: Mapping[str, Sequence[Mapping[Any, float]]], percent: Sequence[bool]) -> list[Pair]:
    """Return every ordered pair of methods that have a task in common, (a, b) and (b, a).

    A task counts for a pair where both have an error of the same seed; its errors are then the means over the seeds that both
    have. The unit is the same in the whole matrix: points if all tasks that count are per cents, else per cent of the error,
    which a mean below 0 has none of.

    Args:
        errors: method -> for every task, in the same order for all, seed (or seed and test data) -> error as stored.
        percent: for every task, whether its error is a fraction that is shown as per cent.
    """
    compared = []
    for one, other in itertools.combinations(errors, 2):
        tasks = []
        for a, b, is_percent in zip(errors[one], errors[other], percent, strict=True):
            if seeds := a.keys() & b.keys():
                error, other_error = (mean_of(by_seed[seed] for seed in seeds) for by_seed in (a, b))
                tasks += [(error, other_error, is_percent)] if min(error, other_error) >= 0 else []
        compared += [(one, other, tasks)] if tasks else []
    is_relative = not all(is_percent for *_, tasks in compared for _, _, is_percent in tasks)
    pairs = [_pair(one, other, tasks, is_relative) for one, other, tasks in compared]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, corrected=p) for pair, p in zip(pairs, corrected, strict=True)]
    return [one for pair in pairs for one in (pair, pair.turned())]


def _pair(row: str, column: str, tasks: Sequence[tuple[float, float, bool]], is_relative: bool) -> Pair:
    points = [100 * difference(other, error) for error, other, is_percent in tasks if is_percent]
    shares = [100 * relative(other, error) for error, other, _ in tasks]
    wins, losses = sum(value > 0 for value in shares), sum(value < 0 for value in shares)
    counts = (wins, len(shares) - wins - losses, losses)
    p, smallest = signed_rank(shares if is_relative else points)
    mean_points = mean_of(points) if points else None
    return Pair(row, column, len(tasks), mean_points, mean_of(shares), *counts, p, smallest, is_relative=is_relative)


def layouts_of(overview: Across, table: Table) -> list[Layout]:
    """Return the tables; what is missing in `table` is said with the last one."""
    if len(overview.methods) < 2 or not overview.profiles:
        note = "methods over tasks: nothing to compare, since no task has an error above 0 of two methods or more"
        shown = [Layout(["method"], [], [], notes=[note])]
    else:
        shown = [_profiles(overview, table), *([_matrix(overview)] if overview.pairs else [])]
    shown[0] = replace(shown[0], heading=table.heading, notes=[*shown[0].notes, *_chosen(table), *table.remarks])
    return [*shown[:-1], replace(shown[-1], problems=excluded_runs(table), alarms=alarms_of(table))]


def _chosen(table: Table) -> Iterator[str]:
    """Yield what each method chose for every task."""
    for row in table.rows:
        named = zip(table.columns, row.cells, strict=True)
        if choices := [f"{column.name} {cell.choice}" for column, cell in named if cell.choice]:
            yield clean(f"{row.method}: {table.choice} {', '.join(choices)}", longest=2000)


def _profiles(overview: Across, table: Table) -> Layout:
    rows = []
    for one in overview.profiles:
        rank, count = overview.ranks.mean.get(one.method), len(one.ratios)
        texts = [MISSING if rank is None else f"{rank:.2f}", *(f"{100 * one.share(factor):.0f}" for factor in _FACTORS)]
        rows.append(([clean(one.method)], [*map(Entry, texts), Entry(f"{count - one.missing}/{count}")], ""))
    columns = [["rank", "mean"], *([f"{factor:g}x", "%"] for factor in _FACTORS), ["tasks", ""]]
    caption = (
        "Performance profiles: the share of tasks in % on which a method's error is within this factor of the lowest error of "
        "all methods; 1x: it is the best. tasks: how many it has an error on. rank: mean over tasks, 1 is best. Errors are "
        "means over seeds."
    )
    return Layout(["method"], columns, rows, caption, list(_profile_notes(overview, table)))


def _profile_notes(overview: Across, table: Table) -> Iterator[str]:
    common, every = len(overview.ranks.tasks), len(overview.columns)
    if overview.ranks.mean:
        friedman = overview.ranks.friedman
        test = "" if friedman is None else f"; Friedman's test that all methods are alike: p = {p_text(friedman)}"
        yield f"rank: over the {common} of {every} tasks on which every method has an error{test}"
    else:
        yield "rank: none, since no task has an error of every method; narrow with --where or merge with --by"
    alone = {column.name for column in overview.columns} - {column.name for column in overview.counted}
    if alone:
        yield clean(f"tasks with an error of one method at most do not count: {', '.join(sorted(alone))}", longest=2000)
    if overview.without_ratio:
        yield clean(
            f"not in the profiles, since nothing is a multiple of an error of 0 or below: {', '.join(overview.without_ratio)}"
        )
    if overview.negative:
        yield clean(f"not in the pairs, since an error is below 0: {', '.join(overview.negative)}")
    same: dict[tuple[str, ...], list[str]] = {}
    for method, tasks in overview.holes.items():
        if lacking := [task for task in tasks if task not in alone]:
            same.setdefault(tuple(lacking), []).append(method)
    for hole, methods in same.items():
        who = methods[0] if len(methods) == 1 else f"{len(methods)} methods ({'; '.join(methods)})"
        text = f"no error on {', '.join(hole)}, which counts as infinitely bad in the profile: {who}"
        yield clean(text, longest=2000)
    if len(overview.methods) > MOST:
        count = f"{len(overview.methods)} methods, at most {MOST}"
        yield f"pairs are left out: {count}; narrow with --where or merge with --by"
    few = [n for row in table.rows for cell in row.cells if 0 < (n := len(cell.values)) < LEAST]
    if few:
        yield f"{len(few)} means are of fewer than {LEAST} seeds; tests here are over tasks, and do not see how sure a mean is"


def _matrix(overview: Across) -> Layout:
    cells = {}
    for pair in overview.pairs:
        gain = round(pair.gain, 1) + 0.0  # -0.0 is shown as 0.0
        counts = f"{pair.wins}/{pair.ties}/{pair.losses} {p_text(pair.p)}"
        cells[pair.row, pair.column] = Entry(f"{gain:+.1f}", counts, pair.is_earned)
    count, is_relative = len(overview.pairs) // 2, overview.pairs[0].is_relative
    unit = "in % of the error" if is_relative else "in points"
    how = f"the difference {'over the mean of the two' if is_relative else 'of the'} errors"
    caption = (
        f"Every pair, over the tasks that both have with equal seeds. Row against column: mean gain {unit} ({how}; above 0: "
        "the row's errors are lower), wins/ties/losses by task, p of the exact signed-rank test over tasks (uncorrected). "
        f"Bold and *: {LEAST} or more tasks that differ and p <= {LARGEST_P} after Holm's correction "
        f"({count} pair{'s' if count > 1 else ''})."
    )
    notes = [] if any(pair.is_earned for pair in overview.pairs) else ["no pair earns a star"]
    rows, columns = [], []
    for place, method in enumerate(overview.methods, 1):
        missing = {other: Entry("" if other == method else MISSING) for other in overview.methods}
        entries = [cells.get((method, other), missing[other]) for other in overview.methods]
        rows.append(([str(place), clean(method)], entries, ""))
        columns.append([f"({place})", "gain", "w/t/l, p"])
    return Layout(["", "method"], columns, rows, caption, notes)


def record_of(overview: Across) -> dict[str, Any]:
    """Return it as a JSON-able record; a ratio or a share is a plain number, an infinite ratio is null."""
    return {
        "schema": 2,
        "methods": overview.methods,
        "tasks": [vars(column) for column in overview.columns],
        "counted": [column.name for column in overview.counted],
        "holes": overview.holes,
        "without_ratio": overview.without_ratio,
        "profiles": [
            {
                "method": one.method,
                "ratios": [ratio if math.isfinite(ratio) else None for ratio in one.ratios],
                "points": [list(point) for point in one.points],
                "missing": one.missing,
            }
            for one in overview.profiles
        ],
        "ranks": {
            "mean": overview.ranks.mean,
            "tasks": [overview.columns[place].name for place in overview.ranks.tasks],
            "friedman_p": overview.ranks.friedman,
        },
        "pairs": [{**asdict(one), "gain": one.gain, "earned": one.is_earned} for one in overview.pairs],
        "pairs_left_out": len(overview.methods) > MOST,
    }


def csv_lines(overview: Across) -> Iterator[dict[str, object]]:
    """Yield a line for each mean rank, corner of a profile and pair."""
    for method, rank in overview.ranks.mean.items():
        yield {"measure": "mean rank", "method": method, "tasks": len(overview.ranks.tasks), "value": rank}
    for one in overview.profiles:
        for factor, share in one.points:
            line = {"measure": "profile", "method": one.method, "factor": factor, "value": share}
            yield line | {"tasks": len(one.ratios), "unit": "share of tasks"}
    for pair in overview.pairs:
        line = {"measure": "gain", "method": pair.row, "other": pair.column, "tasks": pair.tasks, "value": pair.gain}
        line |= {"unit": "% of the error" if pair.is_relative else "points", "p": pair.p, "smallest_p": pair.smallest}
        line |= {"wins": pair.wins, "ties": pair.ties, "losses": pair.losses, "holm_p": pair.corrected}
        yield line
