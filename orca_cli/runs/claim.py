"""Find the folder of a run, claim it for one process, and remove it.

At most one process works on a run at a time, on any machine. Nothing is removed through a link,
outside the folder of all runs, or while a process works on it.
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
# After this time without a heartbeat a process on another machine counts as dead.
DEAD_AFTER_S = 3 * storage.HEARTBEAT_S
# Characters of a damaged record that must not get into the name of a lock.
_UNSAFE = re.compile(r"\W")
# A reference of this form consists of the first digits of an identity.
_SHORT = re.compile(rf"[0-9a-f]{{{SHORT}}}")


def is_worked_on(run: Path, status: dict[str, Any], *, recent_counts: bool = False) -> bool:
    """Return whether a living process works on a run. Only this function decides that.

    A process on this machine holds the run's lock. The lock of a process on another machine may be
    invisible on this machine; that process is alive if its last heartbeat is recent by the file
    system's own clock. If that clock cannot be read, as in a folder that is read-only on this
    machine, the process counts as alive.

    Args:
        run: the run's folder.
        status: the run's status record; empty if missing or unreadable.
        recent_counts: whether a run that ended on another machine within DEAD_AFTER_S counts as
            well, since its baselines may still be computed.
    """
    if storage.is_locked(run / LOCK):
        return True
    return _is_alive_elsewhere(run, status, recent_counts=recent_counts)


def _is_alive_elsewhere(run_folder: Path, status: dict[str, Any], *, recent_counts: bool) -> bool:
    """Return whether a process on another machine has worked on a run within DEAD_AFTER_S."""
    if status.get("state") not in LIVING and not recent_counts:
        return False
    identity = run_folder.name.rpartition("_")[2]
    # The holder's record is written when the lock is taken, earlier than the status.
    holder = read_or_empty(_holder(run_folder.parent, identity)) or status
    if holder.get("host") in (None, socket.gethostname()):
        return False
    heartbeat_age_s = storage.age_s(run_folder / LOCK)
    # If the age is unknown, the process may be alive and must not lose its run.
    return heartbeat_age_s is None or heartbeat_age_s < DEAD_AFTER_S


@contextmanager
def claim(
    root: Path, name: RunName, *, force: bool = False, allow_inexact: bool = False
) -> Iterator[RunDirectory]:
    """Claim the folder of this experiment for this process: completed, unfinished or new.

    Args:
        root: the folder of all runs.
        name: the experiment.
        force: whether to repeat the experiment in a new folder, or to resume an interrupted repeat.
        allow_inexact: whether to resume although the bits will differ from those of an
            uninterrupted run; the result records that.

    Raises:
        LockedError: another process works on the same experiment.
        CheckpointError: a newer version of the program made the folder.
        StorageError: the folder cannot be made.
    """
    data_set_folder = folder_of(root, name)
    storage.check_writable(data_set_folder)
    # In addition to the lock of the folder: two processes must not make a folder each.
    with alone(data_set_folder, name.identity[:SHORT]):
        path = find(data_set_folder, name.identity, repeat=force)
        if path is None:
            path = storage.make_folder(data_set_folder / name.folder())
        run = RunDirectory(path, name, allow_inexact=allow_inexact)
        with (
            storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"),
            # A process on another machine cannot see the lock, but sees the time of this file.
            storage.heartbeat(path / LOCK),
            # If a user deletes the folder, later writes fail and do not make it again.
            storage.pinned(path),
        ):
            newer_program_error = newer_schema(path / STATUS, path / RESULT)
            if newer_program_error:
                # This older program would damage the run.
                raise CheckpointError(
                    str(newer_program_error),
                    where=str(path),
                    hint="use the newer program, or start a new run with --force",
                ) from newer_program_error
            # An earlier process may have been killed in the middle of a write, or after its result.
            storage.clean_temporary(path)
            # A run with a result is completed; its manifest and its status are written later.
            if run.result():
                run.finish()
            elif not run.status():
                run.set_state("created", is_repeat=force)
            yield run


@contextmanager
def alone(data_set_folder: Path, identity: str) -> Iterator[None]:
    """Hold the lock of an experiment or of a search, and record this process as its holder.

    Args:
        data_set_folder: the folder of all runs of a data set.
        identity: the name of the lock; for an experiment the first digits of its hash.

    Raises:
        LockedError: another process holds the lock, or held it on another machine within
            DEAD_AFTER_S.
    """
    holder = _holder(data_set_folder, identity)
    # The lock below may appear free although a process on another machine holds it.
    for run_folder in data_set_folder.glob(f"*_{identity}"):
        status = read_or_empty(run_folder / STATUS)
        if _is_alive_elsewhere(run_folder, status, recent_counts=False):
            process = _process(read_or_empty(holder) or status)
            raise LockedError(
                f"{process} works on this run, or died within the last {DEAD_AFTER_S:.0f} s",
                where=run_folder.name,
                hint="if the process still works, wait until it ends; if it died, wait "
                f"{DEAD_AFTER_S:.0f} s; then rerun the command",
            )

    # A function, so that the record is read only if the lock is taken, and names its holder.
    def locked_by() -> str:
        return f"this run ({identity}): {_process(read_or_empty(holder))}"

    with storage.lock(holder.with_suffix(".lock"), timeout_s=1.0, what=locked_by):
        storage.write_json(
            holder, {"schema": SCHEMA, "pid": os.getpid(), "host": socket.gethostname()}
        )
        yield


def _holder(data_set_folder: Path, identity: str) -> Path:
    """Return the path of the record that names the holder of an experiment's lock.

    The lock file is in the same folder.
    """
    return data_set_folder / ".locks" / f"{identity}.json"


def _process(record: dict[str, Any]) -> str:
    """Return the process that a holder's record or a status names, for a message."""
    return f"process {record.get('pid')} on {record.get('host')}"


def folder_of(root: Path, name: RunName) -> Path:
    """Return the folder that contains a run, or else the folder of its data set.

    A run stays in its folder if its data set gets another name.
    """
    own_folder = name.data_set_folder(root)
    folders = []
    with storage.guarded(root):
        named_alike = sorted(root.glob(f"*/*_{name.identity[:SHORT]}"))
    for path in named_alike:
        status = read_or_empty(path / STATUS)
        # As in `find`, a run whose status is lost is identified by its name.
        is_same = status.get("identity", name.identity) == name.identity
        if is_same and not path.parent.name.startswith("."):
            folders.append((not (path / RESULT).exists(), path.parent != own_folder, path.parent))
    # A completed run comes first, then a run in the folder of its data set.
    return min(folders)[-1] if folders else own_folder


def find(data_set_folder: Path, identity: str, *, repeat: bool = False) -> Path | None:
    """Return the newest completed folder of an experiment, else its newest folder, else None.

    With `repeat` (--force), return the newest folder if it is a repeat that was interrupted or
    killed, and None otherwise. A repeat that failed may have nothing to resume from, so --force
    starts it from scratch.
    """
    with storage.guarded(data_set_folder):
        named_alike = sorted(data_set_folder.glob(f"*_{identity[:SHORT]}"), reverse=True)
    # Folders of the experiment, newest first. Their names have only the first digits of the
    # identity, which another experiment may share.
    statuses = {}
    for path in named_alike:
        status = read_or_empty(path / STATUS)
        if status.get("identity", identity) == identity:
            statuses[path] = status
    # `statuses` keeps the order of `named_alike`.
    newest = next(iter(statuses), None)
    if newest is None:
        return None
    if repeat:
        status = statuses[newest]
        is_open = status.get("is_repeat") and status.get("state") not in ("completed", "failed")
        return newest if is_open else None
    # A completed run precedes a newer run that is not, such as an interrupted repeat.
    for path in statuses:
        result = read_or_empty(path / RESULT)
        if result.get("state") == "completed":
            return path
    return newest


def look(root: Path, name: RunName) -> RunDirectory | None:
    """Return the run that `find` finds, for reading only."""
    path = find(folder_of(root, name), name.identity)
    return None if path is None else RunDirectory(path, name)


def peek(root: Path, name: RunName, *, force: bool = False) -> str:
    """Return the state in which `claim` would find a run: "new", "resume", "completed", "running".

    `force` is as in `claim`.
    """
    data_set_folder = folder_of(root, name)
    path = find(data_set_folder, name.identity, repeat=force)
    if path is not None and read_or_empty(path / RESULT):
        return "completed"
    holder = _holder(data_set_folder, name.identity[:SHORT])
    # `claim` takes this lock before it makes the folder, so a run may have no folder yet.
    if storage.is_locked(holder.with_suffix(".lock")):
        return "running"
    if path is None:
        return "new"
    return "running" if is_worked_on(path, read_or_empty(path / STATUS)) else "resume"


def named(reference: str) -> Path:
    """Return the folder of a run or of an export that a user refers to.

    A run is referred to by its path, its name or the first digits of its identity, an export by its
    path. Of several runs with the same digits, the newest counts.

    Raises:
        DataError: the folder does not exist.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    root = configuration.default_folders()["runs"]
    is_identity = _SHORT.fullmatch(reference) is not None
    matching_folders = []
    for folder in root.glob("*/*"):
        has_name = folder.name == reference
        has_identity = is_identity and folder.name.endswith(f"_{reference}")
        if has_name or has_identity:
            matching_folders.append(folder)
    if not matching_folders:
        raise DataError(
            "no such run",
            where=reference,
            hint=f"name the folder of a run or of an export, or a run in {root} (set by ORCA_RUNS)",
        )
    # Names of folders begin with the time.
    return max(matching_folders, key=lambda folder: folder.name)


def is_run(path: Path) -> bool:
    """Return whether a folder is a run: it has a record, or its name begins with a time."""
    if begun(path) is not None:
        return True
    return any((path / name).is_file() for name in (STATUS, RESULT, directory.ENVIRONMENT))


def check_removable(path: Path, root: Path) -> Path:
    """Return the real path of a run that may be removed.

    Args:
        path: the run's folder.
        root: the folder of all runs, which may itself be a link.

    Raises:
        UnsafeError: the path is a link, or leads out of the folder of runs, such as by a link.
        DataError: the folder is not a run.
        LockedError: a process works on the run.
    """
    runs_folder = Path(os.path.realpath(root))
    real_path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise UnsafeError(
            "is a link; only runs inside the folder of runs are removed", where=str(path)
        )
    if runs_folder not in real_path.parents:
        raise UnsafeError(
            f"is outside the folder of runs, {runs_folder}",
            where=str(path),
            hint="to remove it, set ORCA_RUNS to the folder that contains it",
        )
    # The program's own folders are hidden; a folder inside a run, such as a stage's, is not a run.
    relative_path = real_path.relative_to(runs_folder)
    is_hidden = any(name.startswith(".") for name in relative_path.parts)
    # The last parent is the folder of runs itself.
    is_in_run = any(is_run(runs_folder / folder) for folder in relative_path.parents[:-1])
    if is_in_run or is_hidden or not is_run(real_path):
        raise DataError(
            "is not a run: it has no records, or is a part of a run",
            where=str(path),
            hint="`orca runs list` shows the runs",
        )
    if is_worked_on(real_path, read_or_empty(real_path / STATUS), recent_counts=True):
        raise LockedError(
            "a process works on this run",
            where=str(real_path),
            hint="stop the process first, or wait until it has ended",
        )
    return real_path


def remove(path: Path, root: Path) -> None:
    """Remove a run.

    Arguments and errors are those of `check_removable`; StorageError if the disk fails.
    """
    real_path = check_removable(path, root)
    identity = read_or_empty(real_path / STATUS).get("identity")
    if not identity:
        # The folder's name ends with the digits that the lock's name contains.
        identity = real_path.name.rpartition("_")[2]
    # Both locks keep other processes off the run while it is removed.
    with (
        alone(real_path.parent, _UNSAFE.sub("-", str(identity)[:SHORT])),
        storage.lock(real_path / LOCK, timeout_s=1.0, what=f"run {real_path.name}"),
    ):
        storage.remove(real_path)


def begun(path: Path) -> datetime | None:
    """Return the local time in the name of a run's folder; None if the name contains no time."""
    try:
        # 26 characters of the time, to the microsecond, and the underscore after them.
        return datetime.strptime(path.name[:27], "%Y-%m-%d_%H-%M-%S.%f_").astimezone()
    except ValueError:
        return None
