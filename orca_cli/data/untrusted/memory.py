"""Checks of arrays of unknown origin (shapes, memory, characters), and release of mapped pages."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, MemoryExhaustedError

# Smallest memory map, in bytes, whose pages are released.
_LARGE = 2**28
# NumPy's own limit before version 2.
_MAX_AXES = 32
# The largest code point of Unicode. NumPy reads any 32 bits as a character, and fails later when a
# text with a larger code is used.
_LAST_CHARACTER = 0x10FFFF


def is_shape(shape: Any) -> bool:
    """Return whether an object of unknown origin is a valid shape of an array."""
    if type(shape) is not tuple or len(shape) > _MAX_AXES:
        return False
    # `type` rather than `isinstance`, because True is an instance of int as well.
    return all(type(extent) is int and extent >= 0 for extent in shape)


def check_memory(
    needed: int, where: str, hint: str = "store the array as .npy, which is read in parts"
) -> None:
    """Raise MemoryExhaustedError if fewer than `needed` bytes are free.

    The free memory is known on Linux only; on other systems this function does nothing.
    """
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return
    # Lines such as `MemAvailable:  123 kB`.
    for line in meminfo.splitlines():
        if not line.startswith("MemAvailable:"):
            continue
        free_kib = int(line.split()[1])
        if needed > free_kib * 1024:
            needed_gib = needed / 2**30
            free_gib = free_kib / 2**20
            raise MemoryExhaustedError(
                f"needs {needed_gib:.1f} GiB of memory, but only {free_gib:.1f} GiB are free",
                where=where,
                hint=hint,
            )


def release_pages(array: object) -> None:
    """Release the pages of the large read-only memory map that an array belongs to.

    Otherwise the process would grow to the size of the map. Other objects are not changed. Data
    that are read again come from the file, mostly through the system's file cache.
    """
    # The base of a view is the array that it is a part of; the base of a map is an mmap object.
    owner: Any = array
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    is_read_only = isinstance(owner, np.memmap) and owner.mode == "r"
    memory_map = getattr(owner, "base", None)
    if not is_read_only or not isinstance(memory_map, mmap.mmap) or len(memory_map) < _LARGE:
        return
    if hasattr(mmap, "MADV_DONTNEED"):
        memory_map.madvise(mmap.MADV_DONTNEED)


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array unchanged, after checking that its texts are valid.

    Raises:
        DataError: the array contains texts with codes that are not Unicode characters.
    """
    if array.dtype.kind == "U" and array.size:
        # The same bytes as numbers, in the byte order of the array.
        byte_order = array.dtype.str[0]
        texts = np.ascontiguousarray(array).reshape(-1)
        codes = texts.view(byte_order + "u4")
        if int(codes.max()) > _LAST_CHARACTER:
            raise DataError(
                "contains text with invalid characters", where=where, hint="get the file again"
            )
    return array
