"""How much memory is free, checked before something large is read."""

from __future__ import annotations

import os
from pathlib import Path

from orca_cli.exceptions import MemoryExhaustedError


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
