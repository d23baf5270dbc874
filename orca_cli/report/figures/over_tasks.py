"""Figures of the methods over all tasks: performance profiles, mean ranks, and a matrix for each thing said of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orca_cli.report.figures.charts import LOOKS, Chart, Dot, Dots, Lines, Matrix, Series
from orca_cli.report.statistics.across import Across
from orca_cli.report.tables.notes import clean

MOST_PROFILES = 2 * LOOKS
_WIDEST = 4.0  # factor over the lowest error


def over_tasks(found: Across) -> Iterator[Chart]:
    """Yield the figures that there are enough methods for."""
    if not found.profiles:
        return
    yield _profiles(found)
    if found.ranks.mean:
        ranks = sorted(found.ranks.mean.items(), key=lambda pair: pair[1])
        rows = tuple((clean(name), (Dot(rank, 0, "mean rank", text=f"{rank:.2f}"),)) for name, rank in ranks)
        note = f"Mean over the {len(found.ranks.tasks)} tasks on which every method has an error; 1 is best."
        yield Dots("ranks", "Mean rank", "rank (lower is better)", rows, note)
    if found.pairs:
        yield _gains(found)
    if found.improvements:
        shares = {(one.better, one.worse): 100 * one.share for one in found.improvements}
        cells = [[shares.get((row, column)) for column in found.methods] for row in found.methods]
        texts = [["" if share is None else f"{share:.0f}" for share in row] for row in cells]
        shades = [[None if share is None else share / 50 - 1 for share in row] for row in cells]
        note = "Per cent of pairs of runs in which the row's error is lower than the column's; 50: no difference."
        yield _matrix("improvement", "Probability of improvement", found, texts, shades, note)


def _profiles(found: Across) -> Lines:
    series = []
    for place, one in enumerate(found.profiles[:MOST_PROFILES]):
        corners = [(x, share) for x, share in one.points if x <= _WIDEST] + [(_WIDEST, one.share(_WIDEST))]
        points = tuple((x, 100 * share, 100 * share, 100 * share) for x, share in corners)
        series.append(Series(clean(one.method), points, place))
    rest = len(found.profiles) - len(series)
    more = f" The best {len(series)} of {len(found.profiles)} methods." if rest else ""
    note = f"Share of tasks on which a method's error is within this factor of the lowest; higher is better.{more}"
    axes = ("times the lowest error", "share of tasks, %")
    return Lines("profiles", "Performance profiles", *axes, tuple(series), note, is_step=True)


def _gains(found: Across) -> Matrix:
    of = {(pair.row, pair.column): pair for pair in found.pairs}
    largest = max(abs(pair.gain) for pair in found.pairs) or 1.0
    unit = "per cent of the error" if found.pairs[0].is_relative else "points"
    pairs = [[of.get((row, column)) for column in found.methods] for row in found.methods]
    texts = [["" if pair is None else f"{pair.gain:+.1f}{'*' * pair.is_earned}" for pair in row] for row in pairs]
    shades = [[None if pair is None else pair.gain / largest for pair in row] for row in pairs]
    note = f"Mean gain of the row over the column, {unit}; above 0: lower errors. *: p <= 0.05, Holm over all pairs."
    return _matrix("pairs", "Every pair", found, texts, shades, note)


def _matrix(
    name: str,
    title: str,
    found: Across,
    texts: Sequence[Sequence[str]],
    shades: Sequence[Sequence[float | None]],
    note: str,
) -> Matrix:
    names = tuple(map(clean, found.methods))
    return Matrix(name, title, names, names, tuple(map(tuple, texts)), tuple(map(tuple, shades)), note)
