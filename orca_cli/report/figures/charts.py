"""What a figure shows, apart from how it is drawn (see svg.py).

A look is a number: each has a colour, and a dash or a marker besides, so that a figure is readable without colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOOKS = 8


@dataclass(frozen=True)
class Series:
    """A line of a `Lines`.

    Args:
        points: x, y, and the lowest and highest y that y stands for.
        look: see the module.
        chosen: x that is marked as the chosen one; None for none.
        level: a horizontal line that belongs to it, such as the floor of a distance; None for none.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    look: int
    chosen: float | None = None
    level: float | None = None


@dataclass(frozen=True)
class Lines:
    """Lines over a common x. `is_log`: of y; `is_step`: y holds until the next x."""

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    note: str = ""
    is_log: bool = False
    is_step: bool = False


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
    """Rows of values on a common axis; `line`: where a vertical line stands, such as at no gain; None for none."""

    name: str
    title: str
    x: str
    rows: tuple[Dot, ...]
    note: str = ""
    line: float | None = None


@dataclass(frozen=True)
class Matrix:
    """Cells of texts, which may have two lines.

    `shades` run from -1 to 1: above 0 is good (the row is better, the class is right); None leaves a cell without colour.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    shades: tuple[tuple[float | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Scatter:
    """Points in a square whose two axes have the same range, `low` to `high`, with its diagonal."""

    name: str
    title: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    low: float
    high: float
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


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten in an interval, at most five, or 1, 2 and 5 times them where there would be fewer than two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tens = [10.0**place for place in range(first, last + 1) if low * 0.999 <= 10.0**place <= high * 1.001]
    if len(tens) >= 2:
        return tens[:: -(-len(tens) // 5)]
    finer = (factor * 10.0**place for place in range(first - 1, last + 1) for factor in (1, 2, 5))
    return [value for value in finer if low * 0.999 <= value <= high * 1.001]


def bounds(values: Iterable[float], *, margin: float = 0.04) -> tuple[float, float]:
    """Return an interval that holds all values with some room; (0, 1) for none."""
    numbers = list(values)
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = margin * (high - low) if high > low else (abs(low) * 0.1 or 1.0)
    return low - room, high + room
