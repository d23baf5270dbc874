"""Rows of arrays that are in memory or mapped from a file, and sequences of different lengths.

Rows are read in blocks; channels can be moved to the front.

Shapes: N rows, C channels, *E the extent (L for sequences), B rows that are read together.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from orca_cli import signals
from orca_cli.data.untrusted.memory import release_pages

_BLOCK_BYTES = 2**24  # bytes that are read at once from a mapped file


class Ragged:
    """Sequences of different lengths as one array [N, C, L], with 0 after the end of each sequence.

    Rows are put together only when they are read. Values after the end of a sequence are never
    read, so they cannot affect anything.

    Args:
        row: returns sequence i as [C, l], with l at least its length.
        lengths: [N] length of each sequence, 1 or more; a sequence longer than L is cut to L.
        sample: shape of a sample, (C, L).
        dtype: type of the values that `row` returns.
        storage: array that `row` reads; if it is a large memory map, its pages are released after
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
        # The same attributes as those of an array, so that most code accepts both.
        self.shape = (len(lengths), *sample)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(dtype)
        self.lengths = np.minimum(lengths, sample[1]).astype(np.int64)
        self._row = row
        self._storage = storage

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sequences with these indices as [B, C, L], and their mask.

        The mask [B, L] is True inside a sequence, False after its end.
        """
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


# Arrays in memory, memory maps and `Ragged` sequences all have shape, ndim, dtype and len.
AnyArray = np.ndarray | Ragged


def read(x: AnyArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows of x in C order, and the mask of sequences; None as the mask of arrays.

    The mask [B, L] is False after the end of each sequence. The pages of a large memory map are
    released.
    """
    if isinstance(x, Ragged):
        return x.read(rows)
    # In C order, sums of the same numbers have the same bits whatever the order in the file.
    block = np.ascontiguousarray(x[rows])
    release_pages(x)
    return block, None


def in_turn(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield `rows` in consecutive parts of `size` rows; the last part may be shorter.

    Signals are checked before each part.
    """
    for start in range(0, len(rows), size):
        signals.check()
        yield rows[start : start + size]


def bytes_of_row(x: AnyArray) -> int:
    """Return the number of bytes of one row of x."""
    return x.dtype.itemsize * math.prod(x.shape[1:])


def masked_blocks(x: AnyArray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the rows and mask that `read` returns, in blocks of about 16 MiB.

    So a mapped file is never completely in memory.
    """
    # At least 1, since a sample without values has no bytes.
    row_bytes = max(1, bytes_of_row(x))
    for block_rows in in_turn(rows, max(1, _BLOCK_BYTES // row_bytes)):
        yield read(x, block_rows)


def blocks(x: AnyArray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in blocks of about 16 MiB, in C order.

    So sums over the blocks do not depend on the memory layout of x.
    """
    for block, _ in masked_blocks(x, rows):
        yield block


def channels_first(x: np.ndarray, channels_last: bool) -> np.ndarray:
    """Return inputs [N, L] as [N, 1, L], and inputs with a channel axis as [N, C, *E].

    With `channels_last`, inputs with a channel axis are [N, *E, C]. The inputs are not copied.
    """
    # Checked first: inputs [N, L] have no channel axis, whatever the setting is.
    if x.ndim == 2:
        return x[:, None]
    if channels_last and x.ndim > 2:
        return np.moveaxis(x, -1, 1)
    return x
