"""Pages of large memory maps are released after reading, so that a process does not grow to the size of its files."""

from __future__ import annotations

import mmap

import numpy as np

_LARGE = 2**28  # bytes of a map; smaller ones stay as they are


def release_pages(array: np.ndarray) -> None:
    """Release the pages of the read-only map that an array belongs to; other arrays are left alone.

    The content stays the same: what is read again comes from the file, mostly through the system's file cache.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    pages = owner.base
    if not (isinstance(owner, np.memmap) and owner.mode == "r" and isinstance(pages, mmap.mmap)):
        return
    if len(pages) >= _LARGE and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
