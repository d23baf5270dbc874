"""Whether a process works on a run: by its lock on this machine, by the lock file's heartbeat on another."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.runs.directory import LOCK, STAGE_FOLDERS

LIVING = ("created", *STAGE_FOLDERS)  # states of a run without a recorded end
_BEATS = 3  # missed heartbeats after which a run on another machine counts as dead


def is_worked_on(path: Path, status: dict[str, Any]) -> bool:
    """Return whether a living process works on a run, as far as this machine can tell; nothing is written.

    Args:
        path: run folder.
        status: its status record; empty if missing or unreadable.
    """
    return storage.is_locked(path / LOCK) or _beats_elsewhere(path, status)


def _beats_elsewhere(path: Path, status: dict[str, Any]) -> bool:
    """Return whether a process on another machine, whose lock may not be seen from here, works on the run."""
    if status.get("state") not in LIVING or status.get("host") in (None, socket.gethostname()):
        return False
    try:
        age = time.time() - (path / LOCK).stat().st_mtime
    except OSError:
        return False
    return age < _BEATS * storage.HEARTBEAT_S
