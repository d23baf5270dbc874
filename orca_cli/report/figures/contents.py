"""Which figures a report has, made from its table and the curves of its runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from orca_cli.report.figures.charts import LOOKS, Dot, Dots, Lines, Series
from orca_cli.report.records import details
from orca_cli.report.records.details import Curves, mean_curve
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.ranks import names_of
from orca_cli.report.statistics.verdicts import gain_text
from orca_cli.report.tables.notes import clean, column_names
from orca_cli.report.tables.table import Table

_MOST_SEEDS = 20  # in the mean of a curve
# What is drawn along epochs (a field of `Curves`), and the names of its axes.
_KINDS = (
    ("distance", "distance to the source", "alignment epoch"),
    ("loss", "training loss", "epoch"),
    ("validation", "validation error", "epoch"),
)


def all_charts(table: Table, comparison: Comparison | None) -> list[Lines | Dots]:
    """Return every figure of a report."""
    return [*(gains(comparison) if comparison else ()), *curves(table)]


def gains(comparison: Comparison) -> Iterator[Dots]:
    """Yield the gain of every arm over all sets."""
    rows = []
    for one in comparison.overall:
        low, high = one.gain.interval or (one.gain.mean, one.gain.mean)
        rows.append(Dot(clean(one.arm), one.gain.mean, 0, low, high, gain_text(one.gain, 1)))
    base = clean(f"{comparison.axis}={comparison.baseline}")
    note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
    yield Dots("gains", f"Gain over {base}, all sets", comparison.unit, tuple(rows), note)


def curves(table: Table) -> Iterator[Lines]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds, the dotted one the floor of its distance. Drawn are the first LOOKS methods.
    """
    for place, title in enumerate(column_names(table.columns)):
        rows = [row for row in table.rows if row.cells[place].runs]
        names = names_of([row.method for row in rows]) if len(rows) > 1 else [row.method.metric for row in rows]
        drawn = [
            (row.method.metric, name, [details.curves(run.path) for run in row.cells[place].runs[:_MOST_SEEDS]])
            for row, name in zip(rows[:LOOKS], names, strict=False)
        ]
        note = "Mean over seeds, band: lowest to highest"
        note += f"; the first {LOOKS} of {len(rows)} methods." if len(rows) > LOOKS else "."
        for kind, y, x in _KINDS:
            scale = table.columns[place].scale if kind == "validation" else 1.0
            series: dict[str, list[Series]] = defaultdict(list)  # distances of metrics have nothing in common
            for look, (metric, name, read) in enumerate(drawn):
                one = _series(clean(name), look, read, kind, scale)
                if one.points:
                    series[f"{clean(metric)} " if kind == "distance" else ""].append(one)
            for part, (metric, lines) in enumerate(sorted(series.items()), 1):
                heading, unit = clean(f"{title}: {metric}{y}"), f"{y}, %" if scale != 1.0 else y
                dotted = " Dotted: the floor." if kind == "distance" else ""
                yield Lines(f"{kind}-{place + 1}-{part}", heading, x, unit, tuple(lines), note + dotted)


def _series(name: str, look: int, read: Sequence[Curves], kind: str, scale: float) -> Series:
    """Return the mean curve of a method on a task."""
    curve = mean_curve(getattr(one, kind) for one in read)
    points = tuple((x, scale * mean, scale * low, scale * high) for x, mean, low, high in curve)
    floors = [one.floor for one in read if one.floor is not None]
    level = mean_of(floors) if floors and kind == "distance" else None
    return Series(name + (f" ({len(read)})" if len(read) > 1 else ""), points, look, level)
