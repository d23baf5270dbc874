"""Folders that are complete or absent, since they get a manifest before their name; a shared cache.

Neither safetensors nor npy detects a flipped bit. The manifest does, and it also has a checksum of
itself.
"""

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from orca_cli.exceptions import CheckpointError, ChecksumError, StorageError
from orca_cli.storage import disk
from orca_cli.storage.locks import lock

MANIFEST = "MANIFEST.json"
_SCHEMA = 1  # schema of manifests
_ASIDE = ".bad-"  # part of the names of files and folders that `quarantine` has moved aside


@contextmanager
def commit_folder(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Yield a temporary folder to fill; at the end of the block it gets a manifest and its name.

    An existing folder of that name is deleted just before, so use a new name for content that must
    not be lost. If the block raises, nothing remains and the old folder is intact. The manifest
    records the `owner`, such as a run's identity.
    """
    disk.make_folder(path.parent)
    with disk.guarded(path):
        # Unpredictable and next to the final name: the rename at the end stays within one file
        # system.
        suffix = f"-{path.name}"
        temporary = Path(tempfile.mkdtemp(prefix=disk.TEMPORARY, suffix=suffix, dir=path.parent))
        try:
            yield temporary
            files = []
            # Contents before the manifest, and the manifest before the name: a folder with its
            # final name is complete, even after an interruption.
            for entry in sorted(temporary.rglob("*")):
                if entry.is_dir():
                    disk.fsync_folder(entry)
                else:
                    disk.fsync_file(entry)
                    files.append(entry)
            seal(temporary, files, owner=owner)
            # mkdtemp makes the folder private; other users who share the runs must read it.
            temporary.chmod(0o755)
            if path.exists():
                # Removed only now, when the new content is complete.
                remove(path)
            temporary.rename(path)
            disk.fsync_folder(path.parent)
        finally:
            # Has no effect after the rename.
            shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path, files: Iterable[Path], *, owner: str = "") -> None:
    """Write a folder's manifest: size and SHA-256 of some files in it."""
    entries = {}
    with disk.guarded(folder):
        # Sorted, so that equal folders have equal manifests.
        for file in sorted(files):
            name = str(file.relative_to(folder))
            entries[name] = {"size": file.stat().st_size, "sha256": disk.sha256_file(file)}
    manifest = {"schema": _SCHEMA, "owner": owner, "files": entries}
    disk.write_checked_json(folder / MANIFEST, manifest)


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
        extra_allowed: whether files that are not in the manifest are allowed, as in a sealed
            folder. Hidden files are always allowed.
        only: names of the files to check, all of which must be in the manifest; None checks all
            files.
        contents: whether contents are compared, in addition to sizes.
        editable: names of files that a person may change, remove or add.

    Raises:
        ChecksumError: the manifest or a file is missing or damaged, or there is an extra file.
        CheckpointError: a newer version of the program wrote the manifest.
    """
    manifest = _manifest(path)
    entries = manifest["files"]
    for name in set(only or ()) - entries.keys():
        raise ChecksumError(
            f"the folder's manifest does not list the file '{name}'", where=str(path)
        )
    checked_names = entries if only is None else only
    # An editable file, such as an export's model card, may differ from its digest.
    checked_entries = {name: entries[name] for name in checked_names if name not in editable}
    for problem in _changes(path, checked_entries, contents=contents):
        raise ChecksumError(problem, where=str(path))
    # With `only`, the caller does not use the other files.
    if not extra_allowed and only is None:
        for problem in _extra_files(path, {*entries, *editable}):
            raise ChecksumError(problem, where=str(path))
    return str(manifest["owner"])


def folder_problems(path: Path, *, extra_allowed: bool = False) -> tuple[int, list[str]]:
    """Return the number of files in a folder's manifest, and a sentence on each damaged file."""
    try:
        entries = _manifest(path)["files"]
    except ChecksumError as error:
        return 0, [f"its manifest {error.what}"]
    problems = list(_changes(path, entries))
    if not extra_allowed:
        problems.extend(_extra_files(path, entries.keys()))
    return len(entries), problems


def _manifest(path: Path) -> dict[str, Any]:
    """Return a folder's manifest; ChecksumError if it is damaged or names files elsewhere."""
    manifest = disk.read_checked_json(path / MANIFEST)
    # The schema is checked first, since the keys of a newer manifest may mean something else.
    if manifest.get("schema") != _SCHEMA:
        schema = manifest.get("schema")
        raise CheckpointError(
            f"its manifest has schema {schema}, but this version of orca reads schema {_SCHEMA}",
            where=str(path),
            hint="use a newer version of orca",
        )
    files = manifest.get("files")
    # The manifest may be untrusted and must not make the program read files outside the folder.
    if not isinstance(files, dict) or any(map(_leads_out, files)):
        raise ChecksumError(
            f"{MANIFEST} names files outside the folder; get this folder from a trusted source",
            where=str(path),
        )
    return manifest


def _leads_out(name: str) -> bool:
    """Return whether a file's name leads out of the folder to which it is relative."""
    return name.startswith("/") or ".." in PurePath(name).parts


def _changes(path: Path, entries: Mapping[str, Any], *, contents: bool = True) -> Iterator[str]:
    """Yield a sentence for each file of a manifest that is missing or has changed."""
    for name, entry in entries.items():
        file = path / name
        try:
            if not file.is_file():
                yield f"'{name}' is missing"
                continue
            # The size first, since the file is not read for it.
            has_changed = file.stat().st_size != entry["size"]
            if contents and not has_changed:
                has_changed = disk.sha256_file(file) != entry["sha256"]
            if has_changed:
                yield f"the content of the file '{name}' has changed since orca wrote it"
        except OSError as error:
            raise disk.unreadable(file, error) from error


def _extra_files(path: Path, expected: Collection[str]) -> Iterator[str]:
    """Yield a sentence on the first visible file that is not expected, if there is one."""
    file_names = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}
    extra_names = file_names - set(expected) - {MANIFEST}
    # Hidden files come from file managers and network file systems.
    visible_names = sorted(name for name in extra_names if not name.startswith("."))
    if visible_names:
        yield f"has a file that its manifest does not list, '{visible_names[0]}'; move it away"


def quarantine(path: Path) -> Path:
    """Move a damaged file or folder aside, so that it is neither used nor lost."""
    # The name contains the time, so that a second damaged file of this name gets another name.
    moment = disk.timestamp()
    aside = path.with_name(f"{path.name}{_ASIDE}{moment}")
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
    """Delete one of our files or folders; a folder is renamed first, so it is never seen partly."""
    with disk.guarded(path):
        # A link is deleted itself, not the folder that it leads to.
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        doomed = disk.temporary_name(path)
        path.rename(doomed)
        # Otherwise, after a power failure, an empty folder could have the name again.
        disk.fsync_folder(path.parent)
        shutil.rmtree(doomed)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in and below a folder.

    Links are not followed. A file that cannot be read counts as 0.
    """
    files = [path]
    if os.path.isdir(path) and not os.path.islink(path):
        files = []
        # os.walk does not follow links to folders.
        for folder, _, file_names in os.walk(path):
            files.extend(Path(folder, name) for name in file_names)
    total_bytes = 0
    for file in files:
        # The file may have been deleted in the meantime.
        with suppress(OSError):
            # lstat, which counts a link itself.
            total_bytes += file.lstat().st_size
    return total_bytes


def clean_temporary(folder: Path) -> None:
    """Delete the files and folders that a killed process left under temporary names.

    Only the process that has the folder's lock may call this.
    """
    # A list, since deleting would change the folders during the search.
    for leftover in list(folder.rglob(f"{disk.TEMPORARY}*")):
        # A leftover that cannot be deleted needs space, but does no harm.
        with suppress(StorageError):
            remove(leftover)


@contextmanager
def cached(
    path: Path, *, waiting_for: str, say: Callable[[str], None], check: Callable[[], None]
) -> Iterator[bool]:
    """Lock a cache entry for the block, and yield whether it is complete.

    If it is not, the block has to commit it. Other processes that need the entry wait; if this
    process ends early, the next process makes the entry. A damaged entry is moved aside.

    Args:
        path: folder of the entry; its name must determine its content.
        waiting_for: work of another process on the entry, such as "computes the same floors".
        say: function that shows a message.
        check: function that is called every second of the wait, and ends it by raising an error.
    """

    # Cached, so that only the first call shows the message.
    @functools.cache
    def announce() -> None:
        say(f"waiting for another process that {waiting_for}")

    def wait() -> None:
        announce()
        check()

    # Next to the entry and not inside it, since the entry's folder is replaced as a whole.
    lock_path = path.with_name(f"{path.name}.lock")
    with lock(lock_path, timeout_s=math.inf, what=f"cache entry {path.name}", while_waiting=wait):
        is_whole = path.exists()
        # Checked while the lock is held: another process may have made the entry during the wait.
        if is_whole:
            try:
                verify_folder(path)
            except ChecksumError as error:
                say(f"computing a damaged entry of the cache again: {error}")
                quarantine(path)
                is_whole = False
        yield is_whole
