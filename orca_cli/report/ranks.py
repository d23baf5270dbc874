"""The methods of a table over all its tasks: mean ranks, and each method against the one that ranks first.

A method is a row of the table, a task a column; an error is the mean over the seeds of a cell. Only tasks count on which every
method has an error.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orca_cli.report.conditions import mixed
from orca_cli.report.differences import LARGEST_P, LEAST, holm, relative, sign_flip
from orca_cli.report.layout import Entry, Layout, clean, number, p_text, settings_text
from orca_cli.report.paired import check_sets
from orca_cli.report.table import Column, Method, Table, is_source_implied

MOST = 20  # methods that are tested; their pairs grow with the square


@dataclass(frozen=True)
class Standing:
    """How one method does over the tasks of a ranking.

    Args:
        rank: mean over tasks; 1 is best, ties share the mean of their ranks.
        gain: of the method that ranks first over this one: mean over tasks of the difference of their errors, in per cent of
            the mean of both.
        wins, ties, losses: of the method that ranks first, by task.
        p: of the exact sign-flip test of that gain; None for the first itself, and for more than `MOST` methods.
        holm_p: corrected for all pairs of methods, since the errors themselves chose the first.
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
    """All methods, the first first.

    Args:
        standings: empty where there are fewer than two methods, or no task with errors of all.
        tasks: that count.
        holes: task that does not count -> why, such as a method without an error on it.
        friedman: p of Friedman's test that the ranks of all methods come from the same distribution; None for fewer than three
            methods or two tasks, and where all methods are tied everywhere.
    """

    standings: list[Standing]
    tasks: list[str]
    holes: dict[str, list[str]]
    friedman: float | None


def rank(table: Table) -> Ranking:
    """Return how the methods of a table do over its tasks.

    Raises:
        DataError: a task that counts was measured in several ways.
    """
    rows = [row for row in table.rows if any(cell.mean is not None for cell in row.cells)]
    names = names_of([row.method for row in rows])
    means: list[tuple[float, ...]] = []
    counted: list[Column] = []
    holes: dict[str, list[str]] = {}
    for place, column in enumerate(table.columns):
        errors = [row.cells[place].mean for row in rows]
        reasons = [
            f"no error of {name}"
            for name, error in zip(names, errors, strict=True)
            if error is None
        ]
        runs = [run for row in rows for run in row.cells[place].tested]
        reasons += [f"methods differ in {fact}" for fact in mixed(runs)]
        if reasons:
            holes[column.name] = reasons
            continue
        counted.append(column)
        means.append(tuple(error for error in errors if error is not None))
    check_sets(counted, "--compare")
    standings, friedman = ranked(dict(zip(names, zip(*means, strict=True), strict=False)))
    return Ranking(standings, [column.name for column in counted], holes, friedman)


def names_of(methods: Sequence[Method]) -> list[str]:
    """Return a name for each method that no other has: its parts and settings that not all methods share.

    The source is left out where bodies imply it. A method that is alone has its full name.
    """
    parts = ("body", *([] if is_source_implied(methods) else ["source"]), "metric", "finetune")
    fields = [name for name in parts if len({getattr(one, name) for one in methods}) > 1]
    common = set.intersection(*(set(one.settings) for one in methods)) if methods else set()
    names = []
    for one in methods:
        settings = settings_text((item for item in one.settings if item not in common), " ")
        names.append(
            " ".join(filter(None, (*(getattr(one, name) for name in fields), settings))) or str(one)
        )
    return names


def ranked(errors: Mapping[str, Sequence[float]]) -> tuple[list[Standing], float | None]:
    """Return the standings by rank, and the p of Friedman's test, see `Ranking`; methods of equal rank are sorted by name.

    `errors` has each method's errors on all tasks, in one order, lower is better; fewer than two methods give ([], None).
    """
    if len(errors) < 2:
        return [], None
    from scipy import stats

    # Errors that differ by rounding only are tied.
    rounded = [[float(f"{error:.12g}") for error in row] for row in errors.values()]
    means = dict(zip(errors, stats.rankdata(rounded, axis=0).mean(axis=1).tolist(), strict=True))
    first, *_ = names = sorted(means, key=lambda name: (means[name], name))
    friedman = None
    if (
        len(errors) > 2
        and len(rounded[0]) > 1
        and any(len(set(task)) > 1 for task in zip(*rounded, strict=True))
    ):
        friedman = float(stats.friedmanchisquare(*rounded).pvalue)
    pairs = list(
        itertools.combinations(names, 2)
    )  # with the first as the better one, its own come first
    gains = {
        (one, other): [
            100 * relative(base, error)
            for error, base in zip(errors[one], errors[other], strict=True)
        ]
        for one, other in pairs
    }
    p = {pair: sign_flip(gains[pair]) for pair in pairs if len(names) <= MOST}
    corrected = dict(zip(p, holm([*p.values()]), strict=True))
    standings = [Standing(first, means[first], 0.0, 0, len(rounded[0]), 0, None, None)]
    for pair in pairs[: len(names) - 1]:
        wins, losses = sum(gain > 0 for gain in gains[pair]), sum(gain < 0 for gain in gains[pair])
        facts = (fmean(gains[pair]), wins, len(rounded[0]) - wins - losses, losses)
        standings.append(
            Standing(pair[1], means[pair[1]], *facts, p.get(pair), corrected.get(pair))
        )
    return standings, friedman


def layout_of(ranking: Ranking) -> Layout:
    """Return the ranking as a table."""
    rows = []
    for one in ranking.standings:
        texts = [f"{one.rank:.2f}", *["-"] * 4]
        if one is not ranking.standings[0]:
            signs = f"{one.wins}/{one.ties}/{one.losses}"
            texts[1:] = number(one.gain, 1, "+"), signs, p_text(one.p), p_text(one.holm_p)
        is_sure = (
            one.wins + one.losses >= LEAST and one.holm_p is not None and one.holm_p <= LARGEST_P
        )
        entries = [Entry(text, best=is_sure and place == 1) for place, text in enumerate(texts)]
        rows.append(([clean(one.method)], entries))
    test = (
        ""
        if ranking.friedman is None
        else f"; Friedman's test that all are alike: p = {p_text(ranking.friedman)}"
    )
    n = len(ranking.tasks)
    holes = ranking.holes
    notes = [f"over the {n} of {n + len(holes)} tasks on which all methods can be compared{test}"]
    if not rows:
        notes = [
            "nothing to compare: no task has an error of every method, of two or more; narrow with --where"
        ]
    if holes:
        reasons = (f"{task} ({', '.join(why)})" for task, why in holes.items())
        notes.append(f"left out: {'; '.join(reasons)}")
    caption = (
        "rank: mean over tasks, 1 is best. The other columns are of the method that ranks first against this one: mean gain in "
        "% of the mean of both errors; tasks that it wins, ties and loses; p of the exact sign-flip test over tasks. Holm: "
        f"corrected for all pairs of methods. Bold and *: {LEAST} or more tasks that differ and p <= {LARGEST_P} then."
    )
    columns = [
        ["rank"],
        ["gain of the first", "% of the error"],
        ["wins/ties/losses"],
        ["p"],
        ["p, Holm"],
    ]
    return Layout(["method"], columns, rows, caption if rows else "", notes)
