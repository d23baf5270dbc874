"""What a run's records say beyond its error. Whatever is missing or malformed is left out: nothing here stops a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.runs.directory import RESULT
from orca_cli.runs.records import UnreadableError, read_record

_MOST_POINTS = 200

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curves:
    """Curves of one run: (epoch, metric on the training data) in stage 2, (epoch, loss) and (epoch, error) in stage 3.

    `floor` is the mean of the metric between two halves of the source data.
    """

    distance: Points = ()
    loss: Points = ()
    validation: Points = ()
    floor: float | None = None


def curves(path: Path) -> Curves:
    """Return the curves of a run's folder; empty where its record is missing or cannot be read.

    They are read only where they are drawn, since those of 10,000 runs would fill the memory.
    """
    try:
        record = read_record(path / RESULT) or {}
    except (UnreadableError, OSError):
        return Curves()
    recorded, distance = mapping(record.get("curves")), mapping(record.get("metric_value"))
    align, finetune = recorded.get("align"), recorded.get("finetune")
    loss, validation = (_points(finetune, name) for name in ("train_loss", "validation_error"))
    return Curves(_points(align, "loss"), loss, validation, number(mapping(distance.get("floor")).get("mean")))


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        return None
    return float(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a record, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mean_curve(curves: Iterable[Points]) -> list[tuple[float, float, float, float]]:
    """Return x, mean, lowest and highest value wherever most of the curves have one, in the order of x."""
    curves_by_x = [dict(points) for points in curves if points]
    places = sorted({x for points in curves_by_x for x in points})
    means = []
    for x in places:
        values = [points[x] for points in curves_by_x if x in points]
        if 2 * len(values) > len(curves_by_x):
            means.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return means


def _points(lines: Any, name: str) -> Points:
    """Return (epoch, value) of the lines that have both."""
    points = []
    for line in lines[:_MOST_POINTS] if isinstance(lines, list) else ():
        x, y = number(mapping(line).get("epoch")), number(mapping(line).get(name))
        if x is not None and y is not None:
            points.append((x, y))
    return tuple(points)
