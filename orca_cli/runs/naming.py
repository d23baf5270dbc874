"""Runs by what a user types (folder, name or its last eight digits), and whether a process works on one."""

from __future__ import annotations

import re
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from orca_cli import configuration, storage
from orca_cli.exceptions import DataError
from orca_cli.runs.directory import LOCK, STAGE_FOLDERS
from orca_cli.runs.identity import SHORT

_TIME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{6})_")
_SHORT = re.compile(rf"[0-9a-f]{{{SHORT}}}")


def named(word: str) -> Path:
    """Return the folder that a word means, a run or (by its path alone) an export; of several runs of one identity the newest.

    Raises:
        DataError: there is none.
    """
    path = Path(word).expanduser()
    if path.is_dir():
        return path
    root = configuration.default_folders()["runs"]
    found: list[Path] = []
    if path.name == word and word not in (".", ".."):
        pattern = f"*_{word}" if _SHORT.fullmatch(word) else None
        found = [folder for folder in root.glob("*/*") if folder.name == word or (pattern and folder.match(pattern))]
    if not found:
        hint = f"give the folder of a run or of an export, or the name of a run in {root} (ORCA_RUNS)"
        raise DataError("no such run", where=word, hint=hint)
    return max(found, key=lambda folder: folder.name)


def begun(path: Path) -> datetime | None:
    """Return the local time in a run folder's name; None where there is none."""
    found = _TIME.match(path.name)
    try:
        return datetime.strptime(found[1], "%Y-%m-%d_%H-%M-%S.%f").astimezone() if found else None
    except ValueError:  # 99 minutes past
        return None


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
