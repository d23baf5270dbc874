"""Numbers and foreign names as text, the same in every format."""

from __future__ import annotations

import math

from orca_cli.report.cells import UNFINISHED, Cell
from orca_cli.terminal import visible

_LONGEST = 300
MISSING = "-"


def clean(text: str, *, longest: int = _LONGEST) -> str:
    """Return text from the disk with all that could move a cursor, hide or break a line written as an escape."""
    short = text if len(text) <= longest else f"{text[:longest]}..."
    return visible(short)


def decimals_of(means: list[float]) -> int | None:
    """Return the digits after the point that give the smallest of some means three significant digits.

    None where fixed digits do not fit: below 0.0001 or from 1,000,000 on.
    """
    sizes = [abs(mean) for mean in means if mean]
    if not sizes:
        return 2
    if min(sizes) < 1e-4 or max(sizes) >= 1e6:
        return None
    return max(0, 2 - math.floor(math.log10(min(sizes))))


def number(value: float, decimals: int | None) -> str:
    """Return a number with some digits after the point, or with three significant digits."""
    return f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"


def mean_text(cell: Cell, scale: float, decimals: int | None, sign: str) -> str:
    """Return "12.6 <sign> 0.8 (3)"; "-" where there is no value, and in place of a deviation of one seed."""
    if cell.mean is None:
        return MISSING
    deviation = MISSING if cell.deviation is None else number(cell.deviation * scale, decimals)
    return f"{number(cell.mean * scale, decimals)} {sign} {deviation} ({len(cell.values)})"


def remainder_text(cell: Cell) -> str:
    """Return what a cell's mean does not contain, such as "+1 failed +2 running"; empty where it contains all."""
    counts = {"undefined": cell.undefined, **{state: cell.unfinished[state] for state in UNFINISHED}}
    return " ".join(f"+{count} {state}" for state, count in counts.items() if count)


def trivial_text(bounds: tuple[float, float] | None, scale: float, decimals: int | None) -> str:
    """Return the error of the best constant predictor, or its range where test sets differ."""
    if bounds is None:
        return MISSING
    low, high = (number(bound * scale, decimals) for bound in bounds)
    return low if low == high else f"{low} to {high}"
