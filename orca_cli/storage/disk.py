"""Files that are complete or absent, folders, free space, the clock, and messages for disk errors.

A file is written under a temporary name, forced to the disk and renamed; records carry their own
checksum.
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
    import numpy as np
    from torch import Tensor

_DIGEST = "sha256"
# Prefix of the names of files and folders until they are complete.
TEMPORARY = ".tmp-"
_GIB = 1024**3
# Values of errno: a folder cannot be made because its name is taken, and the disk is full.
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes. If an error has no errno, a disk with less free space counts as full.
_LITTLE_SPACE = 2**20
# Folder -> its device and inode, while it is pinned.
# None records that the folder did not exist when it was pinned.
_pinned: dict[Path, tuple[int, int] | None] = {}


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn any failure to write inside the block into one StorageError."""
    try:
        yield
    # The error already explains itself, such as an error from an inner block.
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - serialisers raise their own types for a full disk
        raise _explain(path, error) from error


def disk_error(error: BaseException) -> StorageError | None:
    """Return the StorageError for an unexpected error that the disk caused; None for any other."""
    # Includes errors of the device itself, of a disk mounted read-only, and of a lost network
    # share.
    failing = (*_FULL, errno.EIO, errno.EROFS, errno.ESTALE)
    if isinstance(error, OSError) and error.errno in failing:
        failed_path = Path(str(error.filename or "."))
        return _explain(failed_path, error)
    return None


def _explain(path: Path, error: Exception) -> StorageError:
    """Return the StorageError for an error that was raised while `path` was written."""
    error_number = _error_number(error)
    free_bytes = _free_bytes(path)
    # Some libraries report a full disk without its errno, so the free space is checked instead.
    is_small = error_number is None and free_bytes is not None and free_bytes < _LITTLE_SPACE
    if error_number in _NO_FOLDER:
        reason = "a file, or a link that does not lead to a folder, blocks the path"
        hint = "choose another folder"
    elif error_number in _FULL or is_small:
        free_text = f" ({free_bytes / _GIB:.2f} GiB free)" if free_bytes is not None else ""
        reason = f"no space left on the disk{free_text}"
        hint = "free some space and rerun the command"
    else:
        reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
        hint = "choose another folder"
    # A path may be longer than a line; its beginning is enough.
    return StorageError(f"cannot be written: {reason}", where=f"{path!s:.200}", hint=hint)


def _error_number(error: Exception) -> int | None:
    """Return the errno of an error; errors of safetensors have it only in their text."""
    error_number = getattr(error, "errno", None)
    if error_number is not None:
        return error_number
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _free_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk that a path is on; None if the system does not say."""
    # Not Path.exists, which raises an error for a path that is too long.
    # The file itself may not exist yet, so its nearest existing folder is used.
    folder = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def unreadable(path: Path, error: Exception) -> StorageError:
    """Return the StorageError for one of our files that exists but cannot be read."""
    reason = getattr(error, "strerror", None) or error
    hint = "check the disk and the file's permissions, or move the file away"
    return StorageError(f"cannot be read: {reason}", where=str(path), hint=hint)


def fsync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, if the file system supports that."""
    # A rename is on the disk only once the folder that contains the name is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for folders; nothing better is possible on them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def pinned(folder: Path) -> Iterator[None]:
    """Make writes into a folder raise, inside the block, once it is deleted or replaced."""
    with guarded(folder):
        _pinned[folder] = _node(folder)
    try:
        yield
    finally:
        del _pinned[folder]


def check_pinned(path: Path) -> None:
    """Raise StorageError if a pinned folder at or above `path` was deleted, renamed or replaced."""
    # A write deep inside a run's folder must notice that the run's folder itself is gone.
    for folder in (path, *path.parents):
        if folder in _pinned and _node(folder) != _pinned[folder]:
            raise StorageError(
                "was deleted, renamed or replaced while this command used it",
                where=str(folder),
                hint="put the folder back, or rerun the command to start from scratch",
            )


def _node(folder: Path) -> tuple[int, int] | None:
    """Return device and inode, which a replaced folder does not keep; None without a folder."""
    try:
        facts = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_dev, facts.st_ino


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if they are missing.

    StorageError if that fails, or if a pinned folder no longer exists.
    """
    with guarded(path):
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        # Checked after `missing` is known: a pinned folder that is deleted later is not in it.
        check_pinned(path)
        # The topmost folder is made first, and its name forced to the disk before the next one.
        for folder in reversed(missing):
            # Another process may have made the folder in the meantime.
            folder.mkdir(exist_ok=True)
            fsync_folder(folder.parent)
    return path


def temporary_name(path: Path) -> Path:
    """Return an unpredictable name next to `path`, for content that is not complete yet."""
    # Not `with_name`, which rejects a path without a name, such as ".".
    # The name is in the same folder, since a rename is atomic only within one file system.
    unpredictable = secrets.token_hex(8)
    return path.parent / f"{TEMPORARY}{unpredictable}-{path.name}"


def new_file(path: Path) -> int:
    """Create a file and return its descriptor, open for writing.

    A name that is taken is an error, even by a planted link, which O_EXCL does not follow.
    """
    # 0o666 is narrowed by the user's umask, as for any other file.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def check_temporary() -> None:
    """Raise StorageError if no temporary file can be written, which torch needs to be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StorageError(
            "no folder for temporary files is writable",
            where="TMPDIR",
            hint="set TMPDIR to a writable folder",
        ) from error


def require_space(folder: Path, size: int, purpose: str = "") -> None:
    """Raise StorageError, which names the purpose, if a folder has fewer than `size` bytes free."""
    # If the free space is unknown, the write itself fails if there is too little.
    free_bytes = _free_bytes(folder)
    if free_bytes is None or free_bytes >= size:
        return
    for_purpose = f" for {purpose}" if purpose else ""
    sizes_text = f"{size / 2**20:.1f} MiB needed, {free_bytes / 2**20:.1f} MiB free"
    raise StorageError(
        f"no space left{for_purpose}: {sizes_text}",
        where=str(folder),
        hint="free some space and rerun the command",
    )


def check_writable(path: Path) -> None:
    """Create a folder and write a byte into it, so that a run fails before its work, not after."""
    make_folder(path)
    with guarded(path), tempfile.NamedTemporaryFile(dir=path, prefix=TEMPORARY) as probe:
        # A full disk may still create an empty file, so a byte is written.
        probe.write(b"x")
        probe.flush()


def now() -> datetime:
    """Return the local time with its offset from UTC."""
    return datetime.now().astimezone()


def timestamp() -> str:
    """Return the local time in the form of run folders' names: YYYY-mm-dd_HH-MM-SS.ffffff."""
    return now().strftime("%Y-%m-%d_%H-%M-%S.%f")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old or the new content, never a part."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file, force it to the disk and give it its name."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    with guarded(path):
        # Claims the unpredictable name, so that the writer opens a file that this process made.
        os.close(new_file(temporary))
        try:
            writer(temporary)
            fsync_file(temporary)
            # The content was forced to the disk before: otherwise a crash could leave the name with
            # an empty file.
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            # Has no effect after the rename.
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, completely or not at all.

    Invalid Unicode, which file names may contain, becomes an escape.
    """
    write_bytes(path, _encoded(text))


def _encoded(text: str) -> bytes:
    # A reader of JSON turns the escape back into the same name.
    return text.encode(errors="backslashreplace")


def write_json(path: Path, record: Any) -> None:
    """Write a JSON file, completely or not at all; NaN and infinity, not in JSON, are errors."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a .jsonl file and force it to the disk.

    An incomplete last line, which an earlier failure has left, is removed first.
    """
    make_folder(path.parent)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with guarded(path):
        # Checked before the file is opened, which creates it.
        is_new = not path.exists()
        with open(path, "a+b") as file:
            # Everything after the last line break is left from a write that was cut off.
            file.seek(0)
            end_of_lines = file.read().rfind(b"\n") + 1
            file.truncate(end_of_lines)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_folder(path.parent)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file up to the first invalid line.

    The last line may have been cut off. Without a file the list is empty.
    """
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    # The empty text after the last line break also ends the list, since it is not JSON.
    with suppress(ValueError, RecursionError):
        for line in path.read_bytes().split(b"\n"):
            records.append(json.loads(line))
    return records


def write_checked_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON record with a SHA-256 of itself, completely or not at all."""
    write_text(path, _checked_text(record))


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return the record that `write_checked_json` wrote.

    Raises:
        ChecksumError: the file is missing, or a bit of it has changed.
        StorageError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
        record = json.loads(content)
        # The checksum covers the record without the checksum's own field.
        digest = record.pop(_DIGEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ChecksumError("is missing", where=str(path)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError(
            "is damaged: it is not a record that orca wrote; if it is a copy, copy it again",
            where=str(path),
        ) from error
    # The whole text is compared, so that a change of spacing or order also counts as damage.
    if not isinstance(record, dict) or _encoded(_checked_text(record)) != content:
        raise ChecksumError(
            "is damaged: its content does not match the checksum recorded in it, "
            f"{str(digest)[:12]}; if it is a copy, copy it again",
            where=str(path),
        )
    return record


def _checked_text(record: dict[str, Any]) -> str:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    digest = hashlib.sha256(_encoded(text)).hexdigest()
    return json.dumps({**record, _DIGEST: digest}, indent=2, ensure_ascii=False) + "\n"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return name -> tensor of one of our safetensors files; StorageError if it cannot be read."""
    # Imported here, because reports and lists do not load torch.
    from safetensors.torch import load_file

    return _loaded(path, load_file)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return name -> array of one of our safetensors files, without torch.

    StorageError if the file cannot be read, such as a file with bfloat16, which NumPy lacks.
    """
    from safetensors.numpy import load_file

    return _loaded(path, load_file)


def _loaded(path: Path, reader: Callable[[Path], Any]) -> Any:
    from safetensors import SafetensorError

    try:
        return reader(path)
    # torch raises RuntimeError, NumPy AttributeError and TypeError, safetensors the other two.
    except (OSError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise unreadable(path, error) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        # Read in blocks, so that a file of weights does not have to fit into memory.
        return hashlib.file_digest(file, "sha256").hexdigest()
