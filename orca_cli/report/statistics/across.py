"""The methods of a table over all its tasks: performance profiles, mean ranks, pairwise matrix.

A method is a row of the table, a task a column; an error is the mean over the seeds of a cell. How a hole counts is part
of each measure: in a profile as infinitely bad; a rank is over the tasks that every method has; a pair is over the tasks
that both have.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
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
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Method, Table

MOST = 20  # methods in a matrix; their pairs grow with the square, and nobody reads more


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

    @property
    def is_too_large(self) -> bool:
        """Return whether there are too many methods for pairs."""
        return len(self.methods) > MOST


def across(table: Table) -> Across:
    """Return what the tasks of a table say together about its methods; with fewer than two methods, its lists are empty.

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
        "pairs_left_out": overview.is_too_large,
    }


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


FACTORS = (1.0, 1.1, 1.5, 2.0, 4.0)  # where tables show a profile
_SAME = 1e-12  # ratios that differ by rounding only


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
