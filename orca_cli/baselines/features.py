"""Inputs of any extent as a table of features for models that take nothing else.

Shapes: B samples, C channels, *E extent; x is 0 and valid is False at padding.
"""

from __future__ import annotations

import math

import numpy as np

MOST_RAW = 4096  # values of an input that are features as they are
_CELLS = 2**22  # of the table of the training samples
_LEAST = 1024
_BANDS = 16  # of a series' spectrum


def width(rows: int, samples: int, most_cells: int) -> int:
    """Return how many features there may be.

    Args:
        rows: training samples.
        samples: of the larger split, which has to fit into `most_cells` values.
    """
    return min(max(_LEAST, min(MOST_RAW, _CELLS // max(1, rows))), max(1, most_cells // max(1, samples)))


def table(x: np.ndarray, valid: np.ndarray | None, most: int) -> np.ndarray:
    """Return features [B, F] float32, the same for equal shapes: all values, or summaries where these are more than `most`.

    Summaries are means over a grid of cells, and of every channel mean, deviation, least and largest value, mean absolute step
    along the last axis, and for series the logarithm of the power in bands of frequency. Where there is padding, the share of
    positions that are not padding is a feature too.

    Args:
        x: [B, C, *E].
        valid: [B, *E] bool, or None.
        most: number of values up to which an input is taken as it is.
    """
    if math.prod(x.shape[1:]) <= most:
        columns = [x.reshape(len(x), -1)]
    else:
        columns = _summaries(x, valid, most)
    if valid is not None:
        columns.append(valid.reshape(len(x), -1).mean(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _summaries(x: np.ndarray, valid: np.ndarray | None, most: int) -> list[np.ndarray]:
    mask = np.ones((len(x), 1, *x.shape[2:]), dtype=bool) if valid is None else valid[:, None]
    axes = tuple(range(2, x.ndim))
    count = np.maximum(mask.sum(axis=axes), 1)
    mean = x.sum(axis=axes) / count  # padding is 0
    around = np.where(mask, x - mean.reshape(*mean.shape, *(1 for _ in axes)), 0)
    columns = [
        mean,
        np.sqrt((around**2).sum(axis=axes) / count),
        np.where(mask, x, np.inf).min(axis=axes, initial=np.inf, where=mask),
        np.where(mask, x, -np.inf).max(axis=axes, initial=-np.inf, where=mask),
    ]
    if x.shape[-1] > 1:
        both = mask[..., 1:] & mask[..., :-1]
        steps = np.abs(np.diff(x, axis=-1))
        columns.append(np.where(both, steps, 0).sum(axis=axes) / np.maximum(both.sum(axis=axes), 1))
    if x.ndim == 3 and x.shape[2] >= 2 * _BANDS:
        power = np.abs(np.fft.rfft(around, axis=2)) ** 2
        edges = np.unique(np.geomspace(1, power.shape[2], _BANDS + 1).astype(int))
        bands = [power[:, :, low:high].mean(axis=2) for low, high in zip(edges[:-1], edges[1:], strict=True)]
        columns.append(np.log1p(np.stack(bands, axis=2)).reshape(len(x), -1))
    columns = [np.where(np.isfinite(column), column, 0) for column in columns]  # samples of padding alone
    left = most - sum(column.shape[1] for column in columns)
    if left < x.shape[1]:  # the channels' own figures take all the room
        flat = np.concatenate(columns, axis=1)
        return [flat[:, : max(1, most)]]
    return [*columns, pooled(x, mask, left // x.shape[1])]


def pooled(x: np.ndarray, mask: np.ndarray, cells: int) -> np.ndarray:
    """Return means over at most `cells` cells of every channel, [B, C * cells]; 0 where a cell is all padding."""
    sizes = _grid(x.shape[2:], cells)
    total, weight = x, np.broadcast_to(mask, (len(x), 1, *x.shape[2:])).astype(np.float32)
    for axis, size in enumerate(sizes, 2):
        starts = np.arange(size) * x.shape[axis] // size
        total, weight = (np.add.reduceat(part, starts, axis=axis) for part in (total, weight))
    return (total / np.maximum(weight, 1)).reshape(len(x), -1)


def _grid(extent: tuple[int, ...], cells: int) -> list[int]:
    """Return the number of cells along each axis, in proportion to its length, and at most `cells` together."""
    sizes = list(extent)
    while math.prod(sizes) > cells and max(sizes) > 1:
        factor = (cells / math.prod(sizes)) ** (1 / sum(size > 1 for size in sizes))
        largest = sizes.index(max(sizes))
        shrunk = [max(1, int(size * factor)) for size in sizes]
        sizes = shrunk if shrunk != sizes else [*sizes[:largest], sizes[largest] - 1, *sizes[largest + 1 :]]
    return sizes
