"""How an input is cut into tokens (paper 3.1), and its way to a body's resolution and back.

Bodies that take sequences get a token for every k positions along every axis, in row-major order, whatever the number of
axes. Bodies that take images get a map. A sequence is resampled to rows * columns steps (at most one row more than it has) and
folded row by row; a volume is resampled likewise along its first axis, and its slices are laid side by side, row by row. The
map is then resized; nothing is padded. The way back undoes the steps in reverse order.
"""

import math
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from orca_cli.interfaces import TokenLayout

_FEW = 64  # tokens


def layout(
    input_shape: tuple[int, ...], *, max_tokens: int, canvas: tuple[int, int] | None
) -> TokenLayout:
    """Return how inputs of shape (C, L), (C, H, W) or (C, D, H, W) become at most `max_tokens` tokens, 1 or more.

    The kernel k is the smallest with so few tokens (paper 3.1). Bodies without a canvas (text) take the input as it is: a map
    is cut into k x k patches that are read row by row. Bodies with one (images) get every input at its resolution (height,
    width); the steps of a sequence and the slices of a volume are first folded into a near-square arrangement.
    """
    extent = input_shape[1:]
    fold = fold_shape(extent[0]) if canvas is not None and len(extent) != 2 else None
    seen = canvas or extent
    kernel = smallest_kernel(seen, max_tokens)
    return TokenLayout(input_shape, fold, canvas, kernel, tuple(seen), token_grid(seen, kernel))


def coarse(layout: TokenLayout) -> TokenLayout:
    """Return the layout that cuts the same canvas into at most 64 tokens; itself where it does."""
    kernel = max(layout.kernel, smallest_kernel(layout.extent, _FEW))
    return replace(layout, kernel=kernel, grid=token_grid(layout.extent, kernel))


def input_grid(
    input_shape: tuple[int, ...],
    *,
    patch: int,
    most: tuple[int, int],
    least: int,
    max_tokens: int | None,
) -> tuple[int, int]:
    """Return (rows, columns) of patches that an input of shape (C, *E) is worth, whatever a body was pretrained with.

    A patch stands for as few positions as `_FEW` tokens allow, but never for more than it has pixels per side (`patch`): an
    input is enlarged to the grid, and made smaller only where the body has too few positions for it.

    Args:
        input_shape, patch: see above.
        most, least: rows and columns that the body was pretrained with, and that it needs.
        max_tokens: upper bound on the patches, which then replaces this rule.
    """
    extent = input_shape[1:]
    if len(extent) != 2:
        rows, columns = fold_shape(extent[0])
        height, width = extent[1:] or (1, 1)
        extent = (rows * height, columns * width)
    if max_tokens is not None:
        rows, columns = token_grid(extent, smallest_kernel(extent, max_tokens))
        return rows, columns
    kernel = min(patch, smallest_kernel(extent, _FEW))
    rows, columns = (
        min(max(size, least), top)
        for size, top in zip(token_grid(extent, kernel), most, strict=True)
    )
    return rows, columns


def smallest_kernel(extent: tuple[int, ...], max_tokens: int) -> int:
    """Return the smallest k for which the product of ceil(size / k) over the axes is at most `max_tokens`."""
    kernel = max(1, math.floor((math.prod(extent) / max_tokens) ** (1 / len(extent))))
    while (
        kernel > 1 and math.prod(token_grid(extent, kernel - 1)) <= max_tokens
    ):  # rounding of the root
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


def to_canvas(x: Tensor, layout: TokenLayout) -> Tensor:
    """Return [B, C, *layout.extent] for inputs [B, C, *E]."""
    if layout.canvas is None:
        return x
    if layout.fold is not None:
        rows, columns = layout.fold
        x = _resample(x, rows * columns).unflatten(2, (rows, columns))
        if x.dim() > 4:  # [B, C, rows, columns, H, W]
            x = x.transpose(3, 4).flatten(4).flatten(2, 3)
    return resize(x, layout.canvas)


def from_canvas(maps: Tensor, layout: TokenLayout) -> Tensor:
    """Return [B, K, *E] for maps [B, K, *layout.extent]."""
    if layout.canvas is None:
        return maps
    if layout.fold is None:
        return resize(maps, layout.input_shape[1:])
    rows, columns = layout.fold
    length, *slice_ = layout.input_shape[1:]
    if not slice_:
        return _resample(resize(maps, layout.fold).flatten(-2), length)
    height, width = slice_
    maps = (
        resize(maps, (rows * height, columns * width))
        .unflatten(3, (columns, width))
        .unflatten(2, (rows, height))
    )
    return _resample(maps.transpose(3, 4).flatten(2, 3), length)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps [B, C, *size] for maps [B, C, H, W]; bilinear, with antialiasing where it shrinks."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(
        x, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def resize_positions(
    positions: Tensor, source_grid: tuple[int, int], grid: tuple[int, ...]
) -> Tensor:
    """Return positions [T, D] of a grid for those [rows * columns, D] of another, bicubic as in vision transformers."""
    if source_grid == tuple(grid):
        return positions
    maps = positions.T.unflatten(1, source_grid).unsqueeze(0)  # [1, D, rows, columns]
    return (
        functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    )


def _resample(x: Tensor, length: int) -> Tensor:
    """Return inputs [B, C, length, ...] for [B, C, L, ...], linear along that axis."""
    if x.shape[2] == length:
        return x
    last = x.movedim(2, -1)
    resampled = functional.interpolate(
        last.flatten(1, -2), size=length, mode="linear", align_corners=False
    )
    return resampled.reshape(*last.shape[:-1], length).movedim(-1, 2)
