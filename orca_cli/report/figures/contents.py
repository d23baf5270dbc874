"""Which figures a report has, made from its table and the curves of its runs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orca_cli.report.figures.charts import LOOKS, Dot, Dots, Lines, Series
from orca_cli.report.records.collect import mapping, number
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.ranks import names_of
from orca_cli.report.statistics.verdicts import gain_text
from orca_cli.report.tables.notes import clean, column_names
from orca_cli.report.tables.table import Table
from orca_cli.runs.directory import RESULT, read_or_empty

_MOST_SEEDS = 20  # in the mean of a curve
_MOST_POINTS = 200
# Curves: kind; stage and name in a record; names of the axes. The distance is the metric on the training data.
_KINDS = (
    ("distance", "align", "loss", "distance to the source", "alignment epoch"),
    ("loss", "finetune", "train_loss", "training loss", "epoch"),
    ("validation", "finetune", "validation_error", "validation error", "epoch"),
)
Points = tuple[tuple[float, float], ...]


def curves_of(path: Path) -> dict[str, Points]:
    """Return the curves of a run's folder by kind: (epoch, value) wherever its record has both.

    They are read only where they are drawn, since those of 10,000 runs would fill the memory.
    """
    recorded = mapping(read_or_empty(path / RESULT).get("curves"))
    return {kind: _points(recorded.get(stage), name) for kind, stage, name, _, _ in _KINDS}


def _points(lines: Any, name: str) -> Points:
    points = []
    for line in lines[:_MOST_POINTS] if isinstance(lines, list) else ():
        x, y = number(mapping(line).get("epoch")), number(mapping(line).get(name))
        if x is not None and y is not None:
            points.append((x, y))
    return tuple(points)


def mean_curve(curves: Iterable[Points], scale: float = 1.0) -> tuple[tuple[float, float, float, float], ...]:
    """Return x, mean, lowest and highest value times `scale`, wherever most of the curves have one, in the order of x."""
    by_x: dict[float, list[float]] = defaultdict(list)
    count = 0
    for points in curves:
        count += bool(points)
        for x, y in dict(points).items():
            by_x[x].append(scale * y)
    common = ((x, values) for x, values in sorted(by_x.items()) if 2 * len(values) > count)
    return tuple((x, math.fsum(values) / len(values), min(values), max(values)) for x, values in common)


def all_charts(table: Table, comparison: Comparison | None) -> list[Lines | Dots]:
    """Return every figure of a report."""
    if comparison is None:
        return [*_curves(table)]
    rows = []  # the gain of every arm over all sets
    for one in comparison.overall:
        low, high = one.gain.interval or (one.gain.mean, one.gain.mean)
        rows.append(Dot(clean(one.arm), one.gain.mean, 0, low, high, gain_text(one.gain, 1)))
    base = clean(f"{comparison.axis}={comparison.baseline}")
    note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
    return [Dots("gains", f"Gain over {base}, all sets", comparison.unit, tuple(rows), note), *_curves(table)]


def _curves(table: Table) -> Iterator[Lines]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first LOOKS methods.
    """
    for place, title in enumerate(column_names(table.columns)):
        rows = [row for row in table.rows if row.cells[place].runs]
        names = names_of([row.method for row in rows]) if len(rows) > 1 else [row.method.metric for row in rows]
        drawn = [
            (row.method.metric, clean(name), [curves_of(run.path) for run in row.cells[place].runs[:_MOST_SEEDS]])
            for row, name in zip(rows[:LOOKS], names, strict=False)
        ]
        note = "Mean over seeds, band: lowest to highest"
        note += f"; the first {LOOKS} of {len(rows)} methods." if len(rows) > LOOKS else "."
        for kind, _, _, y, x in _KINDS:
            scale = table.columns[place].scale if kind == "validation" else 1.0
            series: dict[str, list[Series]] = defaultdict(list)  # distances of metrics have nothing in common
            for look, (metric, name, read) in enumerate(drawn):
                if points := mean_curve((one[kind] for one in read), scale):
                    count = f" ({len(read)})" if len(read) > 1 else ""
                    series[f"{clean(metric)} " if kind == "distance" else ""].append(Series(name + count, points, look))
            for part, (metric, lines) in enumerate(sorted(series.items()), 1):
                heading, unit = clean(f"{title}: {metric}{y}"), f"{y}, %" if scale != 1.0 else y
                yield Lines(f"{kind}-{place + 1}-{part}", heading, x, unit, tuple(lines), note)
