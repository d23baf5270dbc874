"""One split of a task that lies in arrays, in memory or mapped from a file.

Shapes: N rows of the arrays, n samples of the split, C channels, *E the extent, K outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from orca_cli.interfaces import Batch
from orca_cli.untrusted.memory import release_pages

if TYPE_CHECKING:
    from orca_cli.tasks.shared.scales import ChannelScale

_BLOCK_BYTES = 2**24  # what is read at once from a mapped file


class ArraySamples:
    """Samples (see interfaces) over arrays; inputs become float32 batch by batch, and are never copied as a whole.

    Args:
        x: [N, C, *E], any real dtype; may be a memory map.
        y: [N, ...] as Batch.y.
        valid: [N, *E] bool, False where the input is padding; None where nothing is.
        rows: [n] indices of this split's rows; None takes all.
        scale: of the inputs' channels; None leaves them as they are.
        groups: [N] int64, the record that each row is cut from; None where rows stand alone.
    """

    def __init__(
        self,
        x: np.ndarray,
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
        """Return the samples with these indices (0..n-1), in this order; nothing is augmented."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        x = self._x[rows]
        release_pages(self._x)
        valid = None if self._valid is None else torch.from_numpy(np.ascontiguousarray(self._valid[rows], dtype=bool))
        return Batch(as_inputs(x, self._scale), torch.from_numpy(self._y[rows].copy()), valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self._groups is None else self._groups[self._rows]

    def digest(self) -> str:
        """Return a SHA-256 over shape, dtype and bytes of inputs, targets, mask, records and normalisation."""
        digest = hashlib.sha256()
        parts = (("x", self._x), ("y", self._y), ("valid", self._valid), ("groups", self._groups))
        for name, array in parts:
            if array is not None:
                _update(digest, name, array, self._rows)
        if self._scale is not None:
            for name, array in (("mean", self._scale.mean), ("std", self._scale.std)):
                _update(digest, name, array, np.arange(len(array)))
        return digest.hexdigest()


def as_inputs(x: np.ndarray, scale: ChannelScale | None) -> torch.Tensor:
    """Return inputs [B, C, *E] of any real dtype as the model takes them: scaled, float32, in C order."""
    return torch.from_numpy(np.ascontiguousarray((x if scale is None else scale.apply(x)).astype(np.float32)))


def blocks(x: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in C-ordered blocks of about 16 MiB: mapped files are never held whole, sums do not depend on order."""
    row_bytes = max(1, x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(x[rows[start : start + step]])
        release_pages(x)
        yield block


def _update(digest: hashlib._Hash, name: str, array: np.ndarray, rows: np.ndarray) -> None:
    digest.update(f"{name} {array.dtype.str} {(len(rows), *array.shape[1:])}".encode())
    for block in blocks(array, rows):
        digest.update(block.tobytes())
