"""Methods over tasks as tables and lines: profiles with ranks, every pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orca_cli.report.statistics.across import FACTORS, MOST, Across
from orca_cli.report.statistics.differences import LARGEST_P, LEAST
from orca_cli.report.tables.layout import MISSING, Entry, Layout, alarms_of, excluded_runs, p_text
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table

CSV_COLUMNS = (
    *("measure", "method", "other", "factor", "tasks", "unit", "value"),
    *("wins", "ties", "losses", "p", "smallest_p", "holm_p"),
)


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
        texts = [MISSING if rank is None else f"{rank:.2f}", *(f"{100 * one.share(factor):.0f}" for factor in FACTORS)]
        rows.append(([clean(one.method)], [*map(Entry, texts), Entry(f"{count - one.missing}/{count}")], ""))
    columns = [["rank", "mean"], *([f"{factor:g}x", "%"] for factor in FACTORS), ["tasks", ""]]
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
    if overview.is_too_large:
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
