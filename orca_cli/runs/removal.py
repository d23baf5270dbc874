"""Removing a run: never through a link, never outside the folder of all runs, never one that a process works on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orca_cli import storage
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import DataError, LockedError, UnsafeError
from orca_cli.runs.claim import alone, begun, is_worked_on
from orca_cli.runs.directory import ENVIRONMENT, LOCK, RESULT, STATUS, read_or_empty

_RECORDS = (STATUS, RESULT, ENVIRONMENT)


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's: it has a record, or the name that the program gives runs."""
    return begun(path) is not None or any((path / name).is_file() for name in _RECORDS)


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
    parents = [folder for folder in real.parents if home in folder.parents]
    if (
        any(part.startswith(".") for part in real.relative_to(home).parts)
        or not is_run(real)
        or any(map(is_run, parents))
    ):
        what = "is not a run: it has no records, or is a part of one"
        raise DataError(what, where=str(path), hint="orca runs list shows the runs")
    _check_idle(real)
    return real


def _check_idle(run: Path) -> None:
    if is_worked_on(run, read_or_empty(run / STATUS), recent_counts=True):
        hint = "stop it first, or wait for it to end"
        raise LockedError("a process works on this run", where=str(run), hint=hint)


@contextmanager
def idle(run: Path) -> Iterator[None]:
    """Keep other processes off a run inside the block.

    Raises:
        LockedError: one works on it.
    """
    _check_idle(run)
    with ExitStack() as stack:
        identity = read_or_empty(run / STATUS).get("identity")
        short = identity[:SHORT] if isinstance(identity, str) else run.name.rpartition("_")[2]
        if len(short) == SHORT and short.isalnum():
            stack.enter_context(alone(run.parent, short))
        stack.enter_context(storage.lock(run / LOCK, timeout_s=1.0, what=f"run {run.name}"))
        yield


def remove(path: Path, root: Path) -> None:
    """Remove a run; arguments and errors as those of `check_removable`, and StorageError where the disk refuses."""
    real = check_removable(path, root)
    with idle(real):
        storage.remove(real)
