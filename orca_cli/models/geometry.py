"""How an input is cut into tokens: fold, canvas, kernel and grid, from shapes alone (paper 3.1)."""

from __future__ import annotations

import math

from orca_cli.interfaces import TokenLayout


def layout(input_shape: tuple[int, ...], *, max_tokens: int, canvas: tuple[int, int] | None) -> TokenLayout:
    """Return how inputs of one shape become at most `max_tokens` tokens.

    Bodies without a canvas (text) take the input as it is: a map is cut into k x k patches that are read row by row.
    Bodies with a canvas (images) get every input at their resolution; a sequence is first folded into a near-square map.

    Args:
        input_shape: (C, L) or (C, H, W).
        max_tokens: S, at least 1.
        canvas: (height, width), or None.
    """
    extent = input_shape[1:]
    fold = fold_shape(extent[0]) if canvas is not None and len(extent) == 1 else None
    seen = canvas if canvas is not None else extent
    kernel = smallest_kernel(seen, max_tokens)
    return TokenLayout(input_shape, fold, canvas, kernel, tuple(seen), token_grid(seen, kernel))


def smallest_kernel(extent: tuple[int, ...], max_tokens: int) -> int:
    """Return the smallest k for which the product of ceil(size / k) over the axes is at most `max_tokens`."""
    kernel = max(1, math.floor((math.prod(extent) / max_tokens) ** (1 / len(extent))))
    while kernel > 1 and math.prod(token_grid(extent, kernel - 1)) <= max_tokens:  # rounding of the root
        kernel -= 1
    while math.prod(token_grid(extent, kernel)) > max_tokens:
        kernel += 1
    return kernel


def token_grid(extent: tuple[int, ...], kernel: int) -> tuple[int, ...]:
    """Return ceil(size / kernel) per axis."""
    return tuple(-(-size // kernel) for size in extent)


def fold_shape(length: int) -> tuple[int, int]:
    """Return (rows, columns), nearly square, with rows * columns >= length and less than a row to spare."""
    rows = math.isqrt(length - 1) + 1 if length > 1 else 1
    return rows, -(-length // rows)
