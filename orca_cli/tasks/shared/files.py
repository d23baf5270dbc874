"""Where a task's files are, and how to get missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orca_cli.exceptions import DataError


def find(data_folder: Path, task: str, names: Sequence[str], path: str | None = None, hint: str = "") -> list[Path]:
    """Return the files or folders of a task.

    Args:
        data_folder: where data sets lie, each in a folder with the task's name.
        task: its name.
        names: of the files, relative to the task's folder; all are needed.
        path: another folder, from the working folder or else from `data_folder`.
        hint: what else to do, besides how to get the files.

    Raises:
        DataError: a file is missing.
    """
    folder = data_folder / task
    if path is not None:
        given = Path(path).expanduser()
        folder = given if given.is_dir() else data_folder / given
        if not folder.is_dir():
            hint = "give the folder that holds the task's files"
            raise DataError(f"no folder '{given}'", where="task.path", hint=hint)
    found = [folder / name for name in names]
    missing = [name for name, place in zip(names, found, strict=True) if not place.exists()]
    if missing:
        more = f" ({len(missing)} of {len(names)} files are missing)" if len(names) > 1 else ""
        advice = f"`orca data get {task}` fetches what can be fetched, `orca data list {task}` says where it is from"
        hint = f"{advice}; or give task.path=FOLDER" + (f"; {hint}" if hint else "")
        raise DataError(f"no file '{missing[0]}'{more}", where=str(folder), hint=hint)
    return found
