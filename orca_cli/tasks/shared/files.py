"""Where a task's files are, and how to get missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orca_cli.exceptions import DataError


def find(data_folder: Path, task: str, names: Sequence[str], path: str | None = None, hint: str = "") -> list[Path]:
    """Return the files or folders of a task.

    Args:
        data_folder: where data sets lie; the task's own folder below it is searched.
        task: its name.
        names: of the files, relative to the task's folder; all are needed.
        path: another folder, from the working folder or else from `data_folder`.
        hint: what else to do, besides how to get the files.

    Raises:
        DataError: a file is missing.
    """
    folder = _folder(data_folder, task, path)
    found = [folder / name for name in names]
    missing = [name for name, place in zip(names, found, strict=True) if not place.exists()]
    if missing:
        more = f" ({len(missing)} of {len(names)} files are missing)" if len(names) > 1 else ""
        advice = f"`orca data get {task}` fetches what can be fetched, `orca data list {task}` says where it is from"
        hint = f"{advice}; or give task.path=FOLDER" + (f"; {hint}" if hint else "")
        raise DataError(f"no file '{missing[0]}'{more}", where=str(folder), hint=hint)
    return found


def _folder(data_folder: Path, task: str, path: str | None) -> Path:
    if path is None:
        return data_folder / task
    given = Path(path).expanduser()
    for place in (given, data_folder / given):
        if place.is_dir():
            return place
    raise DataError(f"no folder '{given}'", where="task.path", hint="give the folder that holds the task's files")
