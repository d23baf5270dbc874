"""Sequences of different lengths, read as one array of the longest one's extent.

Shapes: N sequences, C channels, L the extent, B rows that are read together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orca_cli.untrusted.memory import release_pages


class Ragged:
    """Sequences that are put together when rows are asked for: `ragged[rows]` is [B, C, L], 0 after a sequence's end.

    Whatever the storage holds after the end is never read, so nothing can depend on it.

    Args:
        row: returns sequence i as [C, l], with l at least its length.
        lengths: [N] integers, 1 or more; above L they are cut.
        channels: C.
        length: L.
        dtype: of the values.
        storage: the array that rows are read from, whose pages are released after each read; None where there is none.
    """

    ndim = 3

    def __init__(
        self,
        row: Callable[[int], np.ndarray],
        lengths: np.ndarray,
        channels: int,
        length: int,
        dtype: np.dtype,
        storage: np.ndarray | None = None,
    ) -> None:
        self._row, self._storage, self.dtype = row, storage, np.dtype(dtype)
        self.lengths = np.minimum(lengths, length).astype(np.int64)
        self.shape = (len(lengths), channels, length)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the sequences with these indices, [B, C, L]."""
        x = np.zeros((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            length = self.lengths[row]
            x[place, :, :length] = self._row(int(row))[:, :length]
        if self._storage is not None:
            release_pages(self._storage)
        return x

    def valid(self, rows: np.ndarray) -> np.ndarray:
        """Return [B, L] bool, False after the end of each sequence."""
        return np.arange(self.shape[2]) < self.lengths[rows, None]
