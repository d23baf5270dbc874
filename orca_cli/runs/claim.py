"""Which folder a run has, by its identity or by what a user types, who works on it, and its removal.

One process works on a run at a time, on whatever machine. Nothing is removed through a link, outside the folder of all runs, or
while a process works on it.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import CheckpointError, DataError, LockedError, UnsafeError
from orca_cli.runs import directory
from orca_cli.runs.directory import LOCK, RESULT, STATUS, RunDirectory, RunName, read_or_empty
from orca_cli.runs.records import SCHEMA, newer_schema

LIVING = ("created", *directory.STAGE_FOLDERS)  # states of a run without a recorded end
_UNSAFE = re.compile(r"\W")
_SHORT = re.compile(rf"[0-9a-f]{{{SHORT}}}")
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
def claim(
    root: Path, name: RunName, *, force: bool = False, allow_inexact: bool = False
) -> Iterator[RunDirectory]:
    """Claim the folder of this experiment for this process: a completed, an unfinished or a new one.

    Args:
        root, name: folder of all runs, and the experiment.
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
        earlier = find(task_folder, name.identity, repeat=force)
        path = earlier or storage.make_folder(task_folder / name.folder())
        run = RunDirectory(path, name, allow_inexact=allow_inexact)
        with (
            storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"),
            storage.heartbeat(path / LOCK),
            storage.pinned(path),
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
    """Hold the lock of an experiment (by the first digits of its hash), or of a search, and record its holder.

    Raises:
        LockedError: another process holds it, or on another machine has done so within DEAD_AFTER_S.
    """
    holder = _holder(task_folder, identity)
    for run in task_folder.glob(f"*_{identity}"):
        if _beats_elsewhere(run, status := read_or_empty(run / STATUS), recent_counts=False):
            who = read_or_empty(holder) or status
            what = f"process {who.get('pid')} on {who.get('host')} works on this run, or was lost within {DEAD_AFTER_S:.0f} s"
            raise LockedError(
                what, where=run.name, hint="wait for it to end, or for that time, and type it again"
            )

    def guarded() -> str:
        held_by = read_or_empty(holder)
        return f"this run ({identity}): process {held_by.get('pid')} on {held_by.get('host')}"

    with storage.lock(holder.with_suffix(".lock"), timeout_s=1.0, what=guarded):
        storage.write_json(
            holder, {"schema": SCHEMA, "pid": os.getpid(), "host": socket.gethostname()}
        )
        yield


def _holder(task_folder: Path, identity: str) -> Path:
    """Return the path of the record that names the holder of an experiment's lock; the lock file lies beside it."""
    return task_folder / ".locks" / f"{identity}.json"


def find(task_folder: Path, identity: str, *, repeat: bool = False) -> Path | None:
    """Return the newest folder of an experiment, completed before unfinished; None if there is none.

    With `repeat` (--force), return the newest folder alone, and only if it is a repeat that was interrupted or killed. One that
    failed may have nothing that can be resumed: --force is also the way out of that.
    """
    with storage.guarded(task_folder):
        paths = sorted(task_folder.glob(f"*_{identity[:SHORT]}"), reverse=True)
    records = {path: read_or_empty(path / STATUS) for path in paths}
    records = {
        path: status
        for path, status in records.items()
        if status.get("identity", identity) == identity
    }
    newest = next(iter(records), None)
    if repeat:
        status = {} if newest is None else records[newest]
        is_open = status.get("is_repeat") and status.get("state") not in ("completed", "failed")
        return newest if is_open else None
    return next(
        (path for path in records if read_or_empty(path / RESULT).get("state") == "completed"),
        newest,
    )


def look(root: Path, name: RunName) -> RunDirectory | None:
    """Return the run that `find` finds, for reading only."""
    path = find(name.task_folder(root), name.identity)
    return None if path is None else RunDirectory(path, name)


def peek(root: Path, name: RunName, *, force: bool = False) -> str:
    """Return what the command would do, with the same `force` as `claim`: "new", "resume", "completed" or "running"."""
    task_folder = name.task_folder(root)
    path = find(task_folder, name.identity, repeat=force)
    if path is not None and read_or_empty(path / RESULT):
        return "completed"
    is_held = storage.is_locked(_holder(task_folder, name.identity[:SHORT]).with_suffix(".lock"))
    if is_held or (path is not None and is_worked_on(path, read_or_empty(path / STATUS))):
        return "running"
    return "new" if path is None else "resume"


def named(word: str) -> Path:
    """Return the folder that a word means, a run or (by its path alone) an export; of several runs of one identity the newest.

    Raises:
        DataError: there is none.
    """
    path = Path(word).expanduser()
    if path.is_dir():
        return path
    root = configuration.default_folders()["runs"]
    ending = f"_{word}" if _SHORT.fullmatch(word) else "/"  # no name has a slash
    folders = [
        folder for folder in root.glob("*/*") if folder.name == word or folder.name.endswith(ending)
    ]
    if not folders:
        hint = (
            f"give the folder of a run or of an export, or the name of a run in {root} (ORCA_RUNS)"
        )
        raise DataError("no such run", where=word, hint=hint)
    return max(folders, key=lambda folder: folder.name)


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's: it has a record, or the name that the program gives runs."""
    return begun(path) is not None or any(
        (path / name).is_file() for name in (STATUS, RESULT, directory.ENVIRONMENT)
    )


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
        raise UnsafeError(
            "is a link; only what lies in the folder of runs is removed", where=str(path)
        )
    if home not in real.parents:
        hint = "set ORCA_RUNS to its folder of runs to remove it"
        raise UnsafeError(f"leads out of the folder of runs, {home}", where=str(path), hint=hint)
    inside = real.relative_to(home)
    is_part = any(is_run(home / folder) for folder in list(inside.parents)[:-1])
    if is_part or not is_run(real) or any(part.startswith(".") for part in inside.parts):
        what = "is not a run: it has no records, or is a part of one"
        raise DataError(what, where=str(path), hint="orca runs list shows the runs")
    if is_worked_on(real, read_or_empty(real / STATUS), recent_counts=True):
        raise LockedError(
            "a process works on this run",
            where=str(real),
            hint="stop it first, or wait for it to end",
        )
    return real


def remove(path: Path, root: Path) -> None:
    """Remove a run; arguments and errors as those of `check_removable`, and StorageError where the disk refuses."""
    real = check_removable(path, root)
    identity = str(read_or_empty(real / STATUS).get("identity") or real.name.rpartition("_")[2])[
        :SHORT
    ]
    # Other processes are kept off it.
    with (
        alone(real.parent, _UNSAFE.sub("-", identity)),
        storage.lock(real / LOCK, timeout_s=1.0, what=f"run {real.name}"),
    ):
        storage.remove(real)


def begun(path: Path) -> datetime | None:
    """Return the local time in a run folder's name; None where there is none."""
    try:
        return datetime.strptime(path.name[:27], "%Y-%m-%d_%H-%M-%S.%f_").astimezone()
    except ValueError:
        return None
