"""Rows of arrays, in memory or mapped from a file: block by block, channels first, and of different lengths as one array.

Shapes: N rows, C channels, *E the extent (L for sequences), B rows that are read together.
"""

from collections.abc import Callable, Iterator

import numpy as np

from orca_cli.data.untrusted.memory import release_pages

_BLOCK_BYTES = 2**24  # what is read at once from a mapped file


class Ragged:
    """Sequences that are put together when rows are asked for: `ragged[rows]` is [B, C, L], 0 after a sequence's end.

    `row` returns sequence i as [C, l], with l at least its length, of which `lengths` [N] has 1 or more, cut above L. What
    comes after the end is never read, so nothing can depend on it. The pages of an array `storage` are released after a read.
    """

    ndim = 3

    def __init__(
        self,
        row: Callable[[int], np.ndarray],
        lengths: np.ndarray,
        channels: int,
        length: int,
        dtype: np.dtype,
        storage: object = None,
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
        release_pages(self._storage)
        return x

    def valid(self, rows: np.ndarray) -> np.ndarray:
        """Return [B, L] bool, False after the end of each sequence."""
        return np.arange(self.shape[2]) < self.lengths[rows, None]


def blocks(x: np.ndarray | Ragged, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in C-ordered blocks of about 16 MiB: mapped files are never held whole, sums do not depend on order."""
    row_bytes = max(1, x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(x[rows[start : start + step]])
        release_pages(x)
        yield block


def channels_first(x: np.ndarray, channels_last: bool) -> np.ndarray:
    """Return inputs [N, L], [N, C, *E] or, with channels last, [N, *E, C] as [N, C, *E], without copying."""
    if x.ndim == 2:
        return x[:, None]
    return np.moveaxis(x, -1, 1) if channels_last and x.ndim > 2 else x
