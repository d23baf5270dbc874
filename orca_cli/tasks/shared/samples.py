"""One split of a task that lies in arrays, in memory or mapped from a file; means and deviations of its training rows.

Shapes: N rows of the arrays, n samples of the split, C channels, *E the extent, K outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from orca_cli.interfaces import Batch, Scale
from orca_cli.tasks.shared.own_data import listed
from orca_cli.tasks.shared.ragged import Ragged
from orca_cli.untrusted.memory import release_pages

_BLOCK_BYTES = 2**24  # what is read at once from a mapped file


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


class ArraySamples:
    """Samples (see interfaces) over arrays; inputs become float32 batch by batch, and are never copied as a whole.

    Args:
        x: [N, C, *E], any real dtype; may be a memory map, or sequences that know their lengths.
        y: [N, ...] as Batch.y.
        valid: [N, *E] bool, False where the input is padding; None where nothing is, or `x` knows.
        rows: [n] indices of this split's rows; None takes all.
        scale: of the inputs' channels; None leaves them as they are.
        groups: [N] int64, the record that each row is cut from; None where rows stand alone.
    """

    def __init__(
        self,
        x: np.ndarray | Ragged,
        y: np.ndarray,
        valid: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        scale: ChannelScale | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        if len(x) != len(y) or (valid is not None and len(valid) != len(x)):
            raise ValueError(f"{len(x)} inputs, {len(y)} targets")
        self._x, self._y, self._valid = x, y, valid
        self._rows = np.arange(len(x)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._scale, self._groups = scale, groups

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; nothing is augmented."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        x, valid = self._x[rows], self._known(rows)
        release_pages(self._x)
        mask = None if valid is None else torch.from_numpy(valid)
        return Batch(as_inputs(x, self._scale, valid), torch.from_numpy(self._y[rows].copy()), mask)

    def _known(self, rows: np.ndarray) -> np.ndarray | None:
        if isinstance(self._x, Ragged):
            return self._x.valid(rows)
        return None if self._valid is None else np.ascontiguousarray(self._valid[rows], dtype=bool)

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
        return digest.hexdigest()


def as_inputs(x: np.ndarray, scale: ChannelScale | None, valid: np.ndarray | None = None) -> torch.Tensor:
    """Return inputs [B, C, *E] of any real dtype as the model takes them: scaled, 0 at padding, float32, in C order."""
    scaled = x if scale is None else scale.apply(x)
    if valid is not None:
        scaled = np.where(valid[:, None], scaled, 0)
    return torch.from_numpy(np.ascontiguousarray(scaled.astype(np.float32)))


def blocks(x: np.ndarray | Ragged, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in C-ordered blocks of about 16 MiB: mapped files are never held whole, sums do not depend on order."""
    row_bytes = max(1, x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(x[rows[start : start + step]])
        release_pages(x)
        yield block


def channel_scale(x: np.ndarray | Ragged, rows: np.ndarray) -> tuple[ChannelScale, list[int]]:
    """Return the scale of inputs [N, C, *E] over the training rows [n] but their padding, and which channels are constant."""
    if isinstance(x, Ragged):
        return streamed_channel_scale(_known_parts(x, rows))
    axes = (0, *range(2, x.ndim))
    count = len(rows) * int(np.prod(x.shape[2:], dtype=np.int64))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in blocks(x, rows):
        mean += block.sum(axis=axes, dtype=np.float64) / count
    centre = mean.reshape(-1, *(1,) * (x.ndim - 2))
    for block in blocks(x, rows):
        squares += ((block - centre) ** 2).sum(axis=axes)
    return _scale(mean, squares / count)


def _known_parts(x: Ragged, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done = 0
    for block in blocks(x, rows):
        valid = x.valid(rows[done : done + len(block)])
        done += len(block)
        yield block, np.broadcast_to(valid[:, None], block.shape)


def streamed_channel_scale(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[ChannelScale, list[int]]:
    """Return the scale of inputs that are decoded once, part by part, and which channels are constant.

    A part is x [B, C, *E], and [B, C, *E] bool that is False at padding, which does not count.
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
    note = f"warning: channel {listed(channels)} is constant in the training set and carries no information"
    return [note] if channels else []


def target_scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...] over targets [n, K, *E] that are not missing (NaN)."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    mean = np.nanmean(columns, axis=1, dtype=np.float64)
    std = np.nanstd(columns, axis=1, dtype=np.float64)
    std = np.where(std <= 1e-7 * np.abs(mean), 1.0, std)
    shape = (-1, *(1,) * (y.ndim - 2))
    return Scale(torch.from_numpy(mean.reshape(shape)).float(), torch.from_numpy(std.reshape(shape)).float())
