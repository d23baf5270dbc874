"""Every write of the program: temporary name, fsync, rename; folders with a manifest; locks; the clock.

Whatever has its final name is complete. A folder that was committed carries a manifest with the SHA-256 of each file,
because neither safetensors nor npy notices a flipped bit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock

from orca_cli.exceptions import ChecksumError, LockedError, OrcaError, StorageError

MANIFEST = "MANIFEST.json"
_TEMPORARY = ".tmp-"
_GIB = 1024**3


def now() -> datetime:
    """Return the local time with its offset."""
    return datetime.now().astimezone()


def timestamp() -> str:
    """Return the local time to the microsecond in the form of run folders: YYYY-mm-dd_HH-MM-SS.ffffff."""
    return now().strftime("%Y-%m-%d_%H-%M-%S.%f")


def monotonic() -> float:
    """Return seconds from a clock that never goes back; only differences mean something."""
    return time.monotonic()


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Turn what the operating system or a serialiser says about a failed write into one StorageError."""
    try:
        yield
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - serialisers wrap a full disk in types of their own
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> StorageError:
    number = getattr(error, "errno", None) or _number_in(str(error))
    free = _free_bytes(path)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (number is None and free is not None and free < 2**20):
        left = f" ({free / _GIB:.2f} GiB free)" if free is not None else ""
        return StorageError(f"no space left to write{left}", where=str(path), hint="free some space and repeat")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError("cannot be written: permission denied", where=str(path), hint="choose another folder")
    if number in (errno.ENOTDIR, errno.EEXIST):
        return StorageError("a file stands where a folder is needed", where=str(path), hint="choose another folder")
    return StorageError(f"writing failed: {error or type(error).__name__}", where=str(path))


def _number_in(text: str) -> int | None:
    """Return the system's error number that safetensors writes into its message."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found.group(1)) if found else None


def _free_bytes(path: Path) -> int | None:
    for folder in [path, *path.parents]:
        if folder.exists():
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> Path:
    """Create a folder and its parents where they are missing.

    Raises:
        StorageError: it cannot be created.
    """
    with _guard(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_writable(path: Path) -> None:
    """Create the folder and write a byte into it, so that a run fails before its work and not after it.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    make_folder(path)
    with _guard(path), tempfile.NamedTemporaryFile(dir=path, prefix=_TEMPORARY) as probe:
        probe.write(b"x")
        probe.flush()


def claim_folder(parent: Path, name: Callable[[], str]) -> Path:
    """Create a new folder that no other process has; `name` is asked again where its answer is taken.

    Raises:
        StorageError: it cannot be created.
    """
    make_folder(parent)
    while True:
        path = parent / name()
        with _guard(path):
            try:
                path.mkdir()
            except FileExistsError:
                continue
            _fsync_folder(parent)
            return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new one, never a part.

    Raises:
        StorageError: disk full, read-only or failing; the old content is intact.
    """
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file, force it to the disk and give it its name.

    Raises:
        StorageError: disk full, read-only or failing; the old content is intact.
    """
    make_folder(path.parent)
    temporary = path.parent / f"{_TEMPORARY}{os.getpid()}-{path.name}"
    with _guard(path):
        try:
            writer(temporary)
            fsync_file(temporary)
            os.replace(temporary, path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity are refused, since JSON has no words for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a .jsonl file in a single write."""
    make_folder(path.parent)
    with _guard(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def rewrite_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace a .jsonl file, whole or not at all."""
    write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def commit_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; at the end of the block it gets a manifest and, in one step, its name.

    A folder that has the name is deleted just before; who cannot bear to lose it takes a new name each time. Where the
    block raises, nothing remains and the old folder is intact.

    Raises:
        StorageError: disk full, read-only or failing.
    """
    make_folder(path.parent)
    with _guard(path):
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, suffix=f"-{path.name}", dir=path.parent))
        try:
            yield temporary
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            for file in files:
                fsync_file(file)
            entries = {
                str(file.relative_to(temporary)): {"size": file.stat().st_size, "sha256": sha256_file(file)}
                for file in files
            }
            write_json(temporary / MANIFEST, {"schema": 1, "files": entries})
            temporary.chmod(0o755)
            if path.exists():
                remove(path)
            temporary.rename(path)
            _fsync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def verify_folder(path: Path) -> None:
    """Check every file of a committed folder against its manifest.

    Raises:
        ChecksumError: the manifest or a file is missing, or its content differs.
    """
    try:
        entries = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        items = [(str(name), entry["size"], entry["sha256"]) for name, entry in entries.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError("the manifest is missing or unreadable", where=str(path)) from error
    for name, size, digest in items:
        file = path / name
        if not file.is_file():
            raise ChecksumError(f"'{name}' is missing", where=str(path))
        if file.stat().st_size != size or sha256_file(file) != digest:
            raise ChecksumError(f"the content of '{name}' has changed since it was written", where=str(path))


def quarantine(path: Path) -> Path:
    """Move a damaged file or folder aside, so that it is neither used again nor lost."""
    aside = path.with_name(f"{path.name}.bad-{timestamp()}")
    with _guard(path):
        path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Delete a file or folder of ours; a folder loses its name first, so that no half of it is ever seen."""
    with _guard(path):
        if path.is_dir():
            doomed = path.with_name(f"{_TEMPORARY}del-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)


def clean_temporary(folder: Path) -> None:
    """Delete what a killed process left under temporary names. Only the holder of the folder's lock may call this."""
    for leftover in folder.rglob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def lock(
    path: Path, *, timeout_s: float = 0.0, what: str = "it", while_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock; the operating system frees it when the process ends, however it ends.

    Args:
        path: file of the lock.
        timeout_s: how long to wait for it.
        what: what it guards, for messages.
        while_waiting: called every second of the wait; ends it by raising.

    Raises:
        LockedError: another process held it for longer than `timeout_s`.
        StorageError: the file of the lock cannot be written.
    """
    make_folder(path.parent)
    held = filelock.FileLock(path)
    end = monotonic() + timeout_s
    while not held.is_locked:
        with _guard(path):
            try:
                held.acquire(timeout=max(0.0, min(1.0, end - monotonic())))
            except filelock.Timeout as error:
                if monotonic() >= end:
                    raise LockedError(
                        f"another process works on {what}", where=str(path), hint="wait for it to end"
                    ) from error
        if while_waiting is not None and not held.is_locked:
            while_waiting()
    try:
        yield
    finally:
        held.release()


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock; nothing is written, so that readers may ask about other people's runs."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # no such file, or one that may not be read
        return False
