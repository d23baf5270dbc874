"""One split of a task that lies in arrays, in memory or mapped from a file; means and deviations of its training rows.

Shapes: N rows of the arrays, n samples of the split, C channels, *E the extent, K outputs.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from orca_cli.data.blocks import Ragged, blocks
from orca_cli.data.gaps import Gaps
from orca_cli.data.own_data import listed
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.interfaces import Batch, Scale


@dataclass(frozen=True)
class ChannelScale:
    """Subtracts each channel's mean over the training set and divides by its deviation, both [C] float64."""

    mean: np.ndarray
    std: np.ndarray  # 1 for constant channels

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return inputs [n, C, *E] scaled, in float64: float32 would lose a small signal on a large offset."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.mean.reshape(shape)) / self.std.reshape(shape)


class ArraySamples:
    """Samples (see interfaces) over arrays; inputs become float32 batch by batch, and are never copied as a whole.

    Inputs x [N, C, *E] of any real dtype may be a memory map, or sequences that know their lengths; y is [N, ...] as Batch.y;
    `valid` [N, *E] is False where the input is padding; `groups` [N] int64 is the record that each row is cut from. This split
    has the `rows` [n], or all. Without scale and gaps inputs stay as they are.
    """

    def __init__(
        self,
        x: np.ndarray | Ragged,
        y: np.ndarray,
        valid: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        scale: ChannelScale | None = None,
        groups: np.ndarray | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        if len(x) != len(y) or (valid is not None and len(valid) != len(x)):
            raise ValueError(f"{len(x)} inputs, {len(y)} targets")
        self._x, self._y, self._valid = x, y, valid
        self._rows = np.arange(len(x)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._scale, self._groups, self._gaps = scale, groups, gaps

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; nothing is augmented."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        x, valid = read_inputs(self._x, rows, self._scale, self._gaps, self._valid)
        return Batch(x, torch.from_numpy(self._y[rows].copy()), valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self._groups is None else self._groups[self._rows]

    def digest(self) -> str:
        """Return a SHA-256 over shape, dtype and bytes of inputs, targets, mask, records and normalisation."""
        digest = hashlib.sha256()
        lengths = self._x.lengths if isinstance(self._x, Ragged) else None
        parts = {"x": self._x, "y": self._y, "valid": self._valid, "groups": self._groups, "lengths": lengths}
        scale = {} if self._scale is None else {"mean": self._scale.mean, "std": self._scale.std}
        for name, array in (parts | scale).items():
            if array is not None:
                rows = np.arange(len(array)) if name in scale else self._rows
                digest.update(f"{name} {array.dtype.str} {(len(rows), *array.shape[1:])}".encode())
                for block in blocks(array, rows):
                    digest.update(block.tobytes())
        if self._gaps is not None:
            digest.update(f"gaps {self._gaps.how} {self._gaps.flagged}".encode() + self._gaps.fill.tobytes())
        return digest.hexdigest()


def as_inputs(
    x: np.ndarray, scale: ChannelScale | None, valid: np.ndarray | None = None, gaps: Gaps | None = None
) -> torch.Tensor:
    """Return inputs [B, C, *E] of any real dtype as the model takes them: scaled, 0 at padding, float32, in C order.

    Gaps are filled before, and their indicator channels follow the others.
    """
    flags = None
    if gaps is not None:
        x, flags = gaps.filled(x, valid)
    scaled = x if scale is None else scale.apply(x)
    if valid is not None:
        scaled = np.where(valid[:, None], scaled, 0)
    if flags is not None and flags.shape[1]:
        scaled = np.concatenate([scaled, flags], axis=1)
    return torch.from_numpy(np.ascontiguousarray(scaled.astype(np.float32)))


def read_inputs(
    x: np.ndarray | Ragged,
    rows: np.ndarray,
    scale: ChannelScale | None = None,
    gaps: Gaps | None = None,
    valid: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return rows of inputs [N, C, *E], with gaps, as Batch.x and Batch.valid; `valid` as that of `ArraySamples`."""
    read, mask = x[rows], None
    if isinstance(x, Ragged):
        mask = x.valid(rows)
    elif valid is not None:
        mask = np.ascontiguousarray(valid[rows], dtype=bool)
    release_pages(x)
    return as_inputs(read, scale, mask, gaps), None if mask is None else torch.from_numpy(mask)


def channel_scale(
    x: np.ndarray | Ragged, rows: np.ndarray, has_gaps: bool = False
) -> tuple[ChannelScale, np.ndarray, list[str]]:
    """Return the scale of inputs [N, C, *E] over the training rows [n], missing values [C], and a note on constant channels.

    Padding does not count, and where there are gaps NaN does not; the mean of a channel of NaN alone is NaN then.
    """
    if isinstance(x, Ragged) or has_gaps:
        return streamed_channel_scale(_known_parts(x, rows))
    axes = (0, *range(2, x.ndim))
    count = len(rows) * int(np.prod(x.shape[2:], dtype=np.int64))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in blocks(x, rows):
        mean += block.sum(axis=axes, dtype=np.float64) / count
    centre = mean.reshape(-1, *(1,) * (x.ndim - 2))
    for block in blocks(x, rows):
        squares += ((block - centre) ** 2).sum(axis=axes)
    scale, constants = _scale(mean, squares / count)
    return scale, np.zeros(x.shape[1], dtype=np.int64), constants


def _known_parts(x: np.ndarray | Ragged, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done = 0
    for block in blocks(x, rows):
        known = ~np.isnan(block) if block.dtype.kind == "f" else np.ones(block.shape, dtype=bool)
        if isinstance(x, Ragged):
            known &= x.valid(rows[done : done + len(block)])[:, None]
        done += len(block)
        yield block, known


def streamed_channel_scale(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[ChannelScale, np.ndarray, list[str]]:
    """Return what `channel_scale` returns, of inputs that are decoded once, part by part.

    A part is x [B, C, *E], 0 at padding, and [B, C, *E] bool that is False at padding and gaps, which do not count. The mean
    of a channel of which nothing is known is NaN.
    """
    count, mean, squares = np.zeros(1), np.zeros(1), np.zeros(1)
    missing = np.zeros(1, dtype=np.int64)
    for x, known in parts:
        # Means and squares of parts are merged about their own means, so that no large offset is squared.
        axes = (0, *range(2, x.ndim))
        size = known.sum(axis=axes).astype(np.float64)
        part_mean = np.where(known, x, 0).sum(axis=axes, dtype=np.float64) / np.maximum(size, 1)
        around = np.where(known, x - part_mean.reshape(-1, *(1,) * (x.ndim - 2)), 0).astype(np.float64)
        total = np.maximum(count + size, 1)
        squares = squares + (around**2).sum(axis=axes) + (part_mean - mean) ** 2 * count * size / total
        mean = mean + (part_mean - mean) * size / total
        count = count + size
        missing = missing + (np.isnan(x).sum(axis=axes) if x.dtype.kind == "f" else 0)
    scale, constants = _scale(np.where(count > 0, mean, np.nan), squares / np.maximum(count, 1))
    return scale, missing, constants


def _scale(mean: np.ndarray, variance: np.ndarray) -> tuple[ChannelScale, list[str]]:
    std = np.sqrt(variance)
    # Sums of many equal numbers are off by rounding; a deviation as small as that is not variation in the data.
    constant = std <= 1e-12 * np.abs(mean)
    note = f"warning: channel {listed(np.flatnonzero(constant))} is constant in the training set"
    return ChannelScale(mean, np.where(constant, 1.0, std)), [note] if constant.any() else []


def target_scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...] over targets [n, K, *E] that are not missing (NaN)."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    # One channel at a time in float64: squares of float32 leave its range for targets beyond 1e19 or below 1e-22.
    wide = (column.astype(np.float64) for column in columns)
    mean, std = np.transpose([(np.nanmean(column), np.nanstd(column)) for column in wide])
    std = np.where(std <= 1e-7 * np.abs(mean), 1.0, std)
    shape = (-1, *(1,) * (y.ndim - 2))
    return Scale(torch.from_numpy(mean.reshape(shape)).float(), torch.from_numpy(std.reshape(shape)).float())
