"""The data folder: which files of a data set are there, and whether they have changed.

`paths.data/NAME/checksums.json` has the SHA-256 of every file that has come through the program: the published one if it is
known, otherwise the one when it was first seen; the file is compared with it ever after.
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
_WITHOUT_FILES = {"generated": "generated", "bundled": "bundled", "own": "yours"}


def is_there(file: DataFile, folder: Path) -> bool:
    """Return whether what the reader needs of a file is in its data set's folder; of the data only names are looked at.

    That is the file itself, the content of an archive that has to be unpacked, or what makes the file unnecessary.
    """
    if any(any(folder.glob(pattern)) for pattern in file.instead):
        return True
    names = file.members or tuple(_unpacked(folder, file))
    if names and all((folder / name).exists() for name in names):
        return True
    return file.unpack is None and (folder / file.path).is_file()


def state(entry: DataSet, data_folder: Path) -> str:
    """Return in one word whether data are there; of the data only names are looked at.

    That is present, partly or absent, of data that come in files. Others are present where files stand in for them, and else
    generated, bundled (with a package) or yours; "-" if the data set's file does not say.
    """
    there = [is_there(file, data_folder / entry.name) for file in entry.files]
    if entry.origin == "files" or (there and all(there)):
        return "present" if there and all(there) else "partly" if any(there) else "absent"
    return _WITHOUT_FILES.get(entry.origin, "-")


@contextmanager
def locked(entry: DataSet, data_folder: Path, reporter: Reporter) -> Iterator[Path]:
    """Lock the data set's folder, after waiting for other processes, and provide it; StorageError if it cannot be written."""
    what, folder = f"the data of {entry.name}", data_folder / entry.name
    say_once = cache(lambda: reporter.say(f"waiting for another process that uses {what}"))

    def wait() -> None:
        signals.check()
        say_once()

    with storage.lock(folder / _LOCK, timeout_s=math.inf, what=what, while_waiting=wait):
        storage.clean_temporary(folder)
        yield folder


def expected(file: DataFile, folder: Path) -> str | None:
    """Return the SHA-256 that a file should have: the published one, else the recorded one; None if neither is known."""
    return file.sha256 or _read(folder)["files"].get(file.path, {}).get("sha256")


def verify(file: DataFile, folder: Path) -> str:
    """Return a file's SHA-256, which is recorded if the file is seen for the first time.

    ChecksumError where SHA-256 or MD5 is not the published one, SHA-256 not the recorded one, or the record is damaged.
    """
    path = folder / file.path
    digest, expected_sha256 = storage.sha256_file(path), expected(file, folder)
    problem, advice = "", ""
    if expected_sha256 not in (None, digest):
        which = "published" if file.sha256 else f"recorded in {CHECKSUMS}"
        problem = f"its SHA-256 is {digest}, but the one {which} is {expected_sha256}"
        advice = "" if file.sha256 else f"; if this file is right, delete {folder / CHECKSUMS}"
    elif expected_sha256 is None and file.md5 is not None and (md5 := md5_file(path)) != file.md5:
        problem = f"its MD5 is {md5}, but the one published is {file.md5}"
    if problem:
        raise ChecksumError(
            problem, where=str(path), hint=f"move the file away and get it again{advice}"
        )
    record(folder, file.path, path.stat().st_size, digest, "found here")
    return digest


def record(folder: Path, name: str, size: int, digest: str, origin: str) -> None:
    """Record size in bytes and SHA-256 of a file in checksums.json, with origin and time, unless an entry has both already.

    `name` is the file's path below the folder, `origin` the address that it is from, or "found here".
    """
    content = _read(folder)
    entry = content["files"].get(name)
    if entry is None or (entry.get("bytes"), entry.get("sha256")) != (size, digest):
        at = storage.now().isoformat(timespec="seconds")
        content["files"][name] = {"bytes": size, "sha256": digest, "from": origin, "at": at}
        storage.write_json(folder / CHECKSUMS, content)


def unpack(file: DataFile, folder: Path, reporter: Reporter) -> int:
    """Unpack an archive in place unless that was done; return the number of files that were written.

    Their names and sizes are recorded in checksums.json; where one is gone or has another size, all are unpacked again. A
    damaged archive is moved aside, and its record deleted; errors as those of `archives.unpack`.
    """
    archive = folder / file.path
    if file.unpack is None or not archive.is_file():
        return 0
    content = _read(folder)  # before: an archive may hold a file of this name
    digest = content["files"].get(file.path, {}).get("sha256")
    held = {folder / name: size for name, size in _unpacked(folder, file).items()}
    is_whole = all(path.is_file() and path.stat().st_size == size for path, size in held.items())
    if held and is_whole and content["unpacked"][file.path].get("sha256") == digest:
        return 0
    from orca_cli.data.untrusted import archives  # reads formats that most data sets do not need

    def is_wanted(name: str) -> bool:
        return not file.only or any(fnmatchcase(name, pattern) for pattern in file.only)

    try:
        written = archives.unpack(archive, archive.parent, reporter, members=is_wanted)
    except DataError as error:
        if error.where != str(archive):
            raise
        # If it stayed there and recorded, it would pass for the right file, and an intact one for a wrong one.
        content["files"].pop(file.path, None)
        storage.write_json(folder / CHECKSUMS, content)
        aside = storage.quarantine(archive)
        raise DataError(
            f"{error.what}; moved to {aside.name}", where=error.where, hint=error.hint
        ) from error
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in written}
    content["unpacked"][file.path] = {"sha256": digest, "members": sizes}
    storage.write_json(folder / CHECKSUMS, content)
    return len(sizes)


def _unpacked(folder: Path, file: DataFile) -> dict[str, int]:
    """Return name -> size of what was unpacked from a file; empty if nothing is recorded or the record is damaged."""
    if file.unpack is None:
        return {}
    try:
        members = _read(folder)["unpacked"].get(file.path, {}).get("members", {})
    except (
        ChecksumError
    ):  # reported when checksums are compared; a list of names must not fail because of it
        return {}
    return members if isinstance(members, dict) else {}


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of a folder; ChecksumError where it is damaged."""
    path = folder / CHECKSUMS
    if not path.exists():
        return {"schema": SCHEMA, "files": {}, "unpacked": {}}  # type: ignore[dict-item]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] == SCHEMA and all(
            isinstance(content[key], dict) for key in ("files", "unpacked")
        ):
            return content
        text = f"of schema {content['schema']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"damaged ({type(error).__name__})"
    raise ChecksumError(f"is {text}", where=str(path), hint="delete it to record the files anew")
