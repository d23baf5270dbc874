"""Every write of the program: temporary name, fsync, rename; folders with a manifest; locks; the clock.

Whatever has its final name is complete. A folder that was committed carries a manifest with the SHA-256 of each file,
because neither safetensors nor npy notices a flipped bit; the manifest, and every record that a later attempt goes on from,
carries one of itself. The log of a run is the one file that is written elsewhere: losing lines of it must not end a run.
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
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import filelock

from orca_cli.exceptions import CheckpointError, ChecksumError, LockedError, OrcaError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "MANIFEST.json"
HEARTBEAT_S = 10.0
_SCHEMA = 1  # of manifests
_TEMPORARY = ".tmp-"
_ASIDE = ".bad-"
_DIGEST = "sha256"
_GIB = 1024**3
_held: dict[Path, tuple[int, int] | None] = {}


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
def guarded(path: Path) -> Iterator[None]:
    """Turn what the operating system or a serialiser says about a failed write inside the block into one StorageError."""
    try:
        yield
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - serialisers wrap a full disk in types of their own
        raise _explain(path, error) from error


def of_the_disk(error: BaseException) -> StorageError | None:
    """Return the failure of a disk that an unexpected error tells of; None where it tells of none."""
    failing = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
    if isinstance(error, OSError) and error.errno in failing:
        return _explain(Path(str(error.filename or ".")), error)
    return None


def _explain(path: Path, error: Exception) -> StorageError:
    number = getattr(error, "errno", None) or _number_in(str(error))
    free = _free_bytes(path)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (number is None and free is not None and free < 2**20):
        left = f" ({free / _GIB:.2f} GiB free)" if free is not None else ""
        return StorageError(f"no space left to write{left}", where=str(path), hint="free some space and repeat")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError("cannot be written: permission denied", where=str(path), hint="choose another folder")
    if number in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        what = "a link that leads to no folder" if _is_broken_link(path) else "a file"
        return StorageError(f"{what} stands where a folder is needed", where=str(path), hint="choose another folder")
    if number == errno.ENAMETOOLONG:
        text = str(path)
        return StorageError(
            f"the path is too long ({len(text)} characters)",
            where=f"{text[:60]}...{text[-20:]}",
            hint="choose a folder with a shorter name",
        )
    text = f"writing failed: {error or type(error).__name__}"
    return StorageError(text, where=str(path), hint="mend the disk, or choose another folder")


def _is_broken_link(path: Path) -> bool:
    return any(folder.is_symlink() and not os.path.isdir(folder) for folder in (path, *path.parents))


def _number_in(text: str) -> int | None:
    """Return the system's error number that safetensors writes into its message."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found.group(1)) if found else None


def _free_bytes(path: Path) -> int | None:
    for folder in [path, *path.parents]:
        if os.path.exists(folder):  # Path.exists raises where the path is too long
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None


def _fsync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the file system knows of such a thing."""
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
    """Make nothing anew inside the block of a folder that is deleted, renamed or replaced meanwhile: such writes raise."""
    with guarded(folder):
        _held[folder] = _node(folder)
    try:
        yield
    finally:
        del _held[folder]


def check_held(path: Path) -> None:
    """Check that a held folder which is or holds `path` is still the one that it was.

    Raises:
        StorageError: it was deleted, renamed or replaced.
    """
    for folder in (path, *path.parents):
        if folder in _held and _node(folder) != _held[folder]:
            raise _gone(folder)


def _node(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of its name; None where there is none."""
    try:
        found = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _gone(folder: Path) -> StorageError:
    return StorageError(
        "was deleted, renamed or replaced while work in it went on",
        where=str(folder),
        hint="put it back, or repeat the command to begin anew",
    )


def make_folder(path: Path) -> Path:
    """Create a folder and its parents where they are missing.

    Raises:
        StorageError: it cannot be created, or a folder that is held is there no more.
    """
    with guarded(path):
        check_held(path)
        missing = []
        folder = path
        while not folder.is_dir():
            if folder in _held:  # since the look just before
                raise _gone(folder)
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
            _fsync_folder(folder.parent)
    return path


def require_space(folder: Path, size: int) -> None:
    """Refuse what the disk has no room for, before anything is written.

    Raises:
        StorageError: fewer than `size` bytes are free below `folder`.
    """
    free = _free_bytes(folder)
    if free is not None and free < size:
        raise StorageError(
            f"no space left: {size / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free",
            where=str(folder),
            hint="free some space and repeat",
        )


def check_writable(path: Path) -> None:
    """Create the folder and write a byte into it, so that a run fails before its work and not after it.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    make_folder(path)
    with guarded(path), tempfile.NamedTemporaryFile(dir=path, prefix=_TEMPORARY) as probe:
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
        with guarded(path):
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
    with guarded(path):
        try:
            writer(temporary)
            fsync_file(temporary)
            os.replace(temporary, path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; what is no Unicode in the name of a file becomes an escape."""
    write_bytes(path, _encoded(text))


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # in JSON it is an escape that gives the same name again


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity are refused, since JSON has no words for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a .jsonl file and force it to the disk; half a line that an earlier failure left is cut off.

    Raises:
        StorageError: disk full, read-only or failing.
    """
    make_folder(path.parent)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with guarded(path):
        new = not path.exists()
        with open(path, "a+b") as file:
            file.truncate(_end_of_lines(file))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _fsync_folder(path.parent)


def _end_of_lines(file: BinaryIO) -> int:
    """Return where the last whole line of a file ends."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file up to the first line that is none; a last line may have been cut off."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return records


def rewrite_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace a .jsonl file, whole or not at all."""
    write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def write_checked_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON record with a SHA-256 of itself, whole or not at all."""
    write_text(path, _checked_text(record))


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return what `write_checked_json` wrote.

    Raises:
        ChecksumError: the file is missing, or any bit of it has changed.
        StorageError: it is there and cannot be read.
    """
    try:
        content = path.read_bytes()
        record = json.loads(content)
        digest = record.pop(_DIGEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ChecksumError("is missing", where=str(path)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError("is damaged: not a record of this program", where=str(path)) from error
    if not isinstance(record, dict) or _encoded(_checked_text(record)) != content:
        raise ChecksumError(f"is damaged: its checksum is not {str(digest)[:12]}", where=str(path))
    return record


def _checked_text(record: dict[str, Any]) -> str:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    digest = hashlib.sha256(_encoded(text)).hexdigest()
    return json.dumps({**record, _DIGEST: digest}, indent=2, ensure_ascii=False) + "\n"


def _unreadable(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"cannot be read: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        hint="mend the disk, or move it aside",
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of ours, by name.

    Raises:
        StorageError: the file cannot be read. The library calls every such failure "not found", torch a RuntimeError.
    """
    from safetensors import SafetensorError  # reports and lists import no torch
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def commit_folder(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a temporary folder to fill; at the end of the block it gets a manifest and, in one step, its name.

    A folder that has the name is deleted just before; who cannot bear to lose it takes a new name each time. Where the
    block raises, nothing remains and the old folder is intact.

    Args:
        path: the folder's name.
        owner: whose it is, such as a run's identity; stands in the manifest.

    Raises:
        StorageError: disk full, read-only or failing.
    """
    make_folder(path.parent)
    with guarded(path):
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, suffix=f"-{path.name}", dir=path.parent))
        try:
            yield temporary
            files = []
            for entry in sorted(temporary.rglob("*")):
                if entry.is_dir():
                    _fsync_folder(entry)
                else:
                    fsync_file(entry)
                    files.append(entry)
            seal(temporary, files, owner=owner)
            temporary.chmod(0o755)
            if path.exists():
                remove(path)
            temporary.rename(path)
            _fsync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path, files: Iterable[Path], *, owner: str = "") -> None:
    """Write a folder's manifest: size and SHA-256 of some files in it.

    Raises:
        StorageError: disk full, read-only or failing.
    """
    with guarded(folder):
        entries = {
            str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": sha256_file(file)}
            for file in sorted(files)
        }
    write_checked_json(folder / MANIFEST, {"schema": _SCHEMA, "owner": owner, "files": entries})


def verify_folder(path: Path, *, extra_allowed: bool = False) -> str:
    """Check every file of a committed or sealed folder against its manifest, and return whose it is.

    Args:
        path: the folder.
        extra_allowed: files beside those of the manifest are no fault, as in a sealed folder. Hidden files never are.

    Raises:
        ChecksumError: the manifest or a file is missing, one is too many, or a content differs.
        CheckpointError: a newer program wrote it.
        StorageError: a file is there and cannot be read.
    """
    manifest = _manifest(path)
    for problem in _problems(path, manifest, extra_allowed):
        raise ChecksumError(problem, where=str(path))
    owner: str = manifest["owner"]
    return owner


def folder_problems(path: Path, *, extra_allowed: bool = False) -> tuple[int, list[str]]:
    """Return the number of files in a folder's manifest, and all that `verify_folder` has against the folder.

    Raises:
        CheckpointError, StorageError: as for `verify_folder`.
    """
    try:
        manifest = _manifest(path)
    except ChecksumError as error:
        return 0, [f"its manifest {error.what}"]
    return len(manifest["files"]), list(_problems(path, manifest, extra_allowed))


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_checked_json(path / MANIFEST)
    schema = manifest.get("schema")
    if schema != _SCHEMA:
        raise CheckpointError(
            f"its manifest has schema {schema}; this program reads {_SCHEMA}",
            where=str(path),
            hint="use a newer program",
        )
    return manifest


def _problems(path: Path, manifest: dict[str, Any], extra_allowed: bool) -> Iterator[str]:
    entries = manifest["files"]
    for name, entry in entries.items():
        file = path / name
        try:
            if not file.is_file():
                yield f"'{name}' is missing"
            elif file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
                yield f"the content of '{name}' has changed since it was written"
        except OSError as error:
            raise _unreadable(file, error) from error
    if not extra_allowed:
        found = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()} - {MANIFEST}
        extra = sorted(name for name in found - set(entries) if not name.startswith("."))
        if extra:
            yield f"'{extra[0]}' does not belong to it"


def quarantine(path: Path) -> Path:
    """Move a damaged file or folder aside, so that it is neither used again nor lost."""
    aside = path.with_name(f"{path.name}{_ASIDE}{timestamp()}")
    with guarded(path):
        path.rename(aside)
        _fsync_folder(path.parent)
    return aside


def is_aside(path: Path) -> bool:
    """Return whether `quarantine` gave a file or folder its name."""
    return _ASIDE in path.name


def is_temporary(path: Path) -> bool:
    """Return whether a name is one that a file or folder has before it is complete."""
    return path.name.startswith(_TEMPORARY)


def remove(path: Path) -> None:
    """Delete a file or folder of ours; a folder loses its name first, so that no half of it is ever seen."""
    with guarded(path):
        if path.is_dir():
            doomed = path.with_name(f"{_TEMPORARY}del-{os.getpid()}-{path.name}")
            path.rename(doomed)
            _fsync_folder(path.parent)  # else a power failure can bring the name back, with nothing behind it
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)


def clean_temporary(folder: Path) -> None:
    """Delete what a killed process left under temporary names. Only the holder of the folder's lock may call this."""
    for leftover in list(folder.rglob(f"{_TEMPORARY}*")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


@contextmanager
def heartbeat(path: Path) -> Iterator[None]:
    """Renew a file's time of change every HEARTBEAT_S inside the block, for readers on machines that see no lock of ours."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    with suppress(RuntimeError):  # no more threads may be started: on this machine the lock tells all the same
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()


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
        with guarded(path):
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
