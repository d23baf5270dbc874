"""Bring inputs to a body's resolution, and maps of the resolution back to the task's extent.

A sequence is resampled to rows * columns steps (at most one row more than it has), folded row by row, and resized; nothing is
padded. The way back undoes the steps in reverse order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from orca_cli.interfaces import TokenLayout


def to_canvas(x: Tensor, layout: TokenLayout) -> Tensor:
    """Return [B, C, *layout.extent] for inputs [B, C, *E]; bilinear, with antialiasing where it shrinks."""
    if layout.canvas is None:
        return x
    if layout.fold is not None:
        rows, columns = layout.fold
        x = _resample(x, rows * columns).unflatten(-1, (rows, columns))
    return _resize(x, layout.canvas)


def from_canvas(maps: Tensor, layout: TokenLayout) -> Tensor:
    """Return [B, K, *E] for maps [B, K, *layout.extent]."""
    if layout.canvas is None:
        return maps
    if layout.fold is not None:
        return _resample(_resize(maps, layout.fold).flatten(-2), layout.input_shape[1])
    height, width = layout.input_shape[1:]
    return _resize(maps, (height, width))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def _resample(x: Tensor, length: int) -> Tensor:
    if x.shape[-1] == length:
        return x
    return functional.interpolate(x, size=length, mode="linear", align_corners=False)
