"""Locks that end with their process, and a heartbeat for machines that cannot see these locks.

The age of a heartbeat is measured by the clock of the file system alone.
"""

import fcntl
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from orca_cli.exceptions import LockedError
from orca_cli.storage.disk import guarded, make_folder, new_file, temporary_name

# Seconds. A run on another machine counts as dead after three missing beats (`runs.claim`).
HEARTBEAT_S = 10.0


@contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """Touch a file every HEARTBEAT_S inside the block, for machines that cannot see the lock."""
    stop = threading.Event()

    def beat() -> None:
        # The wait ends as soon as the block ends.
        while not stop.wait(HEARTBEAT_S):
            # A missed beat is harmless: a run counts as dead only after three missed beats.
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    # If no thread can be started, at least processes on this machine see the lock.
    with suppress(RuntimeError):
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()


def clock(folder: Path) -> float | None:
    """Return the time by the clock of a folder's file system, in seconds; None if it is read-only.

    It may differ from the clock of this machine.
    """
    probe = temporary_name(folder / "clock")
    try:
        descriptor = new_file(probe)
    except OSError:
        return None
    try:
        # A call without times makes a file server use its own clock.
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def age_s(path: Path) -> float | None:
    """Return the seconds since a file was touched, by the clock of its file system.

    None if that clock cannot be read, infinity if there is no file.
    """
    try:
        # An opened file has its actual time; otherwise the time may come from a cache.
        with open(path, "rb") as file:
            touched = os.fstat(file.fileno()).st_mtime
    except OSError:
        return math.inf
    file_system_now = clock(path.parent)
    return None if file_system_now is None else file_system_now - touched


@contextmanager
def lock(
    path: Path,
    *,
    timeout_s: float = 0.0,
    what: str | Callable[[], str] = "it",
    while_waiting: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock; the operating system frees it when the process ends, however it ends.

    Args:
        path: file of the lock.
        timeout_s: longest wait in seconds, after which LockedError is raised.
        what: name of the guarded thing, for messages; a function if it depends on the holder.
        while_waiting: function that is called every second of the wait, and ends it by raising an
            error.
    """
    make_folder(path.parent)
    # The operating system holds the lock, not the file: a file that is left over locks nothing.
    file_lock = filelock.FileLock(path)
    deadline = time.monotonic() + timeout_s
    while not file_lock.is_locked:
        with guarded(path):
            try:
                # Each wait takes at most a second, so that `while_waiting` can notice signals.
                remaining_s = deadline - time.monotonic()
                file_lock.acquire(timeout=max(0.0, min(1.0, remaining_s)))
            except filelock.Timeout as error:
                if time.monotonic() >= deadline:
                    # Called only now, since it may have to read who holds the lock.
                    guarded_thing = what if isinstance(what, str) else what()
                    raise LockedError(
                        f"another process works on {guarded_thing}",
                        where=str(path),
                        hint="wait until it has ended",
                    ) from error
        if while_waiting is not None and not file_lock.is_locked:
            while_waiting()
    try:
        yield
    finally:
        file_lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a living process has the lock; nothing is written."""
    try:
        with open(path, "rb") as file:
            # Shared, so that two processes that check at the same time do not take each other for
            # the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # missing or unreadable
        return False
