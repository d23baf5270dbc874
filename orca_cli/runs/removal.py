"""Removing a run: never through a link, never outside the folder of all runs, never one that a process works on."""

import os
from contextlib import ExitStack
from pathlib import Path

from orca_cli import storage
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import DataError, LockedError, UnsafeError
from orca_cli.runs.claim import alone, begun, is_worked_on
from orca_cli.runs.directory import ENVIRONMENT, LOCK, RESULT, STATUS, read_or_empty


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's: it has a record, or the name that the program gives runs."""
    return begun(path) is not None or any((path / name).is_file() for name in (STATUS, RESULT, ENVIRONMENT))


def check_removable(path: Path, root: Path) -> Path:
    """Return the real path of a run that may be removed.

    Args:
        path: the run's folder.
        root: folder of all runs, which may be a link itself.

    Raises:
        UnsafeError: the path is a link or leads through one, or out of the folder of runs.
        DataError: it is not a run.
        LockedError: a process works on it.
    """
    home, real = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    if path.is_symlink():
        raise UnsafeError("is a link; only what lies in the folder of runs is removed", where=str(path))
    if home not in real.parents:
        hint = "set ORCA_RUNS to its folder of runs to remove it"
        raise UnsafeError(f"leads out of the folder of runs, {home}", where=str(path), hint=hint)
    inside = real.relative_to(home)
    is_part = any(is_run(home / folder) for folder in list(inside.parents)[:-1])
    if is_part or not is_run(real) or any(part.startswith(".") for part in inside.parts):
        what = "is not a run: it has no records, or is a part of one"
        raise DataError(what, where=str(path), hint="orca runs list shows the runs")
    if is_worked_on(real, read_or_empty(real / STATUS), recent_counts=True):
        raise LockedError("a process works on this run", where=str(real), hint="stop it first, or wait for it to end")
    return real


def remove(path: Path, root: Path) -> None:
    """Remove a run; arguments and errors as those of `check_removable`, and StorageError where the disk refuses."""
    real = check_removable(path, root)
    with ExitStack() as stack:  # keeps other processes off it
        identity = read_or_empty(real / STATUS).get("identity")
        short = identity[:SHORT] if isinstance(identity, str) else real.name.rpartition("_")[2]
        if len(short) == SHORT and short.isalnum():
            stack.enter_context(alone(real.parent, short))
        stack.enter_context(storage.lock(real / LOCK, timeout_s=1.0, what=f"run {real.name}"))
        storage.remove(real)
