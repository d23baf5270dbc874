"""SIGINT and SIGTERM set a flag; every long loop polls it, so that state is saved before the process ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orca_cli.exceptions import Interrupted

_pending: int | None = None


def _set(signum: int, frame: FrameType | None) -> None:
    global _pending
    if _pending is not None:  # the second signal does not wait for the loop
        raise Interrupted.by(signum)
    _pending = signum


@contextmanager
def deferred() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM inside the block into a flag; the second one ends the process at once."""
    global _pending
    _pending = None
    previous = {number: signal.signal(number, _set) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def pending() -> bool:
    """Return whether a signal has asked this process to stop."""
    return _pending is not None


def exit_code() -> int:
    """Return the exit code of the signal that asked this process to stop, also where the work ended meanwhile; 0 for none."""
    return 0 if _pending is None else Interrupted.by(_pending).code


def check() -> None:
    """Raise Interrupted where a signal has asked this process to stop."""
    if _pending is not None:
        raise Interrupted.by(_pending)
