"""Folders, free space, the clock, and what the operating system's errors mean to a user."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from orca_cli.exceptions import OrcaError, StorageError

TEMPORARY = ".tmp-"  # prefix of files and folders until they are complete
_GIB = 1024**3
_held: dict[Path, tuple[int, int] | None] = {}


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn any failure to write inside the block into one StorageError."""
    try:
        yield
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - serialisers wrap a full disk in types of their own
        raise _explain(path, error) from error


def disk_error(error: BaseException) -> StorageError | None:
    """Return the StorageError for an unexpected error that a disk caused, else None."""
    failing = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
    if isinstance(error, OSError) and error.errno in failing:
        return _explain(Path(str(error.filename or ".")), error)
    return None


def _explain(path: Path, error: Exception) -> StorageError:
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
        number = int(match[1])
    free, where, hint = _free_bytes(path), str(path), "choose another folder"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (number is None and free is not None and free < 2**20):
        left = f" ({free / _GIB:.2f} GiB free)" if free is not None else ""
        what, hint = f"no space left to write{left}", "free some space and repeat"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "cannot be written: permission denied"
    elif number in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        is_broken = any(one.is_symlink() and not os.path.isdir(one) for one in (path, *path.parents))
        what = f"{'a link that leads to no folder' if is_broken else 'a file'} stands where a folder is needed"
    elif number == errno.ENAMETOOLONG:
        what, where = f"the path is too long ({len(where)} characters)", f"{where[:60]}...{where[-20:]}"
    else:
        what = f"writing failed: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    return StorageError(what, where=where, hint=hint)


def _free_bytes(path: Path) -> int | None:
    # Path.exists raises where the path is too long.
    folder = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def unreadable(path: Path, error: Exception) -> StorageError:
    """Return the failure for one of our files that exists but cannot be read."""
    what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return StorageError(what, where=str(path), hint="repair the disk, or move the file away")


def fsync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, if the file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Guard a folder inside the block: once it is deleted, renamed or replaced, writes into it raise."""
    with guarded(folder):
        _held[folder] = _node(folder)
    try:
        yield
    finally:
        del _held[folder]


def check_held(path: Path) -> None:
    """Raise StorageError where a held folder at or above `path` was deleted, renamed or replaced."""
    for folder in (path, *path.parents):
        if folder in _held and _node(folder) != _held[folder]:
            hint = "put it back, or rerun the command to start over"
            raise StorageError("was deleted, renamed or replaced while in use", where=str(folder), hint=hint)


def _node(folder: Path) -> tuple[int, int] | None:
    """Return what distinguishes a folder from another of the same name, None if it does not exist."""
    try:
        facts = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_dev, facts.st_ino


def make_folder(path: Path) -> Path:
    """Create a folder and its parents where they are missing; StorageError also where a held folder no longer exists."""
    with guarded(path):
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        check_held(path)  # after the look, so that none is made again that was deleted meanwhile
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
            fsync_folder(folder.parent)
    return path


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that nobody can foresee, for what is not complete yet."""
    return path.parent / f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"  # of "." too, which has no name


def new_file(path: Path) -> int:
    """Create a file and return its descriptor, open for writing; whatever has its name, such as a planted link, is an error."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # O_EXCL does not follow links


def check_temporary() -> None:
    """Raise StorageError where no temporary files can be written; torch cannot even be imported then."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        what = "no folder for temporary files can be written"
        raise StorageError(what, where="TMPDIR", hint="set TMPDIR to one that can") from error


def require_space(folder: Path, size: int, what: str = "") -> None:
    """Raise StorageError where fewer than `size` bytes are free below a folder; `what` names what needs them."""
    free = _free_bytes(folder)
    if free is not None and free < size:
        what = f"no space left{what and f' for {what}'}: {size / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free"
        raise StorageError(what, where=str(folder), hint="free some space and repeat")


def check_writable(path: Path) -> None:
    """Create the folder and write a byte into it, so that a run fails before its work, not after."""
    make_folder(path)
    with guarded(path), tempfile.NamedTemporaryFile(dir=path, prefix=TEMPORARY) as probe:
        probe.write(b"x")
        probe.flush()


def now() -> datetime:
    """Return the local time with its offset."""
    return datetime.now().astimezone()


def timestamp() -> str:
    """Return the local time to the microsecond in the form of run folders: YYYY-mm-dd_HH-MM-SS.ffffff."""
    return now().strftime("%Y-%m-%d_%H-%M-%S.%f")
