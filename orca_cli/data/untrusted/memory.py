"""Arrays in memory: whether there is enough of it, pages of files that were read released again, texts checked."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, MemoryExhaustedError

_LARGE = 2**28  # bytes of a memory map from which on its pages are released
_LAST = 0x10FFFF  # of Unicode; NumPy takes any 32 bits for a character, and fails wherever such a text is used


def check_memory(
    needed: int, where: str, hint: str = "store it as .npy, which is read in parts"
) -> None:
    """Raise MemoryExhaustedError where fewer than `needed` bytes are free; Linux alone says how many are."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return  # another system
    free = next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), needed
    )
    if needed > free:
        what = (
            f"the array needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
        )
        raise MemoryExhaustedError(what, where=where, hint=hint)


def release_pages(array: object) -> None:
    """Release the pages of the large read-only map that an array belongs to, so that a process does not grow to its size.

    Any other object is left alone. What is read again comes from the file, mostly through the system's file cache.
    """
    owner: Any = array
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    pages = getattr(owner, "base", None)
    read_only = isinstance(owner, np.memmap) and owner.mode == "r"
    if (
        read_only
        and isinstance(pages, mmap.mmap)
        and len(pages) >= _LARGE
        and hasattr(mmap, "MADV_DONTNEED")
    ):
        pages.madvise(mmap.MADV_DONTNEED)


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array; raise DataError if it holds texts with codes that are not Unicode characters."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST:
            raise DataError(
                "holds text with invalid characters", where=where, hint="get the file again"
            )
    return array
