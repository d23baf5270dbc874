"""Rows of arrays, in memory or mapped from a file: in blocks, channels first, of several lengths.

Shapes: N rows, C channels, *E the extent (L for sequences), B rows that are read together.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from orca_cli import signals
from orca_cli.data.untrusted.memory import release_pages

_BLOCK_BYTES = 2**24  # what is read at once from a mapped file


class Ragged:
    """Sequences of different lengths as one array [N, C, L], 0 after their ends.

    Rows are put together when they are asked for. What comes after a sequence's end is never read,
    so nothing can depend on it.

    Args:
        row: returns sequence i as [C, l], with l at least its length.
        lengths: [N], 1 or more; above L they count as L, and the sequence is cut.
        sample: (C, L).
        storage: the array that `row` reads; the pages of a large memory map are released after
            every read.
    """

    def __init__(
        self,
        row: Callable[[int], np.ndarray],
        lengths: np.ndarray,
        sample: tuple[int, int],
        dtype: DTypeLike,
        storage: object = None,
    ) -> None:
        # Shape, axes and dtype as an array has them: most code takes either form.
        self.shape = (len(lengths), *sample)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(dtype)
        self.lengths = np.minimum(lengths, sample[1]).astype(np.int64)
        self._row = row
        self._storage = storage

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sequences with these indices [B, C, L], and [B, L] bool, False after ends."""
        batch_shape = (len(rows), *self.shape[1:])
        batch = np.zeros(batch_shape, self.dtype)
        for position, row in enumerate(rows):
            length = self.lengths[row]
            sequence = self._row(int(row))
            batch[position, :, :length] = sequence[:, :length]
        # Without this, memory would grow to the size of the map.
        release_pages(self._storage)
        is_inside = np.arange(self.shape[2]) < self.lengths[rows, None]  # [B, L]
        return batch, is_inside


# Arrays in memory, memory maps, and sequences: all have shape, ndim, dtype and len.
AnyArray = np.ndarray | Ragged


def read(x: AnyArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows of x in C order, and [B, L] bool, False after sequences' ends; None of arrays.

    Mapped pages are released.
    """
    if isinstance(x, Ragged):
        return x.read(rows)
    # In C order, the same numbers sum to the same bits, however the file lays them out.
    block = np.ascontiguousarray(x[rows])
    release_pages(x)
    return block, None


def in_turn(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield `rows` in stretches of `size`, the last one possibly shorter.

    Signals are checked before each.
    """
    for start in range(0, len(rows), size):
        signals.check()
        yield rows[start : start + size]


def bytes_of_row(x: AnyArray) -> int:
    """Return the bytes that a row of x takes."""
    return x.dtype.itemsize * math.prod(x.shape[1:])


def masked_blocks(x: AnyArray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield what `read` returns for stretches of about 16 MiB, so no mapped file is held whole."""
    # At least 1, since a sample without values has no bytes.
    row_bytes = max(1, bytes_of_row(x))
    for block_rows in in_turn(rows, max(1, _BLOCK_BYTES // row_bytes)):
        yield read(x, block_rows)


def blocks(x: AnyArray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in C-ordered blocks of about 16 MiB.

    Sums over them do not depend on the order of bytes.
    """
    for block, _ in masked_blocks(x, rows):
        yield block


def channels_first(x: np.ndarray, channels_last: bool) -> np.ndarray:
    """Return inputs [N, L] as [N, 1, L], others as [N, C, *E]; with channels last from [N, *E, C].

    Nothing is copied.
    """
    # Checked first: inputs [N, L] have no axis of channels, whatever the setting says.
    if x.ndim == 2:
        return x[:, None]
    if channels_last and x.ndim > 2:
        return np.moveaxis(x, -1, 1)
    return x
