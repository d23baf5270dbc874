"""Folders that are whole or absent: a manifest of every file, then the name; and entries of a shared cache.

Neither safetensors nor npy notices a flipped bit; the manifest does, and carries its own checksum.
"""

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from orca_cli.exceptions import CheckpointError, ChecksumError, StorageError
from orca_cli.storage import disk
from orca_cli.storage.locks import lock

MANIFEST = "MANIFEST.json"
_SCHEMA = 1  # of manifests
_ASIDE = ".bad-"


@contextmanager
def commit_folder(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a temporary folder to fill; at the end of the block it gets a manifest and, in one step, its name.

    An existing folder of that name is deleted just before, so use a new name where losing it would hurt. If the block
    raises, nothing remains and the old folder is intact. `owner` is for the manifest, such as a run's identity.
    """
    disk.make_folder(path.parent)
    with disk.guarded(path):
        temporary = Path(
            tempfile.mkdtemp(prefix=disk.TEMPORARY, suffix=f"-{path.name}", dir=path.parent)
        )
        try:
            yield temporary
            for entry in (entries := sorted(temporary.rglob("*"))):
                disk.fsync_folder(entry) if entry.is_dir() else disk.fsync_file(entry)
            seal(temporary, (entry for entry in entries if not entry.is_dir()), owner=owner)
            temporary.chmod(0o755)
            if path.exists():
                remove(path)
            temporary.rename(path)
            disk.fsync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path, files: Iterable[Path], *, owner: str = "") -> None:
    """Write a folder's manifest: size and SHA-256 of some files in it."""
    with disk.guarded(folder):
        entries = {
            str(file.relative_to(folder)): {
                "size": file.stat().st_size,
                "sha256": disk.sha256_file(file),
            }
            for file in sorted(files)
        }
    disk.write_checked_json(
        folder / MANIFEST, {"schema": _SCHEMA, "owner": owner, "files": entries}
    )


def verify_folder(
    path: Path,
    *,
    extra_allowed: bool = False,
    only: Collection[str] | None = None,
    contents: bool = True,
    editable: Collection[str] = (),
) -> str:
    """Check every file of a committed or sealed folder against its manifest, and return its owner.

    Args:
        path: the folder.
        extra_allowed: files that are not in the manifest are allowed, as in a sealed folder. Hidden files always are.
        only: names of the files to check, all of which have to be in the manifest; None checks all.
        contents: whether contents are compared; else only sizes are.
        editable: names of files that a person may change, remove or add.

    Raises:
        ChecksumError: the manifest or a file is missing or damaged, or there is an extra file.
        CheckpointError: a newer program wrote it.
    """
    manifest = _manifest(path)
    for name in set(only or ()) - manifest["files"].keys():
        raise ChecksumError(f"'{name}' is not in its manifest", where=str(path))
    names = manifest["files"] if only is None else only
    checked = [name for name in names if name not in editable]
    for problem in _problems(
        path, manifest["files"], extra_allowed or only is not None, checked, contents, editable
    ):
        raise ChecksumError(problem, where=str(path))
    return str(manifest["owner"])


def folder_problems(path: Path, *, extra_allowed: bool = False) -> tuple[int, list[str]]:
    """Return the number of files in a folder's manifest, and all problems that `verify_folder` would call damage."""
    try:
        entries = _manifest(path)["files"]
    except ChecksumError as error:
        return 0, [f"its manifest {error.what}"]
    return len(entries), list(_problems(path, entries, extra_allowed))


def _manifest(path: Path) -> dict[str, Any]:
    manifest = disk.read_checked_json(path / MANIFEST)
    if manifest.get("schema") != _SCHEMA:
        what = f"its manifest has schema {manifest.get('schema')}; this program reads {_SCHEMA}"
        raise CheckpointError(what, where=str(path), hint="use a newer program")
    files = manifest.get("files")
    if not isinstance(files, dict) or any(
        name.startswith("/") or ".." in PurePath(name).parts for name in files
    ):
        raise ChecksumError(f"{MANIFEST} names files outside the folder", where=str(path))
    return manifest


def _problems(
    path: Path,
    entries: Any,
    extra_allowed: bool,
    only: Collection[str] | None = None,
    contents: bool = True,
    editable: Collection[str] = (),
) -> Iterator[str]:
    for name in entries if only is None else only:
        file, entry = path / name, entries[name]
        try:
            if not file.is_file():
                yield f"'{name}' is missing"
            elif file.stat().st_size != entry["size"] or (
                contents and disk.sha256_file(file) != entry["sha256"]
            ):
                yield f"the content of '{name}' has changed since it was written"
        except OSError as error:
            raise disk.unreadable(file, error) from error
    if not extra_allowed:
        names = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()} - {
            MANIFEST,
            *entries,
            *editable,
        }
        if extra := sorted(name for name in names if not name.startswith(".")):
            yield f"'{extra[0]}' does not belong to it"


def quarantine(path: Path) -> Path:
    """Move a damaged file or folder aside, so that it is neither used nor lost."""
    aside = path.with_name(f"{path.name}{_ASIDE}{disk.timestamp()}")
    with disk.guarded(path):
        path.rename(aside)
        disk.fsync_folder(path.parent)
    return aside


def is_aside(path: Path) -> bool:
    """Return whether `quarantine` renamed a file or folder."""
    return _ASIDE in path.name


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder has a temporary name, which it keeps until it is complete."""
    return path.name.startswith(disk.TEMPORARY)


def remove(path: Path) -> None:
    """Delete one of our files or folders; a folder is renamed first, so that nobody sees half of it."""
    with disk.guarded(path):
        if path.is_dir() and not path.is_symlink():
            doomed = disk.temporary_name(path)
            path.rename(doomed)
            disk.fsync_folder(
                path.parent
            )  # else a power failure can bring the name back, with nothing behind it
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; links are not followed, and what cannot be read counts 0."""
    is_folder, total = os.path.isdir(path) and not os.path.islink(path), 0
    for file in (
        [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        if is_folder
        else [path]
    ):
        with suppress(OSError):  # deleted meanwhile
            total += file.lstat().st_size
    return total


def clean_temporary(folder: Path) -> None:
    """Delete what a killed process left under temporary names. Only the holder of the folder's lock may call this."""
    for leftover in list(folder.rglob(f"{disk.TEMPORARY}*")):
        with suppress(StorageError):
            remove(leftover)


@contextmanager
def cached(
    path: Path, *, waiting_for: str, say: Callable[[str], None], check: Callable[[], None]
) -> Iterator[bool]:
    """Lock a cache entry for the block and yield whether it is whole; if it is not, the block must commit it.

    Others that want the entry wait, and make it if the one at work ends early. A damaged entry is moved aside.

    Args:
        path: folder of the entry; its name must determine its content.
        waiting_for: what another process does with the entry, such as "computes the same floors".
        say: takes messages.
        check: called every second of the wait; ends it by raising.
    """
    announce = functools.cache(lambda: say(f"waiting for another process that {waiting_for}"))

    def wait() -> None:
        announce()
        check()

    lock_path = path.with_name(f"{path.name}.lock")
    with lock(lock_path, timeout_s=math.inf, what=f"cache entry {path.name}", while_waiting=wait):
        is_whole = path.exists()
        if is_whole:
            try:
                verify_folder(path)
            except ChecksumError as error:
                say(f"damaged cache entry, making it again: {error}")
                quarantine(path)
                is_whole = False
        yield is_whole
