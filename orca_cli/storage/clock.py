"""The clocks: one for names and records, one for durations."""

from __future__ import annotations

import time
from datetime import datetime


def now() -> datetime:
    """Return the local time with its offset."""
    return datetime.now().astimezone()


def timestamp() -> str:
    """Return the local time to the microsecond in the form of run folders: YYYY-mm-dd_HH-MM-SS.ffffff."""
    return now().strftime("%Y-%m-%d_%H-%M-%S.%f")


def monotonic() -> float:
    """Return seconds from a clock that never goes back; only differences mean something."""
    return time.monotonic()
