"""Curves in short, for result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_POINTS = 100
Line = Mapping[str, Any]


def short_curve(lines: Sequence[Line], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of a curve, at most 100 lines, evenly spread, the first and the last among them."""
    return [{name: line[name] for name in names if name in line} for line in spread(lines, _MOST_POINTS)]


def spread(lines: Sequence[Line], most: int) -> list[Line]:
    """Return at most some of the lines, evenly spread, the first and the last among them."""
    count = min(most, len(lines))
    return [lines[place] for place in sorted({round(i * (len(lines) - 1) / max(count - 1, 1)) for i in range(count)})]
