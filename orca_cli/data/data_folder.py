"""The data folder: which files of a data set are there, and whether they have changed.

`paths.data/NAME/checksums.json` has the SHA-256 of every file that has come through the program:
the published one if it is known, otherwise the one when it was first seen; the file is compared
with it ever after.
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
# The word of `state`, by the origin of data that do not come in files.
_WITHOUT_FILES = {"generated": "generated", "bundled": "bundled", "own": "yours"}


def is_there(file: DataFile, folder: Path) -> bool:
    """Return whether what the reader needs of a file is in its data set's folder.

    That is the file itself, the content of an archive that has to be unpacked, or what makes the
    file unnecessary. Of the data only names are looked at.
    """
    for pattern in file.instead:
        if any(folder.glob(pattern)):
            return True
    # Names that the catalogue lists, or that were recorded when the archive was unpacked.
    members = file.members or tuple(_unpacked(folder, file))
    # An archive that was deleted after it was unpacked is not missed.
    if members and all((folder / member).exists() for member in members):
        return True
    # A packed archive is not enough: readers need its content.
    return file.unpack is None and (folder / file.path).is_file()


def state(entry: DataSet, data_folder: Path) -> str:
    """Return in one word whether data are there; of the data only names are looked at.

    That is present, partly or absent, of data that come in files. Others are present where files
    stand in for them, and else generated, bundled (with a package) or yours; "-" if the data set's
    file does not say.
    """
    are_there = [is_there(file, data_folder / entry.folder) for file in entry.files]
    # A data set may list no files, and `all` of nothing is true.
    if are_there and all(are_there):
        return "present"
    if entry.origin != "files":
        return _WITHOUT_FILES.get(entry.origin, "-")
    return "partly" if any(are_there) else "absent"


@contextmanager
def locked(entry: DataSet, data_folder: Path, reporter: Reporter) -> Iterator[Path]:
    """Lock the data set's folder, after waiting for other processes, and provide it.

    StorageError if it cannot be written.
    """
    what = f"the data of {entry.name}"
    folder = data_folder / entry.folder
    # `wait` is called again and again, but its message is needed once.
    say_once = cache(lambda: reporter.say(f"waiting for another process that uses {what}"))

    def wait() -> None:
        signals.check()
        say_once()

    with storage.lock(folder / _LOCK, timeout_s=math.inf, what=what, while_waiting=wait):
        # Only under the lock: temporary files are now those of killed processes.
        storage.clean_temporary(folder)
        yield folder


def expected(file: DataFile, folder: Path) -> str | None:
    """Return the SHA-256 that a file should have: the published one, else the recorded one.

    None if neither is known.
    """
    if file.sha256:
        return file.sha256
    return _read(folder)["files"].get(file.path, {}).get("sha256")


def verify(file: DataFile, folder: Path) -> str:
    """Return a file's SHA-256, which is recorded if the file is seen for the first time.

    ChecksumError where SHA-256 or MD5 is not the published one, SHA-256 not the recorded one, or
    the record is damaged.
    """
    path = folder / file.path
    digest = storage.sha256_file(path)
    expected_digest = expected(file, folder)
    # A published MD5 counts only until a SHA-256 is known.
    if expected_digest is None and file.md5 is not None:
        md5 = md5_file(path)
        if md5 != file.md5:
            raise ChecksumError(
                f"its MD5 is {md5}, but the one published is {file.md5}",
                where=str(path),
                hint=_AGAIN,
            )
    if expected_digest is not None and expected_digest != digest:
        source = "published"
        hint = _AGAIN
        # The recorded digest is that of the first file that was seen, which may be the wrong one.
        if not file.sha256:
            source = f"recorded in {CHECKSUMS}"
            hint = f"{_AGAIN}; if this file is right, delete {folder / CHECKSUMS}"
        raise ChecksumError(
            f"its SHA-256 is {digest}, but the one {source} is {expected_digest}",
            where=str(path),
            hint=hint,
        )
    size = path.stat().st_size
    record(folder, name=file.path, size=size, digest=digest, origin="found here")
    return digest


def record(folder: Path, name: str, size: int, digest: str, origin: str) -> None:
    """Record a file's size in bytes, SHA-256, origin and time in checksums.json.

    An entry that has this size and digest already stays as it is. `name` is the file's path below
    the folder, `origin` the address that it is from, or "found here".
    """
    content = _read(folder)
    entry = content["files"].get(name, {})
    if entry.get("bytes") == size and entry.get("sha256") == digest:
        return
    time = storage.now().isoformat(timespec="seconds")
    content["files"][name] = {"bytes": size, "sha256": digest, "from": origin, "at": time}
    storage.write_json(folder / CHECKSUMS, content)


def unpack(file: DataFile, folder: Path, reporter: Reporter) -> int:
    """Unpack an archive in place unless that was done; return the number of files written.

    Their names and sizes are recorded in checksums.json; where one is gone or has another size, all
    are unpacked again. A damaged archive is moved aside, and its record deleted; errors as those of
    `archives.unpack`.
    """
    archive = folder / file.path
    if file.unpack is None or not archive.is_file():
        return 0
    # Read before unpacking: the archive may hold a file of this name.
    content = _read(folder)
    digest = content["files"].get(file.path, {}).get("sha256")
    # An archive that was replaced has another digest, and its members are out of date.
    if _is_unpacked(folder, file) and content["unpacked"][file.path].get("sha256") == digest:
        return 0
    from orca_cli.data.untrusted import archives  # reads formats that most data sets do not need

    def is_selected(name: str) -> bool:
        return not file.only or any(fnmatchcase(name, pattern) for pattern in file.only)

    try:
        paths = archives.unpack(archive, archive.parent, reporter, members=is_selected)
    except DataError as error:
        # An error about another path does not make the archive a bad one.
        if error.where != str(archive):
            raise
        # If the archive stayed in its place and in the record, it would pass for the right file,
        # and an intact one for a wrong one.
        content["files"].pop(file.path, None)
        storage.write_json(folder / CHECKSUMS, content)
        moved = storage.quarantine(archive)
        raise DataError(
            f"{error.what}; moved to {moved.name}", where=error.where, hint=error.hint
        ) from error
    # Relative names stay true where the data folder is moved.
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    content["unpacked"][file.path] = {"sha256": digest, "members": sizes}
    storage.write_json(folder / CHECKSUMS, content)
    return len(sizes)


def _is_unpacked(folder: Path, file: DataFile) -> bool:
    """Return whether all that was unpacked from a file is in its place and has its size."""
    sizes = _unpacked(folder, file)
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return False
    # Without a record nothing was unpacked.
    return bool(sizes)


def _unpacked(folder: Path, file: DataFile) -> dict[str, int]:
    """Return name -> size of what was unpacked from a file.

    Empty if nothing is recorded or the record is damaged.
    """
    if file.unpack is None:
        return {}
    try:
        members = _read(folder)["unpacked"].get(file.path, {}).get("members", {})
    except ChecksumError:
        # It is reported when checksums are compared; a list of names must not fail because of it.
        return {}
    return members if isinstance(members, dict) else {}


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of a folder; ChecksumError where it is damaged."""
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
        problem = f"is of schema {schema}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"is damaged ({type(error).__name__})"
    raise ChecksumError(problem, where=str(path), hint="delete it to record the files anew")
