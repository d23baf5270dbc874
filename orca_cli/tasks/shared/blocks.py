"""Rows of arrays, in memory or mapped from a file, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orca_cli.tasks.shared.ragged import Ragged
from orca_cli.untrusted.memory import release_pages

_BLOCK_BYTES = 2**24  # what is read at once from a mapped file


def blocks(x: np.ndarray | Ragged, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x[rows] in C-ordered blocks of about 16 MiB: mapped files are never held whole, sums do not depend on order."""
    row_bytes = max(1, x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(x[rows[start : start + step]])
        release_pages(x)
        yield block
