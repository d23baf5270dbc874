"""Which folder a run has, found again by identity, and who works on it: one process at a time, on whatever machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import CheckpointError, LockedError
from orca_cli.runs.directory import LOCK, RESULT, STAGE_FOLDERS, STATUS, RunDirectory, RunName, read_or_empty
from orca_cli.runs.records import SCHEMA, newer_schema

LIVING = ("created", *STAGE_FOLDERS)  # states of a run without a recorded end
DEAD_AFTER_S = 3 * storage.HEARTBEAT_S  # without a heartbeat from another machine


def is_worked_on(run: Path, status: dict[str, Any], *, recent_counts: bool = False) -> bool:
    """Decide whether a living process works on a run: the one place where that is decided.

    On this machine the lock tells. A lock that is held on another machine may not be seen from here; there the heartbeat
    tells, whose age is taken by the file system's own clock. Where that clock cannot be read, as in a folder that is read-only
    here, the process counts as alive.

    Args:
        run: its folder.
        status: its status record; empty if missing or unreadable.
        recent_counts: a run that ended on another machine within DEAD_AFTER_S counts too: its baselines may still be computed.
    """
    return storage.is_locked(run / LOCK) or _beats_elsewhere(run, status, recent_counts)


def _beats_elsewhere(run: Path, status: dict[str, Any], recent_counts: bool) -> bool:
    if status.get("state") not in LIVING and not recent_counts:
        return False
    holder = read_or_empty(_holder(run.parent, run.name.rpartition("_")[2]))
    if (holder or status).get("host") in (None, socket.gethostname()):
        return False
    age = storage.age_s(run / LOCK)
    return age is None or age < DEAD_AFTER_S


@contextmanager
def claim(root: Path, name: RunName, *, force: bool = False, allow_inexact: bool = False) -> Iterator[RunDirectory]:
    """Claim the folder of this experiment for this process: a completed, an unfinished or a new one.

    Args:
        root: folder of all runs.
        name: the experiment.
        force: repeat the experiment in a new folder, or resume a repeat that was interrupted.
        allow_inexact: resume although the bits will differ from an uninterrupted run's; the result says so.

    Raises:
        LockedError: another process works on the same experiment.
        CheckpointError: a newer program made the folder.
        StorageError: the folder cannot be made.
    """
    task_folder = name.task_folder(root)
    storage.check_writable(task_folder)
    with alone(task_folder, name.identity[:SHORT]):
        path = (_find_repeat if force else find)(task_folder, name.identity)
        if path is None:
            path = storage.make_folder(task_folder / name.folder())
        run = RunDirectory(path, name, allow_inexact=allow_inexact)
        with (
            storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"),
            storage.heartbeat(path / LOCK),
            storage.held(path),
        ):
            if error := newer_schema(path / STATUS, path / RESULT):  # this program would damage it
                hint = "use the newer program, or start again with --force"
                raise CheckpointError(str(error), where=str(path), hint=hint) from error
            storage.clean_temporary(path)
            if run.result():
                run.finish()
            elif not run.status():
                run.set_state("created", is_repeat=force)
            yield run


@contextmanager
def alone(task_folder: Path, identity: str) -> Iterator[None]:
    """Hold the lock of an experiment, or of a search, and record its holder.

    Args:
        task_folder: with the runs of the task.
        identity: the first digits of the experiment's hash.

    Raises:
        LockedError: another process holds it, or on another machine has done so within DEAD_AFTER_S.
    """
    holder = _holder(task_folder, identity)
    for run in task_folder.glob(f"*_{identity}"):
        if _beats_elsewhere(run, status := read_or_empty(run / STATUS), recent_counts=False):
            who = read_or_empty(holder) or status
            what = f"process {who.get('pid')} on {who.get('host')} works on this run, or was lost within {DEAD_AFTER_S:.0f} s"
            raise LockedError(what, where=run.name, hint="wait for it to end, or for that time, and type it again")
    with ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(holder.with_suffix(".lock"), timeout_s=1.0))
        except LockedError as error:
            who = read_or_empty(holder)
            what = f"process {who.get('pid')} on {who.get('host')} works on this run ({identity})"
            raise LockedError(what, where=task_folder.name, hint="wait for it to end") from error
        storage.write_json(holder, {"schema": SCHEMA, "pid": os.getpid(), "host": socket.gethostname()})
        yield


def _holder(task_folder: Path, identity: str) -> Path:
    """Return the path of the record that names the holder of an experiment's lock; the lock file lies beside it."""
    return task_folder / ".locks" / f"{identity}.json"


def find(task_folder: Path, identity: str) -> Path | None:
    """Return the newest folder of an experiment, completed before unfinished; None if there is none."""
    paths = _folders(task_folder, identity)
    completed = (path for path in paths if read_or_empty(path / RESULT).get("state") == "completed")
    return next(completed, paths[0] if paths else None)


def _find_repeat(task_folder: Path, identity: str) -> Path | None:
    """Return the newest folder of an experiment if it is a repeat that was interrupted or killed.

    One that failed may have nothing that can be resumed: --force is also the way out of that.
    """
    for path in _folders(task_folder, identity)[:1]:
        status = read_or_empty(path / STATUS)
        if status.get("is_repeat") and status.get("state") not in ("completed", "failed"):
            return path
    return None


def _folders(task_folder: Path, identity: str) -> list[Path]:
    """Return the folders of an experiment, the newest first."""
    with storage.guarded(task_folder):
        paths = sorted(task_folder.glob(f"*_{identity[:SHORT]}"), reverse=True)
    return [path for path in paths if read_or_empty(path / STATUS).get("identity", identity) == identity]


def look(root: Path, name: RunName) -> RunDirectory | None:
    """Return the run that `find` finds, for reading only."""
    path = find(name.task_folder(root), name.identity)
    return None if path is None else RunDirectory(path, name)


def peek(root: Path, name: RunName, *, force: bool = False) -> str:
    """Return what the command would do, with the same `force` as `claim`: "new", "resume", "completed" or "running"."""
    task_folder = name.task_folder(root)
    path = (_find_repeat if force else find)(task_folder, name.identity)
    if path is not None and read_or_empty(path / RESULT):
        return "completed"
    is_held = storage.is_locked(_holder(task_folder, name.identity[:SHORT]).with_suffix(".lock"))
    if is_held or (path is not None and is_worked_on(path, read_or_empty(path / STATUS))):
        return "running"
    return "new" if path is None else "resume"
