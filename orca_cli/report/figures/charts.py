"""What a figure shows, apart from how it is drawn (see svg.py).

A look is a number: each has a colour, and neighbours differ in their dash, so that lines are readable without colours.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOOKS = 8


@dataclass(frozen=True)
class Series:
    """A line of a `Lines`; `points`: x, y, and the lowest and highest y that y stands for; `look`: see the module."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    look: int


@dataclass(frozen=True)
class Lines:
    """Lines over a common x."""

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    note: str = ""


@dataclass(frozen=True)
class Dot:
    """A row of a `Dots`: a value with its interval, and a text beside its label."""

    label: str
    value: float
    look: int
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Dots:
    """Rows of values on a common axis, and a vertical line at 0."""

    name: str
    title: str
    x: str
    rows: tuple[Dot, ...]
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """Counts of true classes (rows) that were predicted as others (columns), both in the order of `classes`."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Scatter:
    """True and predicted numbers in a square whose two axes have the same range, with its diagonal."""

    points: tuple[tuple[float, float], ...]
    title: str = ""
    note: str = ""


Chart = Lines | Dots | Matrix | Scatter


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers in an interval, about `count`."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def bounds(values: Iterable[float], *, margin: float = 0.04) -> tuple[float, float]:
    """Return an interval that holds all values with some room; (0, 1) for none."""
    numbers = list(values)
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = margin * (high - low) if high > low else (abs(low) * 0.1 or 1.0)
    return low - room, high + room
