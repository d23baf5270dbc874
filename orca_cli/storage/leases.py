"""Leases: files that say who works on something, for machines that share a folder but neither locks nor a clock.

A lease is a file that only one process can create. Its holder renews it, which sets its time of modification; one that has not
been renewed for long enough is taken away by renaming it. All times are the file system's: `renew` and `clock` let it set
them, and no machine's own clock is compared with another's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orca_cli.storage.disk import fsync_folder, guarded, make_folder, new_file, temporary_name

_LARGEST = 2**16  # bytes; a real one has some 200


def take(path: Path, record: dict[str, Any]) -> bool:
    """Create a lease; False where there is one already.

    Raises:
        StorageError: it cannot be written.
    """
    make_folder(path.parent)
    with guarded(path):
        try:
            descriptor = new_file(path)
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)
    return True


def renew(path: Path) -> bool:
    """Renew a lease; False where it has been taken away.

    Raises:
        StorageError: the file system does not answer.
    """
    with guarded(path):
        try:
            os.utime(path)  # without times the file system's server takes its own, also on NFS
        except FileNotFoundError:
            return False
    return True


def take_away(path: Path, aside: Path) -> bool:
    """Take a lease from its holder by renaming it; False where another process has done so, or the holder has ended it.

    Raises:
        StorageError: it cannot be renamed.
    """
    with guarded(path):
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        fsync_folder(path.parent)
    return True


def read(path: Path) -> tuple[dict[str, Any], float] | None:
    """Return a lease's record, empty if unreadable, and when it was last renewed, by `clock`; None where there is none."""
    try:
        with open(path, "rb") as file:  # a file that is opened has its true time, where others may come from a cache
            renewed = os.fstat(file.fileno()).st_mtime
            content = file.read(_LARGEST)
    except OSError:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        record = {}
    return record if isinstance(record, dict) else {}, renewed


def clock(folder: Path) -> float:
    """Return the time of a folder's file system, in seconds: the one that it gives a file that is renewed now.

    Raises:
        StorageError: the folder cannot be written.
    """
    probe = temporary_name(folder / "clock")
    with guarded(probe):
        descriptor = new_file(probe)
        try:
            os.utime(descriptor)
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
