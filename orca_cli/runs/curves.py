"""Curves in short, for result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_POINTS = 100


def short_curve(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of a curve, at most 100 lines, evenly spread, the first and the last among them."""
    count = min(_MOST_POINTS, len(lines))
    places = sorted({round(i * (len(lines) - 1) / max(count - 1, 1)) for i in range(count)})
    return [{name: lines[place][name] for name in names if name in lines[place]} for place in places]
