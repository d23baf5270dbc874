"""Features of inputs for models that take a table: all values, or summaries of them.

Imports no torch.
"""

import math
from itertools import pairwise

import numpy as np

# Number of frequency bands of a series' spectrum.
_BANDS = 16


def table(x: np.ndarray, valid: np.ndarray | None, limit: int) -> np.ndarray:
    """Return features [B, F] float32 of x [B, C, *E], 0 at padding.

    The features are all values, or summaries if a sample has more than `limit` values.

    Summaries are means over a grid of cells. They also contain, for every channel, the mean, the
    standard deviation, the smallest and the largest value, and the mean absolute step along the
    last axis; for series also the log power in frequency bands. If samples have padding, where
    `valid` [B, *E] is False, the share of positions that are not padding is a feature too.
    """
    if math.prod(x.shape[1:]) <= limit:
        columns = [x.reshape(len(x), -1)]
    else:
        columns = _summaries(x, valid, limit)
    if valid is not None:
        columns.append(valid.reshape(len(x), -1).mean(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _summaries(x: np.ndarray, valid: np.ndarray | None, limit: int) -> list[np.ndarray]:
    num_channels = x.shape[1]
    mask_shape = (len(x), 1, *x.shape[2:])  # [B, 1, *E]
    mask: np.ndarray = np.ones(mask_shape, dtype=bool)
    if valid is not None:
        mask = valid[:, None]
    axes = tuple(range(2, x.ndim))
    count = np.maximum(mask.sum(axis=axes), 1)
    # Padding is 0 and adds nothing to the sum.
    mean = x.sum(axis=axes) / count
    centred = np.where(mask, x - np.expand_dims(mean, axes), 0)
    variance = (centred**2).sum(axis=axes) / count
    columns = [
        mean,
        np.sqrt(variance),
        x.min(axis=axes, initial=np.inf, where=mask),
        x.max(axis=axes, initial=-np.inf, where=mask),
    ]
    if x.shape[-1] > 1:
        is_step = mask[..., 1:] & mask[..., :-1]
        steps = np.where(is_step, np.abs(np.diff(x, axis=-1)), 0)
        step_count = np.maximum(is_step.sum(axis=axes), 1)
        columns.append(steps.sum(axis=axes) / step_count)
    if x.ndim == 3 and x.shape[2] >= 2 * _BANDS:
        columns.append(_spectrum(centred))
    # In a sample that is all padding, the smallest and the largest value are infinite.
    columns = [np.where(np.isfinite(column), column, 0) for column in columns]
    num_features = sum(column.shape[1] for column in columns)
    room = limit - num_features
    if room < num_channels:
        # The figures of the channels use up the limit.
        figures = np.concatenate(columns, axis=1)
        return [figures[:, : max(1, limit)]]
    return [*columns, pooled(x, mask, room // num_channels)]


def _spectrum(x: np.ndarray) -> np.ndarray:
    """Return the log power of series [B, C, T] in bands of frequency, [B, C * bands]."""
    power = np.abs(np.fft.rfft(x, axis=2)) ** 2
    spaced = np.geomspace(1, power.shape[2], _BANDS + 1)
    edges = np.unique(spaced.astype(int))
    band_means = []
    for low, high in pairwise(edges):
        band = power[:, :, low:high]
        band_means.append(band.mean(axis=2))
    band_power = np.stack(band_means, axis=2)
    return np.log1p(band_power).reshape(len(x), -1)


def pooled(x: np.ndarray, mask: np.ndarray, cells: int) -> np.ndarray:
    """Return means over a grid of cells of every channel of x [B, C, *E], [B, C * number of cells].

    A channel is cut into at most `cells` cells, in proportion to the lengths of the axes.

    `mask` [B, 1, *E] is False at padding, where x is 0 and does not count; a cell that is all
    padding has 0.
    """
    sizes = list(x.shape[2:])
    while math.prod(sizes) > cells and max(sizes) > 1:
        num_long_axes = sum(size > 1 for size in sizes)
        factor = (cells / math.prod(sizes)) ** (1 / num_long_axes)
        shrunk = [max(1, int(size * factor)) for size in sizes]
        if shrunk == sizes:
            shrunk[sizes.index(max(sizes))] -= 1
        sizes = shrunk
    total = x
    weight_shape = (len(x), 1, *x.shape[2:])
    weight = np.broadcast_to(mask, weight_shape).astype(np.float32)
    for axis, size in enumerate(sizes, 2):
        starts = np.arange(size) * x.shape[axis] // size
        total = np.add.reduceat(total, starts, axis=axis)
        weight = np.add.reduceat(weight, starts, axis=axis)
    return (total / np.maximum(weight, 1)).reshape(len(x), -1)
