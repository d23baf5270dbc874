"""Curves as a line of characters: how stages 2 and 3 went, in a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.report.figures.of_report import Group, drawn, left_out, title_of
from orca_cli.report.records.details import Details, Points, mean_curve
from orca_cli.report.tables.table import Table

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII = "_.-~=+*#"
WIDTH = 24


def sparkline(values: Sequence[float], width: int = WIDTH, ramp: str = BLOCKS) -> str:
    """Return values as characters from low to high, at most `width`; each stands for the mean of those it covers."""
    found = [value for value in values if math.isfinite(value)]
    if len(found) > width:
        ends = [round(place * len(found) / width) for place in range(width + 1)]
        parts = [found[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        found = [math.fsum(part) / len(part) for part in parts]
    if not found:
        return ""
    low, high = min(found), max(found)
    if high == low:
        return ramp[0] * len(found)
    return "".join(ramp[min(int(len(ramp) * (value - low) / (high - low)), len(ramp) - 1)] for value in found)


def ramp() -> str:
    """Return the characters that standard output can print."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def renderables(table: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> list[RenderableType]:
    """Return the curves of every method on every task, each the mean over its seeds, with first and last value."""
    rows = list(_rows(table, groups, found))
    if not rows:
        return [Text("No run has recorded curves.")]
    headers = ("task", "method", "distance along alignment (floor)", "training loss", "validation error")
    shown: list[RenderableType] = [Text(""), terminal.table(headers, rows)]
    if rest := left_out(groups):
        text = f"Curves of {len(groups) - rest} of {len(groups)} methods on tasks are shown; --task and --where choose."
        shown.append(Text(text))
    return shown


def _rows(table: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> Iterator[list[str]]:
    characters = ramp()
    for group in drawn(groups):
        own = [found[run.path] for run in group.shown]
        floors = [one.floor[0] for one in own if one.floor is not None]
        floor = f" ({math.fsum(floors) / len(floors):.3g})" if floors else ""
        scale = 100.0 if group.column.percent else 1.0
        lines = [
            _line([one.distance for one in own], characters) + floor,
            _line([one.loss for one in own], characters),
            _line([one.validation for one in own], characters, scale),
        ]
        if any(line.strip("- ") for line in lines):
            yield [title_of(group.column, table.columns), group.counted, *lines]


def _line(curves: Sequence[Points], characters: str, scale: float = 1.0) -> str:
    values = [scale * mean for _, mean, _, _ in mean_curve(curves)]
    if not values:
        return "-"
    return f"{sparkline(values, ramp=characters)} {values[0]:.3g} > {values[-1]:.3g}"
