"""Zip archives by their directory: number, names and sizes of the members are checked before one is opened."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_cli.exceptions import DataError, UnsafeError

# What zipfile and tarfile raise for damaged archives and for features that they lack.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError)
MAX_DEFLATE = 1032  # bytes that one byte of deflate can become
_TOTAL = zipfile._ECD_ENTRIES_TOTAL  # type: ignore[attr-defined]


@contextmanager
def open_zip(path: Path, max_members: int, what: str) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive whose directory is consistent. What fails inside the block is passed on (`DAMAGE`).

    `max_members` is checked before the directory is read; `what` is the expected kind of file, for messages.

    Raises:
        DataError: damaged, encrypted, or of a compression other than stored and deflate.
        UnsafeError: too many members, members that overlap, or that declare more than deflate can hold.
    """
    where = str(path)

    def check_count(count: int) -> None:
        if count > max_members:
            raise UnsafeError(f"{count} members, at most {max_members} are read", where=where)

    try:
        with open(path, "rb") as file:
            record = zipfile._EndRecData(file)  # type: ignore[attr-defined] # as ZipFile does, without the directory
        check_count(record[_TOTAL] if record else 0)
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(f"not a readable {what}: {error}", where=where, hint="write or get it again") from error
    with archive:
        members = archive.infolist()
        check_count(len(members))
        for member in members:
            _check(member, where)
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise UnsafeError("members lie over one another, as in a zip bomb", where=where)
        yield archive


def _check(member: zipfile.ZipInfo, where: str) -> None:
    who = f"member {ascii(member.filename[:100])}"
    if not member.filename:
        raise DataError("a member has no name", where=where, hint="get the file again")
    if member.flag_bits & 1:
        raise DataError(f"{who} is encrypted", where=where, hint="unpack it yourself first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{who} has an unusual compression", where=where, hint="use np.savez, or unpack it")
    if member.file_size > member.compress_size * MAX_DEFLATE + 1024:
        what = f"{who} declares {member.file_size:,} bytes, more than its {member.compress_size:,} can hold"
        raise UnsafeError(what, where=where, hint="get the file from a source that you trust")
