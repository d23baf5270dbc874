"""Memory of arrays: whether enough is free, pages of files that were read, characters of texts."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, MemoryExhaustedError

# Bytes of a memory map from which on its pages are released.
_LARGE = 2**28
# The last character of Unicode. NumPy reads any 32 bits as a character, and fails once a text with
# a larger number is used.
_LAST_CHARACTER = 0x10FFFF


def check_memory(
    needed: int, where: str, hint: str = "store it as .npy, which is read in parts"
) -> None:
    """Raise MemoryExhaustedError where fewer than `needed` bytes are free.

    Only Linux says how many are; elsewhere this does nothing.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    # Lines such as `MemAvailable:  123 kB`.
    for line in lines:
        if not line.startswith("MemAvailable:"):
            continue
        free = int(line.split()[1]) * 1024
        if needed > free:
            message = (
                f"the array needs {needed / 2**30:.1f} GiB of memory, "
                f"{free / 2**30:.1f} GiB are free"
            )
            raise MemoryExhaustedError(message, where=where, hint=hint)


def release_pages(array: object) -> None:
    """Release the pages of the large read-only map that an array belongs to.

    Otherwise the process would grow to the size of the map. Other objects are left alone. Data that
    are read again come from the file, mostly through the system's file cache.
    """
    # A view refers to the array that it is a part of, the map to Python's object of the file.
    owner: Any = array
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    is_read_only = isinstance(owner, np.memmap) and owner.mode == "r"
    pages = getattr(owner, "base", None)
    if not is_read_only or not isinstance(pages, mmap.mmap) or len(pages) < _LARGE:
        return
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array.

    Raises:
        DataError: it holds texts with codes that are not Unicode characters.
    """
    if array.dtype.kind == "U" and array.size:
        # The same bytes as numbers, in the byte order of the array.
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST_CHARACTER:
            message = "holds text with invalid characters"
            raise DataError(message, where=where, hint="get the file again")
    return array
