"""Members of .npz files as files in the cache, so that they can be mapped into memory instead of read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from orca_cli import signals, storage
from orca_cli.exceptions import DataError
from orca_cli.progress import Reporter
from orca_cli.untrusted.zips import DAMAGE

_CHUNK = 2**20
_FILE = "array.npy"


def unpacked_member(path: Path, name: str, cache_folder: Path, reporter: Reporter) -> Path:
    """Return a file of the cache with the bytes of one member; it is made if it is missing or incomplete.

    The folder's name follows from the archive's path, size and modification time. The archive's checksum is compared while
    the copy is made; later only the copy's size is, which costs nothing for files of gigabytes.

    Raises:
        DataError: the archive is damaged.
        StorageError: the cache cannot be written, or its disk is too small.
        InterruptionError: a signal asked to stop; nothing half-made remains.
    """
    state = path.stat()
    label = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{path.stem}-{name}")[:60]
    parent = cache_folder / "unpacked" / f"{label}-{_digest(str(path.resolve()), name)}"
    folder = parent / _digest(state.st_size, state.st_mtime_ns)
    if _is_complete(folder):
        return folder / _FILE
    lock, wait = parent.with_name(f"{parent.name}.lock"), _waiting(path, reporter)
    with storage.lock(lock, timeout_s=float("inf"), what=f"unpacking {path.name}", while_waiting=wait):
        if not _is_complete(folder):
            if os.path.lexists(parent):  # copies of the archive as it was before, and incomplete ones
                storage.remove(parent)
            with storage.commit_folder(folder) as temporary:
                _copy(path, name, temporary / _FILE, reporter)
    return folder / _FILE


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _waiting(path: Path, reporter: Reporter) -> Callable[[], None]:
    said = False

    def wait() -> None:
        nonlocal said
        signals.check()
        if not said:
            reporter.say(f"waiting for another process that unpacks {path.name}")
        said = True

    return wait


def _is_complete(folder: Path) -> bool:
    try:
        entries = json.loads((folder / storage.MANIFEST).read_text(encoding="utf-8"))["files"]
        return not folder.is_symlink() and (folder / _FILE).stat().st_size == entries[_FILE]["size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _copy(path: Path, name: str, target: Path, reporter: Reporter) -> None:
    where = f"{path}[{name}]"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.NameToInfo else name)
            storage.require_space(target.parent, member.file_size, f"unpacking {where}")
            track = reporter.track(f"unpacking {path.name}[{name}], MiB", -(-member.file_size // _CHUNK))
            with archive.open(member) as stream, track as advance, open(target, "xb") as file:
                # The checksum of a member is compared when its end is reached.
                while chunk := stream.read(_CHUNK):
                    signals.check()
                    file.write(chunk)
                    advance()
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk: storage explains it
        raise DataError(f"cannot be read: {error}", where=where, hint="write or get it again") from error
