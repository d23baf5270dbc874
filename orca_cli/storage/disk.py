"""Files that are whole or absent, folders, free space, the clock, and what the operating system's errors mean to a user.

A file is written under a temporary name, forced to the disk and renamed; records carry their own checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.exceptions import ChecksumError, OrcaError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "sha256"
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
    free, what, hint = (
        _free_bytes(path),
        getattr(error, "strerror", None) or error,
        "choose another folder",
    )
    if number in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        what = "a file, or a link that leads to no folder, stands where a folder is needed"
    elif number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (
        number is None and free is not None and free < 2**20
    ):
        left = f" ({free / _GIB:.2f} GiB free)" if free is not None else ""
        what, hint = f"no space left to write{left}", "free some space and repeat"
    return StorageError(
        f"cannot be written: {what or type(error).__name__}", where=f"{path!s:.200}", hint=hint
    )


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
            raise StorageError(
                "was deleted, renamed or replaced while in use", where=str(folder), hint=hint
            )


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
            folder.mkdir(exist_ok=True)
            fsync_folder(folder.parent)
    return path


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that nobody can foresee, for what is not complete yet."""
    return (
        path.parent / f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"
    )  # of "." too, which has no name


def new_file(path: Path) -> int:
    """Create a file and return its descriptor, open for writing; whatever has its name, such as a planted link, is an error."""
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666
    )  # O_EXCL does not follow links


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new one, never a part."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file, force it to the disk and give it its name."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    with guarded(path):
        os.close(new_file(temporary))
        try:
            writer(temporary)
            fsync_file(temporary)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; invalid Unicode, as in file names, becomes an escape."""
    write_bytes(path, _encoded(text))


def _encoded(text: str) -> bytes:
    return text.encode(
        errors="backslashreplace"
    )  # in JSON it is an escape that gives the same name again


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity, which JSON lacks, are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a .jsonl file and force it to the disk; half a line left by an earlier failure is cut off."""
    make_folder(path.parent)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with guarded(path):
        new = not path.exists()
        with open(path, "a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            fsync_folder(path.parent)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file up to the first invalid line; the last one may have been cut off."""
    records = []
    with suppress(ValueError, RecursionError):
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            records.append(json.loads(line))
    return records


def write_checked_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON record with a SHA-256 of itself, whole or not at all."""
    write_text(path, _checked_text(record))


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return what `write_checked_json` wrote; ChecksumError where the file is missing, or any bit of it has changed."""
    try:
        content = path.read_bytes()
        record = json.loads(content)
        digest = record.pop(_DIGEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ChecksumError("is missing", where=str(path)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError("is damaged: not a record of this program", where=str(path)) from error
    if not isinstance(record, dict) or _encoded(_checked_text(record)) != content:
        raise ChecksumError(f"is damaged: its checksum is not {str(digest)[:12]}", where=str(path))
    return record


def _checked_text(record: dict[str, Any]) -> str:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    digest = hashlib.sha256(_encoded(text)).hexdigest()
    return json.dumps({**record, _DIGEST: digest}, indent=2, ensure_ascii=False) + "\n"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one of our safetensors files, by name; StorageError where it cannot be read."""
    from safetensors import SafetensorError  # reports and lists import no torch
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # the library says "not found", torch raises RuntimeError
        raise unreadable(path, error) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
