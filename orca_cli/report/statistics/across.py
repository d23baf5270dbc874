"""The methods of a table over all its tasks: performance profiles, mean ranks, pairs.

A method is a row of the table, a task a column; an error is the mean over the seeds of a cell. A missing error counts as
infinitely bad in a profile; ranks are over the tasks that every method has, pairs over those that both have.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import TEST_SET, mixed_test_sets
from orca_cli.report.statistics.differences import LARGEST_P, LEAST, holm, mean_of, relative, sign_flip
from orca_cli.report.statistics.paired import check_sets
from orca_cli.report.tables.layout import MISSING, Entry, Layout, alarms_of, excluded_runs, number, p_text
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Method, Table

MOST = 20  # methods that are paired; their pairs grow with the square, and nobody reads more
_FACTORS = (1.0, 1.1, 1.5, 2.0, 4.0)  # where tables show a profile
_SAME = 1e-12  # ratios that differ by rounding only
CSV_COLUMNS = ("measure", "method", "other", "factor", "tasks", "value", "wins", "ties", "losses", "p", "holm_p")


@dataclass(frozen=True)
class Across:
    """Methods over tasks.

    Args:
        methods: names of the rows that have an error, best first: by mean rank where there is one, else by the first corner
            of the profile.
        counted: the columns that two methods or more have an error on.
        holes: method -> the counted tasks that it has no error on; only methods that lack some.
        pairs: empty for more than `MOST` methods.
    """

    methods: list[str]
    columns: list[Column]
    counted: list[Column]
    holes: dict[str, list[str]]
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
    places = [place for place in range(len(columns)) if sum(cell.mean is not None for cell in table.cells(place)) > 1]
    counted = [columns[place] for place in places]
    check_sets(counted, "--compare")
    for place in places:
        if tests := mixed_test_sets(run for row in shown for run in row.cells[place].runs):
            what = f"the runs of {clean(columns[place].name)} were tested on {len(tests)} different test sets"
            some = ", ".join(sorted(name[:8] for name in tests)[:5])
            raise DataError(what, where="--compare", hint=f"narrow with --where {TEST_SET}=..., one of {some}")
    ranks = mean_ranks(means)
    method_profiles = profiles(means)
    order = {one.method: (ranks.mean.get(one.method, math.inf), -one.share(1.0), one.method) for one in method_profiles}
    methods = sorted(order, key=lambda name: order[name]) if method_profiles else sorted(rows)
    few = methods if len(methods) <= MOST else []
    holes = {name: [columns[place].name for place in places if means[name][place] is None] for name in methods}
    return Across(
        methods,
        columns,
        counted,
        {name: lacking for name, lacking in holes.items() if lacking},
        sorted(method_profiles, key=lambda one: methods.index(one.method)),
        ranks,
        pairs_of({name: [cell.by_test for cell in rows[name].cells] for name in few}),
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
    tasks = tuple(place for place, task in enumerate(zip(*errors.values(), strict=True)) if None not in task)
    if not tasks or len(errors) < 2:
        return Ranks({}, tasks, None)
    from scipy import stats

    # Errors that differ by rounding only are tied.
    rows = [[float(f"{row[place]:.12g}") for place in tasks] for row in errors.values()]
    mean = dict(zip(errors, stats.rankdata(rows, axis=0).mean(axis=1).tolist(), strict=True))
    if len(rows) < 3 or len(tasks) < 2 or all(len(set(task)) == 1 for task in zip(*rows, strict=True)):
        return Ranks(mean, tasks, None)
    return Ranks(mean, tasks, float(stats.friedmanchisquare(*rows).pvalue))


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
    """Two methods, over the tasks that both have.

    Args:
        tasks: on how many both have an error.
        gain: mean over tasks of other's error less method's, in per cent of the mean of the two, -200 to 200; above 0,
            `method` has the lower errors.
        wins, ties, losses: of `method`, by task.
        p: two-sided, exact sign-flip test over tasks.
        holm_p: Holm's p over all pairs.
    """

    method: str
    other: str
    tasks: int
    gain: float
    wins: int
    ties: int
    losses: int
    p: float
    holm_p: float = 1.0

    @property
    def is_earned(self) -> bool:
        """Return whether the two differ: at least six tasks that differ, and Holm's p at most 0.05."""
        return self.wins + self.losses >= LEAST and self.holm_p <= LARGEST_P


def pairs_of(errors: Mapping[str, Sequence[Mapping[Any, float]]]) -> list[Pair]:
    """Return every two methods that have a task in common, the earlier one first.

    A task counts for a pair where both have an error of the same seed, neither mean below 0, which has no per cent of it; its
    errors are then the means over the seeds that both have.

    Args:
        errors: method -> for every task, in the same order for all, seed (or seed and test data) -> error as stored.
    """
    pairs = []
    for one, other in itertools.combinations(errors, 2):
        gains = []
        for a, b in zip(errors[one], errors[other], strict=True):
            if seeds := a.keys() & b.keys():
                error, other_error = (mean_of(by_seed[seed] for seed in seeds) for by_seed in (a, b))
                gains += [100 * relative(other_error, error)] if min(error, other_error) >= 0 else []
        if gains:
            wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
            ties, p = len(gains) - wins - losses, sign_flip(gains)[0]
            pairs.append(Pair(one, other, len(gains), mean_of(gains), wins, ties, losses, p))
    corrected = holm([pair.p for pair in pairs])
    return [replace(pair, holm_p=p) for pair, p in zip(pairs, corrected, strict=True)]


def layouts_of(overview: Across, table: Table) -> list[Layout]:
    """Return the tables; what is missing in `table` is said with the last one."""
    if len(overview.methods) < 2 or not overview.profiles:
        note = "methods over tasks: nothing to compare, since no task has an error above 0 of two methods or more"
        shown = [Layout(["method"], [], [], notes=[note])]
    else:
        shown = [_profiles(overview), *([_pairs(overview)] if overview.pairs else [])]
    chosen = []  # what each method chose for every task
    for row in table.rows:
        named = zip(table.columns, row.cells, strict=True)
        if choices := [f"{column.name} {cell.choice}" for column, cell in named if cell.choice]:
            chosen.append(clean(f"{row.method}: {table.choice} {', '.join(choices)}", longest=2000))
    shown[0] = replace(shown[0], heading=table.heading, notes=[*shown[0].notes, *chosen, *table.remarks])
    return [*shown[:-1], replace(shown[-1], problems=excluded_runs(table), alarms=alarms_of(table))]


def _profiles(overview: Across) -> Layout:
    rows = []
    for one in overview.profiles:
        rank, count = overview.ranks.mean.get(one.method), len(one.ratios)
        texts = [MISSING if rank is None else f"{rank:.2f}", *(f"{100 * one.share(factor):.0f}" for factor in _FACTORS)]
        rows.append(([clean(one.method)], [*map(Entry, texts), Entry(f"{count - one.missing}/{count}")]))
    columns = [["rank", "mean"], *([f"{factor:g}x", "%"] for factor in _FACTORS), ["tasks", ""]]
    caption = (
        "Performance profiles: the share of tasks in % on which a method's error is within this factor of the lowest error of "
        "all methods; 1x: it is the best; a lowest error of 0 or below has no multiples and does not count. tasks: how many it "
        "has an error on. rank: mean over tasks, 1 is best. Errors are means over seeds."
    )
    return Layout(["method"], columns, rows, caption, list(_profile_notes(overview)))


def _profile_notes(overview: Across) -> Iterator[str]:
    """Yield over which tasks the ranks are, and which tasks do not count."""
    if overview.ranks.mean:
        common, friedman = len(overview.ranks.tasks), overview.ranks.friedman
        test = "" if friedman is None else f"; Friedman's test that all methods are alike: p = {p_text(friedman)}"
        yield f"rank: over the {common} of {len(overview.columns)} tasks on which every method has an error{test}"
    else:
        yield "rank: none, since no task has an error of every method; narrow with --where"
    if alone := {column.name for column in overview.columns} - {column.name for column in overview.counted}:
        yield clean(f"tasks with an error of one method at most do not count: {', '.join(sorted(alone))}", longest=2000)
    if overview.holes:
        lacking = "; ".join(f"{method} ({', '.join(tasks)})" for method, tasks in overview.holes.items())
        yield clean(f"a missing error counts as infinitely bad in the profile: {lacking}", longest=2000)
    if len(overview.methods) > MOST:
        yield f"pairs are left out: {len(overview.methods)} methods, at most {MOST}; narrow with --where"


def _pairs(overview: Across) -> Layout:
    rows = []
    for pair in overview.pairs:
        texts = [str(pair.tasks), f"{pair.wins}/{pair.ties}/{pair.losses}", p_text(pair.p), p_text(pair.holm_p)]
        entries = [Entry(number(pair.gain, 1, "+"), best=pair.is_earned), *map(Entry, texts)]
        rows.append(([clean(pair.method), clean(pair.other)], entries))
    columns = [["gain", "% of the error"], ["tasks"], ["wins/ties/losses"], ["p"], ["p, Holm"]]
    caption = (
        "Every pair, over the tasks that both have with equal seeds: mean gain in % of the error (the difference over the "
        "mean of the two errors; above 0: the method's errors are lower), p of the exact sign-flip test over tasks. An error "
        f"below 0 has no per cent and does not count. Bold and *: {LEAST} or more tasks that differ and p <= {LARGEST_P} "
        "after Holm's correction."
    )
    return Layout(["method", "against"], columns, rows, caption)


def record_of(overview: Across) -> dict[str, Any]:
    """Return it as a JSON-able record; a ratio or a share is a plain number, an infinite ratio is null."""
    return {
        "schema": 3,
        "methods": overview.methods,
        "tasks": [vars(column) for column in overview.columns],
        "counted": [column.name for column in overview.counted],
        "holes": overview.holes,
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
        "pairs": [{**asdict(one), "earned": one.is_earned} for one in overview.pairs],
        "pairs_left_out": len(overview.methods) > MOST,
    }


def csv_lines(overview: Across) -> Iterator[dict[str, object]]:
    """Yield a line for each mean rank, corner of a profile (a share of tasks) and pair (a gain in per cent of the error)."""
    for method, rank in overview.ranks.mean.items():
        yield {"measure": "mean rank", "method": method, "tasks": len(overview.ranks.tasks), "value": rank}
    for one in overview.profiles:
        for factor, share in one.points:
            line = {"measure": "profile", "method": one.method, "factor": factor, "value": share}
            yield line | {"tasks": len(one.ratios)}
    for pair in overview.pairs:
        yield asdict(pair) | {"measure": "gain", "value": pair.gain}
