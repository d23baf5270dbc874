"""Means and deviations learned from the training set: of the channels of inputs, and of real-valued targets.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from orca_cli.interfaces import Scale
from orca_cli.tasks.shared.own_data import listed
from orca_cli.tasks.shared.samples import blocks


@dataclass(frozen=True)
class ChannelScale:
    """Subtracts each channel's mean over the training set and divides by its deviation.

    Args:
        mean: [C] float64.
        std: [C] float64, positive; 1 for constant channels.
    """

    mean: np.ndarray
    std: np.ndarray

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [n, C, *E] scaled, in float64: float32 would lose a small signal on a large offset."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.mean.reshape(shape)) / self.std.reshape(shape)


def channel_scale(x: np.ndarray, rows: np.ndarray) -> tuple[ChannelScale, list[int]]:
    """Return the scale of inputs in memory or in a mapped file, and which channels are constant.

    Args:
        x: [N, C, *E].
        rows: [n], the training rows.
    """
    axes = (0, *range(2, x.ndim))
    count = len(rows) * int(np.prod(x.shape[2:], dtype=np.int64))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in blocks(x, rows):
        mean += block.sum(axis=axes, dtype=np.float64) / count
    centre = mean.reshape(-1, *(1,) * (x.ndim - 2))
    for block in blocks(x, rows):
        squares += ((block - centre) ** 2).sum(axis=axes)
    return _scale(mean, squares / count)


def streamed_channel_scale(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[ChannelScale, list[int]]:
    """Return the scale of inputs that are decoded once, part by part, and which channels are constant.

    Args:
        parts: x [B, C, *E], and [B, C, *E] bool that is False at padding, which does not count.
    """
    count, mean, squares = 0.0, np.zeros(1), np.zeros(1)
    for x, known in parts:
        # Means and squares of parts are merged about their own means, so that no large offset is squared.
        axes = (0, *range(2, x.ndim))
        size = known.sum() / known.shape[1]
        own = (x * known).sum(axis=axes) / size
        around = (((x - own.reshape(-1, *(1,) * (x.ndim - 2))) * known) ** 2).sum(axis=axes)
        squares = squares + around + (own - mean) ** 2 * count * size / (count + size)
        mean = mean + (own - mean) * size / (count + size)
        count += size
    return _scale(mean, squares / count)


def _scale(mean: np.ndarray, variance: np.ndarray) -> tuple[ChannelScale, list[int]]:
    std = np.sqrt(variance)
    # Sums of many equal numbers are off by rounding; a deviation as small as that is not variation in the data.
    constant = std <= 1e-12 * np.abs(mean)
    return ChannelScale(mean, np.where(constant, 1.0, std)), [int(i) for i in np.flatnonzero(constant)]


def constant_note(channels: list[int]) -> list[str]:
    """Return a warning that names constant channels, if there are any."""
    if not channels:
        return []
    return [f"warning: channel {listed(channels)} is constant in the training set and carries no information"]


def target_scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...] over targets [n, K, *E] that are not missing (NaN)."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    mean = np.nanmean(columns, axis=1, dtype=np.float64)
    std = np.nanstd(columns, axis=1, dtype=np.float64)
    std = np.where(std <= 1e-7 * np.abs(mean), 1.0, std)
    shape = (-1, *(1,) * (y.ndim - 2))
    return Scale(torch.from_numpy(mean.reshape(shape)).float(), torch.from_numpy(std.reshape(shape)).float())
