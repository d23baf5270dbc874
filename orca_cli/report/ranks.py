"""Compare a table's methods over all its tasks: mean ranks, and each method with the first.

A method is a row of the table, a task is a column, and an error is the mean over the seeds of a
cell. Only tasks on which every method has an error count.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orca_cli.report.collect import GROUPS
from orca_cli.report.conditions import mixed
from orca_cli.report.differences import LARGEST_P, LEAST, holm, relative, sign_flip, signs
from orca_cli.report.layout import (
    Entry,
    Layout,
    Line,
    clean,
    number_text,
    p_text,
    settings_text,
)
from orca_cli.report.paired import check_sets
from orca_cli.report.table import Cell, Method, Table, is_source_implied

# 20 methods have 190 pairs, each with a separate test.
MOST = 20  # more methods are not tested, since the number of pairs grows with the square
# Method -> its errors by task, in one order of tasks; lower is better.
Errors = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Standing:
    """How one method performs over the tasks of a ranking.

    Args:
        rank: mean rank over tasks; 1 is best, ties share the mean of their ranks.
        gain: gain of the method that ranks first over this method: mean over tasks of the
            difference of their errors, in per cent of the mean of both errors.
        wins, ties, losses: number of tasks that the method that ranks first wins, ties and loses
            against this method.
        p: p of the exact sign-flip test of that gain; None for the first method itself, and if
            there are more than `MOST` methods.
        holm_p: p corrected for all pairs of methods, since the same errors decide which method
            ranks first.
    """

    method: str
    rank: float
    gain: float
    wins: int
    ties: int
    losses: int
    p: float | None
    holm_p: float | None


@dataclass(frozen=True)
class Ranking:
    """All methods, the best first.

    Args:
        standings: how each method performs; empty for fewer than two methods, and if no task has
            errors of all methods.
        tasks: tasks that count.
        holes: task that does not count -> reasons, such as a method without an error on it.
        friedman: p of Friedman's test that the ranks of all methods come from the same
            distribution; None for fewer than three methods or two tasks, and if all methods are
            tied on every task.
    """

    standings: list[Standing]
    tasks: list[str]
    holes: dict[str, list[str]]
    friedman: float | None


def rank(table: Table) -> Ranking:
    """Return how the methods of a table perform over the tasks on which all of them have errors.

    Raises:
        DataError: a task that counts was measured in several ways.
    """
    ranked_rows = []
    for table_row in table.rows:
        # A method without any error would remove every task.
        if any(cell.tested for cell in table_row.cells):
            ranked_rows.append(table_row)
    method_names = names_of([table_row.method for table_row in ranked_rows])
    errors_by_task = []  # [tasks][methods]
    columns = []
    holes = {}
    for position, column in enumerate(table.columns):
        cells = [table_row.cells[position] for table_row in ranked_rows]
        errors, reasons = _errors_on_task(cells, method_names)
        if reasons:
            holes[column.name] = reasons
        else:
            columns.append(column)
            errors_by_task.append(errors)
    # A task in two columns would count twice.
    check_sets(columns, "--compare")
    # [methods][tasks]
    errors_by_method = zip(*errors_by_task, strict=True)  # empty if no task counts
    # Not strict: if no task counts, names have no errors, and nothing is ranked.
    standings, friedman = ranked(dict(zip(method_names, errors_by_method, strict=False)))
    return Ranking(
        standings=standings,
        tasks=[column.name for column in columns],
        holes=holes,
        friedman=friedman,
    )


def _errors_on_task(cells: Sequence[Cell], names: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return the errors of methods on a task, and why the task does not count; empty if it does."""
    errors = []
    runs = []
    reasons = []
    for cell, name in zip(cells, names, strict=True):
        runs += cell.tested
        if cell.mean is None:
            reasons.append(f"no error of {name}")
        else:
            errors.append(cell.mean)
    # Errors on other data, or after longer training, do not rank the methods.
    for fact in mixed(runs):
        reasons.append(f"methods differ in {fact}")
    return errors, reasons


def names_of(methods: Sequence[Method]) -> list[str]:
    """Return a name for each method: its groups and settings that not all methods share.

    The source is left out if bodies imply it. A single method has its full name.
    """
    groups = list(GROUPS)
    if is_source_implied(methods):
        groups.remove("source")
    telling_groups = []
    for group in groups:
        # A group that all methods share does not distinguish them.
        if len({getattr(method, group) for method in methods}) > 1:
            telling_groups.append(group)
    settings = [set(method.settings) for method in methods]
    shared = set.intersection(*settings) if settings else set()
    method_names = []
    for method in methods:
        texts = [getattr(method, group) for group in telling_groups]
        unshared = [setting for setting in method.settings if setting not in shared]
        texts.append(settings_text(unshared, " "))
        method_names.append(" ".join(filter(None, texts)) or str(method))
    return method_names


def ranked(errors: Errors) -> tuple[list[Standing], float | None]:
    """Return the standings by rank, and the p of Friedman's test, see `Ranking`.

    Methods of equal rank are sorted by name. Fewer than two methods give ([], None).
    """
    if len(errors) < 2:
        return [], None
    # Imported where it is used, to keep the plain report fast.
    from scipy import stats

    rounded = []  # [methods][tasks]
    for errors_of_method in errors.values():
        # Errors that differ by rounding only are tied.
        rounded.append([float(f"{error:.12g}") for error in errors_of_method])
    # [methods, tasks]: methods are ranked within each task.
    ranks = stats.rankdata(rounded, axis=0)
    mean_ranks = ranks.mean(axis=1).tolist()
    rank_of = dict(zip(errors, mean_ranks, strict=True))
    ranked_names = sorted(errors, key=lambda name: (rank_of[name], name))
    # All pairs, including pairs without the first method: the correction depends on their number.
    p_values = _p_values(errors, ranked_names)
    corrected_values = holm(list(p_values.values()))
    corrected = dict(zip(p_values, corrected_values, strict=True))
    standings = []
    for name in ranked_names:
        # Against itself the first has gains of 0, and no p.
        pair = (ranked_names[0], name)
        gains = _gains(errors, pair)
        standings.append(
            Standing(
                method=name,
                rank=rank_of[name],
                gain=fmean(gains),
                **signs(gains),
                p=p_values.get(pair),
                holm_p=corrected.get(pair),
            )
        )
    friedman = None
    # Friedman's test divides by the spread of the ranks, which is 0 if all are tied.
    is_tied = (ranks == ranks[0]).all()
    # scipy requires at least three methods.
    if len(ranked_names) > 2 and len(rounded[0]) > 1 and not is_tied:
        friedman = float(stats.friedmanchisquare(*rounded).pvalue)
    return standings, friedman


def _p_values(errors: Errors, ranked_names: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the p of each pair of methods, the better one first; empty for too many methods."""
    if len(ranked_names) > MOST:
        return {}
    # Names come by rank, so that the better method of each pair is the first.
    pairs = itertools.combinations(ranked_names, 2)
    return {pair: sign_flip(_gains(errors, pair)) for pair in pairs}


def _gains(errors: Errors, pair: tuple[str, str]) -> list[float]:
    """Return by how much the better method's errors are lower, in per cent of both errors' mean.

    The order is that of the tasks.
    """
    better, worse = pair
    by_task = zip(errors[worse], errors[better], strict=True)
    return [100 * relative(base, error) for base, error in by_task]


def layout_of(ranking: Ranking) -> Layout:
    """Return the ranking as a table."""
    rows = []
    for position, standing in enumerate(ranking.standings):
        # Tasks that are tied add no sign pattern, so they do not count as differences.
        is_sure = (
            standing.wins + standing.losses >= LEAST
            and standing.holm_p is not None
            and standing.holm_p <= LARGEST_P
        )
        gain = number_text(standing.gain, 1, "+")
        texts = [
            f"{standing.wins}/{standing.ties}/{standing.losses}",
            p_text(standing.p),
            p_text(standing.holm_p),
        ]
        if position == 0:  # the first is not compared with itself
            gain = "-"
            texts = ["-", "-", "-"]
        entries = [
            Entry(text=f"{standing.rank:.2f}"),
            Entry(text=gain, best=is_sure),  # only the gain is marked
            *map(Entry, texts),
        ]
        rows.append(Line(names=[clean(standing.method)], entries=entries))
    caption = (
        "rank: mean rank over tasks, 1 is best. The other columns compare the method that ranks "
        "first with the method of the row: gain of the first method, in % of the mean of the two "
        "methods' errors; number of tasks that the first method wins, ties and loses; p of the "
        "exact sign-flip test. Holm: p corrected for all pairs of methods. Bold and *: the two "
        f"methods differ on at least {LEAST} tasks, and the corrected p is at most {LARGEST_P}."
    )
    return Layout(
        names=["method"],
        columns=[
            ["rank"],
            ["gain of the first method", "% of the error"],
            ["wins/ties/losses"],
            ["p"],
            ["p, Holm"],
        ],
        rows=rows,
        caption=caption if rows else "",
        notes=_notes(ranking),
    )


def _notes(ranking: Ranking) -> list[str]:
    holes = ranking.holes
    n_tasks = len(ranking.tasks)
    note = (
        f"ranked over the {n_tasks} of {n_tasks + len(holes)} tasks on which all methods can be "
        "compared"
    )
    if ranking.friedman is not None:
        note += f"; Friedman's test that all methods are equal: p = {p_text(ranking.friedman)}"
    if not ranking.standings:
        note = (
            "nothing to compare: there are fewer than two methods, or no task was run with all "
            "methods; leave methods out with --where"
        )
    notes = [note]
    if holes:
        left_out = []
        for task, reasons in holes.items():
            left_out.append(f"{task} ({', '.join(reasons)})")
        notes.append(f"left out: {'; '.join(left_out)}")
    return notes
