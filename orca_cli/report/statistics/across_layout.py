"""Methods over tasks as tables and lines: profiles with ranks, every pair, probability of improvement."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orca_cli.report.statistics.across import MOST, Across
from orca_cli.report.statistics.differences import LARGEST_P, LEAST
from orca_cli.report.statistics.matrix import Pair
from orca_cli.report.statistics.profiles import FACTORS, Profile
from orca_cli.report.tables.layout import PLUS_MINUS, Entry, Layout, alarms_of, problems_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table

CSV_COLUMNS = (
    *("measure", "method", "other", "factor", "tasks", "unit", "value", "low", "high"),
    *("wins", "ties", "losses", "p", "smallest_p", "holm_p"),
)
_MISSING = "-"
_STEPS = 16  # characters of a drawn profile
_LARGEST = 4.0  # its last factor
_HEIGHTS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def layouts_of(found: Across, table: Table, sign: str = PLUS_MINUS) -> list[Layout]:
    """Return the tables; `sign` is +- where the output has ASCII only, and profiles are then drawn as digits."""
    if len(found.methods) < 2 or not found.profiles:
        note = "methods over tasks: nothing to compare, since no task has an error of two methods or more"
        return [_plain(["method"], [], [], "", [note], table)]
    shown = [_profiles(found, table, sign)]
    if found.pairs:
        shown += [_matrix(found), _improvements(found)]
    last = shown[-1]
    return [*shown[:-1], _plain(last.names, last.columns, last.rows, last.caption, last.notes, table)]


def _plain(
    names: list[str],
    columns: list[list[str]],
    rows: list[tuple[list[str], list[Entry], str]],
    caption: str,
    notes: list[str],
    table: Table | None = None,
) -> Layout:
    problems, alarms = ([], []) if table is None else (problems_of(table), alarms_of(table))
    return Layout(names, columns, rows, False, caption, notes, problems, alarms, [False] * len(columns))


def _profiles(found: Across, table: Table, sign: str) -> Layout:
    rows: list[tuple[list[str], list[Entry], str]] = []
    for one in found.profiles:
        rank = found.ranks.mean.get(one.method)
        shares = [Entry(f"{100 * one.share(factor):.0f}") for factor in FACTORS]
        has = len(one.ratios) - one.missing
        first = Entry(_MISSING if rank is None else f"{rank:.2f}")
        last = Entry(f"{has}/{len(one.ratios)}")
        rows.append(([clean(one.method)], [first, Entry(curve(one, sign)), *shares, last], ""))
    columns = [["rank", "mean"], ["profile", f"1x to {_LARGEST:g}x"]]
    columns += [*([f"{factor:g}x", "%"] for factor in FACTORS), ["tasks", ""]]
    caption = (
        "Performance profiles: the share of tasks in % on which a method's error is within this factor of the lowest error of "
        "all methods; 1x: it is the best. tasks: how many it has an error on. rank: mean over tasks, 1 is best. Errors are "
        "means over seeds."
    )
    return _plain(["method"], columns, rows, caption, list(_profile_notes(found, table)))


def _profile_notes(found: Across, table: Table) -> Iterator[str]:
    common, every = len(found.ranks.tasks), len(found.columns)
    if found.ranks.mean:
        friedman = found.ranks.friedman
        test = "" if friedman is None else f"; Friedman's test that all methods are alike: p = {_p(friedman)}"
        yield f"rank: over the {common} of {every} tasks on which every method has an error{test}"
    else:
        yield "rank: none, since no task has an error of every method; narrow with --where or merge with --by"
    alone = {column.name for column in found.columns} - {column.name for column in found.counted}
    if alone:
        yield clean(f"tasks with an error of one method at most do not count: {', '.join(sorted(alone))}", longest=2000)
    same: dict[tuple[str, ...], list[str]] = {}
    for method, tasks in found.holes.items():
        if lacking := [task for task in tasks if task not in alone]:
            same.setdefault(tuple(lacking), []).append(method)
    for hole, methods in same.items():
        who = methods[0] if len(methods) == 1 else f"{len(methods)} methods ({'; '.join(methods)})"
        text = f"no error on {', '.join(hole)}, which counts as infinitely bad in the profile: {who}"
        yield clean(text, longest=2000)
    if found.is_too_large:
        text = (
            f"pairs are left out: {len(found.methods)} methods, at most {MOST}; narrow with --where or merge with --by"
        )
        yield text
    few = [n for row in table.rows for cell in row.cells if 0 < (n := len(cell.values)) < LEAST]
    if few:
        yield f"{len(few)} means are of fewer than {LEAST} seeds; tests here are over tasks, and do not see how sure a mean is"


def curve(one: Profile, sign: str = PLUS_MINUS) -> str:
    """Return a profile as a line of blocks, or of digits (tenths, 9 for all tasks) where `sign` is ASCII.

    Factors are spaced evenly in their logarithm from 1 to 4.
    """
    shares = [one.share(_LARGEST ** (step / (_STEPS - 1))) for step in range(_STEPS)]
    if sign == PLUS_MINUS:
        return "".join(_HEIGHTS[math.ceil(share * 8)] for share in shares)
    return "".join(str(min(9, math.floor(share * 10))) for share in shares)


def _matrix(found: Across) -> Layout:
    of = {(pair.row, pair.column): pair for pair in found.pairs}
    count = len(found.pairs) // 2
    pairs = f"{count} pairs" if count > 1 else "1 pair"
    unit = "in % of the error" if found.pairs[0].is_relative else "in points"
    if found.pairs[0].is_relative:
        how = "the difference over the mean of the two errors"
    else:
        how = "the difference of the errors"
    caption = (
        f"Every pair, over the tasks that both have with equal seeds. Row against column: mean gain {unit} ({how}; above 0: "
        "the row's errors are lower), wins/ties/losses by task, p of the exact signed-rank test over tasks (uncorrected). "
        f"Bold and *: {LEAST} or more tasks that differ and p <= {LARGEST_P} after Holm's correction ({pairs})."
    )
    notes = [] if any(pair.is_earned for pair in found.pairs) else ["no pair earns a star"]
    rows = []
    for place, method in enumerate(found.methods, 1):
        entries = [_pair_entry(of.get((method, other)), method == other) for other in found.methods]
        rows.append(([str(place), clean(method)], entries, ""))
    columns = [[f"({place})", "gain", "w/t/l, p"] for place in range(1, len(found.methods) + 1)]
    return _plain(["", "method"], columns, rows, caption, notes)


def _pair_entry(pair: Pair | None, is_self: bool) -> Entry:
    if pair is None:
        return Entry("" if is_self else _MISSING)
    star = "* " if pair.is_earned else ""
    gain = round(pair.gain, 1) + 0.0  # -0.0 is shown as 0.0
    return Entry(f"{star}{gain:+.1f}", f"{pair.wins}/{pair.ties}/{pair.losses} {_p(pair.p)}", best=pair.is_earned)


def _improvements(found: Across) -> Layout:
    of = {(one.better, one.worse): one for one in found.improvements}
    rows = []
    for place, method in enumerate(found.methods, 1):
        entries = []
        for other in found.methods:
            one = of.get((method, other))
            if one is None:
                entries.append(Entry("" if method == other else _MISSING))
            else:
                ends = "" if one.interval is None else f"[{100 * one.interval[0]:.0f}, {100 * one.interval[1]:.0f}]"
                entries.append(Entry(f"{100 * one.share:.0f}", ends))
        rows.append(([str(place), clean(method)], entries, ""))
    caption = (
        "Probability of improvement in %: that a run of the row has a lower error than one of the column, mean over the tasks "
        "of both [95 % bootstrap interval, runs resampled within tasks]. 50: no difference. Intervals of few seeds are too "
        "narrow."
    )
    return _plain(
        ["", "method"], [[f"({place})", "%"] for place in range(1, len(found.methods) + 1)], rows, caption, []
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def csv_lines(found: Across) -> Iterator[dict[str, object]]:
    """Yield a line for each mean rank, corner of a profile, probability of improvement and pair."""
    blank: dict[str, object] = dict.fromkeys(CSV_COLUMNS)
    for method, rank in found.ranks.mean.items():
        yield blank | {"measure": "mean rank", "method": method, "tasks": len(found.ranks.tasks), "value": rank}
    for one in found.profiles:
        for factor, share in one.points:
            line = {"measure": "profile", "method": one.method, "factor": factor, "value": share}
            yield blank | line | {"tasks": len(one.ratios), "unit": "share of tasks"}
    for improvement in found.improvements:
        low, high = improvement.interval or (None, None)
        line = {"measure": "probability of improvement", "method": improvement.better, "other": improvement.worse}
        line |= {"tasks": improvement.tasks, "unit": "share of pairs of runs", "value": improvement.share}
        yield blank | line | {"low": low, "high": high}
    for pair in found.pairs:
        line = {"measure": "gain", "method": pair.row, "other": pair.column, "tasks": pair.tasks, "value": pair.gain}
        line |= {"unit": "% of the error" if pair.is_relative else "points", "p": pair.p, "smallest_p": pair.smallest}
        yield (
            blank | line | {key: getattr(pair, key) for key in ("wins", "ties", "losses")} | {"holm_p": pair.corrected}
        )
