"""How an input is cut into tokens (paper 3.1), and resized to a body's resolution and back.

Bodies that take sequences get a token for every k positions along every axis, in row-major order,
whatever the number of axes. Bodies that take images get a map. A sequence is resampled to
rows * columns steps (at most one row more than it has) and folded row by row; a volume is resampled
in the same way along its first axis, and its slices are laid side by side, row by row. The map is
then resized; nothing is padded. The way back undoes the steps in reverse order.
"""

import math
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from orca_cli.interfaces import TokenLayout

# Number of tokens that suffices for features that bypass the body, and for a small image
# (`input_grid`).
_COARSE_TOKENS = 64


def layout(
    input_shape: tuple[int, ...], *, max_tokens: int, canvas: tuple[int, int] | None
) -> TokenLayout:
    """Return how inputs become at most `max_tokens` tokens.

    The kernel k is the smallest that gives no more tokens (paper 3.1). Bodies without a canvas
    (text) take the input as it is: a map is cut into k x k patches, which are read row by row.
    Bodies with a canvas (images) get every input resized to it; the steps of a sequence and the
    slices of a volume are first folded into a near-square arrangement.

    Args:
        input_shape: (C, L), (C, H, W) or (C, D, H, W).
        max_tokens: upper bound on the number of tokens, at least 1.
        canvas: (height, width), or None for bodies that take sequences.
    """
    extent = input_shape[1:]
    fold = None
    # A body that takes maps gets a sequence or a volume as a map.
    if canvas is not None and len(extent) != 2:
        fold = fold_shape(extent[0])
    cut_extent = canvas or extent
    kernel = smallest_kernel(cut_extent, max_tokens)
    return TokenLayout(
        input_shape=input_shape,
        fold=fold,
        canvas=canvas,
        kernel=kernel,
        extent=tuple(cut_extent),
        grid=token_grid(cut_extent, kernel),
    )


def coarse(layout: TokenLayout) -> TokenLayout:
    """Return a layout of the same canvas with at most 64 tokens; an equal one if it has no more."""
    # The kernel is never smaller than the kernel of `layout`.
    kernel = max(layout.kernel, smallest_kernel(layout.extent, _COARSE_TOKENS))
    return replace(layout, kernel=kernel, grid=token_grid(layout.extent, kernel))


def input_grid(
    input_shape: tuple[int, ...],
    *,
    patch: int,
    largest_grid: tuple[int, int],
    smallest_side: int,
    max_tokens: int | None,
) -> tuple[int, int]:
    """Return (rows, columns) of an image body's patches for an input at the input's own size.

    A patch covers as few positions of the input per side as 64 patches allow, but at most as many
    as it has pixels per side. So an input is enlarged to the grid, and made smaller only if the
    body was pretrained with fewer rows or columns.

    Args:
        input_shape: (C, L), (C, H, W) or (C, D, H, W).
        patch: pixels per side of a patch.
        largest_grid: rows and columns that the body was pretrained with.
        smallest_side: smallest number of rows, and of columns, that the body accepts.
        max_tokens: upper bound on the number of patches; if it is set, it alone decides.
    """
    extent = input_shape[1:]
    # The extent of the map that `layout` will fold a sequence or volume into.
    if len(extent) != 2:
        rows, columns = fold_shape(extent[0])
        # A step of a sequence counts as a slice of 1 x 1.
        height, width = extent[1:] or (1, 1)
        extent = (rows * height, columns * width)
    if max_tokens is not None:
        rows, columns = token_grid(extent, smallest_kernel(extent, max_tokens))
        return rows, columns
    kernel = min(patch, smallest_kernel(extent, _COARSE_TOKENS))
    rows, columns = token_grid(extent, kernel)
    largest_rows, largest_columns = largest_grid
    # At least the smallest grid that the body accepts, and at most the grid of its pretraining.
    return (
        min(max(rows, smallest_side), largest_rows),
        min(max(columns, smallest_side), largest_columns),
    )


def smallest_kernel(extent: tuple[int, ...], max_tokens: int) -> int:
    """Return the smallest k for which the product of ceil(size / k) is at most `max_tokens`."""

    def token_count(kernel: int) -> int:
        return math.prod(token_grid(extent, kernel))

    positions_per_token = math.prod(extent) / max_tokens
    # Without rounding up, the root is the solution; the search starts from it.
    root = positions_per_token ** (1 / len(extent))
    kernel = max(1, math.floor(root))
    # Rounding up each axis, and floats, may put the start on either side of the solution.
    while kernel > 1 and token_count(kernel - 1) <= max_tokens:
        kernel -= 1
    while token_count(kernel) > max_tokens:
        kernel += 1
    return kernel


def token_grid(extent: tuple[int, ...], kernel: int) -> tuple[int, ...]:
    """Return ceil(size / kernel) per axis."""
    return tuple(-(-size // kernel) for size in extent)


def fold_shape(length: int) -> tuple[int, int]:
    """Return (rows, columns), nearly square; fewer than `rows` of their positions are unused."""
    # ceil(sqrt(length)), exact in integers.
    rows = math.isqrt(length - 1) + 1 if length > 1 else 1
    return rows, -(-length // rows)


def to_canvas(x: Tensor, layout: TokenLayout) -> Tensor:
    """Return inputs [B, C, *E] on the canvas, [B, C, *layout.extent]."""
    if layout.canvas is None:
        return x
    if layout.fold is not None:
        rows, columns = layout.fold
        x = _resample(x, rows * columns)
        x = x.unflatten(2, (rows, columns))  # [B, C, rows, columns], and (H, W) of a volume
        if x.dim() > 4:
            x = x.transpose(3, 4)  # [B, C, rows, H, columns, W]
            x = x.flatten(4).flatten(2, 3)  # [B, C, rows * H, columns * W]
    return resize(x, layout.canvas)


def from_canvas(maps: Tensor, layout: TokenLayout) -> Tensor:
    """Return maps [B, K, *layout.extent] at the extent of the input, [B, K, *E]."""
    if layout.canvas is None:
        return maps
    if layout.fold is None:
        return resize(maps, layout.input_shape[1:])
    rows, columns = layout.fold
    length, *slice_size = layout.input_shape[1:]
    if not slice_size:
        steps = resize(maps, layout.fold).flatten(-2)  # [B, K, rows * columns]
        return _resample(steps, length)
    height, width = slice_size
    # The steps of `to_canvas` in reverse.
    maps = resize(maps, (rows * height, columns * width))
    maps = maps.unflatten(3, (columns, width))
    maps = maps.unflatten(2, (rows, height))  # [B, K, rows, H, columns, W]
    slices = maps.transpose(3, 4).flatten(2, 3)  # [B, K, rows * columns, H, W]
    return _resample(slices, length)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps [B, C, H, W] resized to [B, C, *size]: bilinear, antialiased if smaller."""
    # The same size needs no interpolation, which would change last bits.
    present_size = tuple(x.shape[-2:])
    if present_size == tuple(size):
        return x
    return functional.interpolate(
        x, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def resize_positions(
    positions: Tensor, source_grid: tuple[int, int], grid: tuple[int, ...]
) -> Tensor:
    """Return the positions [rows * columns, D] of one grid, interpolated for another, [T, D].

    The interpolation is bicubic, as in vision transformers.
    """
    if source_grid == tuple(grid):
        return positions
    position_map = positions.T.unflatten(1, source_grid)  # [D, rows, columns]
    resized = functional.interpolate(
        position_map.unsqueeze(0), size=grid, mode="bicubic", align_corners=False
    )
    return resized[0].flatten(1).T


def _resample(inputs: Tensor, length: int) -> Tensor:
    """Return inputs [B, C, L, ...] resampled linearly to [B, C, length, ...]."""
    if inputs.shape[2] == length:
        return inputs
    axis_last = inputs.movedim(2, -1)  # [B, C, ..., L]
    # torch interpolates linearly in three axes only, the last of which is resized.
    flattened = axis_last.flatten(1, -2)
    resampled = functional.interpolate(flattened, size=length, mode="linear", align_corners=False)
    unflattened = resampled.reshape(*axis_last.shape[:-1], length)
    return unflattened.movedim(-1, 2)
