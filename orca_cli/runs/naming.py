"""Runs by what a user types: folder, name or its last eight digits."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from orca_cli.config import configuration
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import DataError

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
    folders: list[Path] = []
    if path.name == word and word not in (".", ".."):
        pattern = f"*_{word}" if _SHORT.fullmatch(word) else None
        folders = [folder for folder in root.glob("*/*") if folder.name == word or (pattern and folder.match(pattern))]
    if not folders:
        hint = f"give the folder of a run or of an export, or the name of a run in {root} (ORCA_RUNS)"
        raise DataError("no such run", where=word, hint=hint)
    return max(folders, key=lambda folder: folder.name)


def begun(path: Path) -> datetime | None:
    """Return the local time in a run folder's name; None where there is none."""
    match = _TIME.match(path.name)
    try:
        return datetime.strptime(match[1], "%Y-%m-%d_%H-%M-%S.%f").astimezone() if match else None
    except ValueError:  # such as 99 minutes
        return None
