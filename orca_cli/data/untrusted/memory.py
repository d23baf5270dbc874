"""Memory: how much is free, checked before something large is read; and pages of files that were read, released again."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import MemoryExhaustedError

_LARGE = 2**28  # bytes of a memory map from which on its pages are released


def check_memory(needed: int, where: str, hint: str = "store it as .npy, which is read in parts") -> None:
    """Raise MemoryExhaustedError where fewer bytes are free than needed."""
    free = _free_memory()
    if free is not None and needed > free:
        what = f"the array needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
        raise MemoryExhaustedError(what, where=where, hint=hint)


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: the physical memory is the next best bound
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def release_pages(array: object) -> None:
    """Release the pages of the large read-only map that an array belongs to, so that a process does not grow to its size.

    Any other object is left alone. What is read again comes from the file, mostly through the system's file cache.
    """
    owner: Any = array
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    pages = getattr(owner, "base", None)
    read_only = isinstance(owner, np.memmap) and owner.mode == "r"
    if read_only and isinstance(pages, mmap.mmap) and len(pages) >= _LARGE and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
