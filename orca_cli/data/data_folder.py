"""The data folder: whether the files of a data set exist, and whether they have changed.

`paths.data/NAME/checksums.json` records the SHA-256 of every file that the program fetched or
checked: the published checksum if it is known, otherwise the checksum of the file when the program
first saw it. Every later check compares the file with this checksum.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from orca_cli import signals, storage
from orca_cli.data.catalogue import DataFile, DataSet
from orca_cli.data.untrusted.downloads import md5_file
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.progress import Reporter

CHECKSUMS = "checksums.json"
SCHEMA = 1
_LOCK = ".lock"
_AGAIN = "move the file away and get it again"
# Origin of data that do not come in files -> the word that `state` returns.
_WITHOUT_FILES = {"generated": "generated", "bundled": "bundled", "own": "yours"}


def is_there(file: DataFile, folder: Path) -> bool:
    """Return whether the data of a file are in the data set's folder.

    The data are the file itself, the members of an archive that has to be unpacked, or another file
    that makes this file unnecessary. Only names of files are checked, not their content.
    """
    for pattern in file.instead:
        if any(folder.glob(pattern)):
            return True
    # Names that the catalogue lists, or that were recorded when the archive was unpacked.
    members = file.members or tuple(_unpacked(folder, file))
    # An archive is not needed after it was unpacked.
    if members and all((folder / member).exists() for member in members):
        return True
    # A packed archive is not enough, since readers need its members.
    return file.unpack is None and (folder / file.path).is_file()


def state(entry: DataSet, data_folder: Path) -> str:
    """Return in one word whether the data of a data set exist.

    The word is present, partly or absent for data that come in files. Other data are present if all
    files that replace them exist; else they are generated, bundled (with a package) or yours. The
    word is "-" if the data set's YAML file does not describe its data. Only names of files are
    checked, not their content.
    """
    are_there = [is_there(file, data_folder / entry.folder) for file in entry.files]
    # A data set may list no files, and `all` of an empty list is true.
    if are_there and all(are_there):
        return "present"
    if entry.origin != "files":
        return _WITHOUT_FILES.get(entry.origin, "-")
    return "partly" if any(are_there) else "absent"


@contextmanager
def locked(entry: DataSet, data_folder: Path, reporter: Reporter) -> Iterator[Path]:
    """Lock the data set's folder, after waiting for other processes, and yield the folder.

    StorageError if the folder cannot be written.
    """
    what = f"the data of {entry.name}"
    folder = data_folder / entry.folder
    # `wait` is called repeatedly, but its message is needed once.
    say_once = cache(lambda: reporter.say(f"waiting for another process that uses {what}"))

    def wait() -> None:
        signals.check()
        say_once()

    with storage.lock(folder / _LOCK, timeout_s=math.inf, what=what, while_waiting=wait):
        # Only under the lock, where any temporary file was left by a killed process.
        storage.clean_temporary(folder)
        yield folder


def expected(file: DataFile, folder: Path) -> str | None:
    """Return the SHA-256 that a file should have: the published one, else the recorded one.

    None if neither exists.
    """
    if file.sha256:
        return file.sha256
    return _read(folder)["files"].get(file.path, {}).get("sha256")


def verify(file: DataFile, folder: Path) -> str:
    """Return a file's SHA-256, and record it if the program sees the file for the first time.

    ChecksumError if the file's SHA-256 or MD5 differs from the published one, if its SHA-256
    differs from the recorded one, or if the record is damaged.
    """
    path = folder / file.path
    digest = storage.sha256_file(path)
    expected_digest = expected(file, folder)
    # A published MD5 is compared only if no SHA-256 is known.
    if expected_digest is None and file.md5 is not None:
        md5 = md5_file(path)
        if md5 != file.md5:
            raise ChecksumError(
                f"is damaged: its MD5 is {md5}, but the published MD5 is {file.md5}",
                where=str(path),
                hint=_AGAIN,
            )
    if expected_digest is not None and expected_digest != digest:
        source = "the published checksum"
        hint = _AGAIN
        # The file that was seen first, whose digest was recorded, may be the wrong one.
        if not file.sha256:
            source = f"the checksum recorded in {CHECKSUMS}"
            hint = f"{_AGAIN}; if you trust this file, delete '{folder / CHECKSUMS}' instead"
        raise ChecksumError(
            f"is damaged: its SHA-256 is {digest}, but {source} is {expected_digest}",
            where=str(path),
            hint=hint,
        )
    size = path.stat().st_size
    record(folder, name=file.path, size=size, digest=digest, origin="found here")
    return digest


def record(folder: Path, name: str, size: int, digest: str, origin: str) -> None:
    """Record a file's size in bytes, SHA-256, origin and the current time in checksums.json.

    An entry with the same size and digest is not changed. `name` is the file's path below the
    folder. `origin` is the address that the file was fetched from, or "found here".
    """
    content = _read(folder)
    entry = content["files"].get(name, {})
    if entry.get("bytes") == size and entry.get("sha256") == digest:
        return
    time = storage.now().isoformat(timespec="seconds")
    content["files"][name] = {"bytes": size, "sha256": digest, "from": origin, "at": time}
    storage.write_json(folder / CHECKSUMS, content)


def unpack(file: DataFile, folder: Path, reporter: Reporter) -> int:
    """Unpack an archive in its folder unless it is unpacked already; return the number of files.

    Names and sizes of the unpacked files are recorded in checksums.json. If one of these files is
    missing or has another size, all are unpacked again. A damaged archive is renamed, and its entry
    deleted from the record. Raises the errors of `archives.unpack`.
    """
    archive = folder / file.path
    if file.unpack is None or not archive.is_file():
        return 0
    # Read before unpacking, since the archive may contain a file named checksums.json.
    content = _read(folder)
    digest = content["files"].get(file.path, {}).get("sha256")
    # If the archive was replaced, its digest differs and the unpacked members are out of date.
    if _is_unpacked(folder, file) and content["unpacked"][file.path].get("sha256") == digest:
        return 0
    from orca_cli.data.untrusted import archives  # most data sets do not need it

    def is_selected(name: str) -> bool:
        return not file.only or any(fnmatchcase(name, pattern) for pattern in file.only)

    try:
        paths = archives.unpack(archive, archive.parent, reporter, members=is_selected)
    except DataError as error:
        # An error about another path does not mean that the archive is damaged.
        if error.where != str(archive):
            raise
        # If the damaged archive and its entry stayed, the archive would be taken for the right
        # file, and an intact archive that replaces it for a wrong one.
        content["files"].pop(file.path, None)
        storage.write_json(folder / CHECKSUMS, content)
        moved = storage.quarantine(archive)
        raise DataError(
            f"{error.what}; the archive was renamed to '{moved.name}'",
            where=error.where,
            hint=error.hint,
        ) from error
    # Relative names stay valid if the data folder is moved.
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    content["unpacked"][file.path] = {"sha256": digest, "members": sizes}
    storage.write_json(folder / CHECKSUMS, content)
    return len(sizes)


def _is_unpacked(folder: Path, file: DataFile) -> bool:
    """Return whether all files that were unpacked from an archive exist and have their sizes."""
    sizes = _unpacked(folder, file)
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return False
    # Without a recorded file, nothing was unpacked.
    return bool(sizes)


def _unpacked(folder: Path, file: DataFile) -> dict[str, int]:
    """Return name -> size of the files that were unpacked from an archive.

    Empty if no such file is recorded or the record is damaged.
    """
    if file.unpack is None:
        return {}
    try:
        members = _read(folder)["unpacked"].get(file.path, {}).get("members", {})
    except ChecksumError:
        # A damaged record is reported when checksums are compared; listing names must not fail.
        return {}
    return members if isinstance(members, dict) else {}


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record in a folder's checksums.json; ChecksumError if it is damaged."""
    path = folder / CHECKSUMS
    if not path.exists():
        return {"schema": SCHEMA, "files": {}, "unpacked": {}}  # type: ignore[dict-item]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if (
            schema == SCHEMA
            and isinstance(content["files"], dict)
            and isinstance(content["unpacked"], dict)
        ):
            return content
        problem = f"has the unknown schema {schema}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"is damaged ({type(error).__name__})"
    raise ChecksumError(problem, where=str(path), hint="delete this file; a new one is made")
