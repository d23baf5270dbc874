"""Locks that end with their process, and a heartbeat for machines that do not see them, by the file system's clock alone."""

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

HEARTBEAT_S = 10.0


@contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """Touch a file every HEARTBEAT_S inside the block, for readers on other machines, which cannot see our locks."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    with suppress(RuntimeError):  # no thread can be started: on this machine the lock is enough
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()


def clock(folder: Path) -> float | None:
    """Return the time of a folder's file system, in seconds, which may differ from this machine's; None if it is read-only."""
    probe = temporary_name(folder / "clock")
    try:
        descriptor = new_file(probe)
    except OSError:
        return None
    try:
        os.utime(descriptor)  # without times: a file server takes its own
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def age_s(path: Path) -> float | None:
    """Return the seconds since a file was touched, by its file system's clock (None: it has none); infinite without a file."""
    try:
        with open(
            path, "rb"
        ) as file:  # a file that is opened has its true time; others may come from a cache
            touched = os.fstat(file.fileno()).st_mtime
    except OSError:
        return math.inf
    moment = clock(path.parent)
    return None if moment is None else moment - touched


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
        timeout_s: how long to wait for it; then LockedError.
        what: what it guards, for messages; called where that depends on who holds it by then.
        while_waiting: called every second of the wait; ends it by raising.
    """
    make_folder(path.parent)
    held = filelock.FileLock(path)
    end = time.monotonic() + timeout_s
    while not held.is_locked:
        with guarded(path):
            try:
                held.acquire(timeout=max(0.0, min(1.0, end - time.monotonic())))
            except filelock.Timeout as error:
                if time.monotonic() >= end:
                    text = f"another process works on {what if isinstance(what, str) else what()}"
                    raise LockedError(text, where=str(path), hint="wait for it to end") from error
        if while_waiting is not None and not held.is_locked:
            while_waiting()
    try:
        yield
    finally:
        held.release()


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock; nothing is written, so it works on read-only folders."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # missing or unreadable
        return False
