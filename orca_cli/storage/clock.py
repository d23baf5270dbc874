"""The clock of names and records; durations are differences of `time.monotonic`."""

from __future__ import annotations

from datetime import datetime


def now() -> datetime:
    """Return the local time with its offset."""
    return datetime.now().astimezone()


def timestamp() -> str:
    """Return the local time to the microsecond in the form of run folders: YYYY-mm-dd_HH-MM-SS.ffffff."""
    return now().strftime("%Y-%m-%d_%H-%M-%S.%f")
