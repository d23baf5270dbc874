"""How much memory and disk space is free, asked before something large is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from orca_cli.exceptions import MemoryExhaustedError, StorageError


def check_memory(needed: int, where: str, hint: str = "store it as .npy, which is read in parts") -> None:
    """Compare a size in bytes with the memory that is free.

    Raises:
        MemoryExhaustedError: it is larger.
    """
    free = _free_memory()
    if free is not None and needed > free:
        raise MemoryExhaustedError(
            f"the array needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            where=where,
            hint=hint,
        )


def check_disk(needed: int, folder: Path, what: str) -> None:
    """Compare a size in bytes with the space on the disk of a folder that exists.

    Raises:
        StorageError: there is less space.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{what} needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            where=str(folder),
            hint="free some space and repeat, or choose another folder",
        )


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: the memory that is built in is the next best bound
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
