"""Zip archives by their directory: number, names and sizes of the members are checked before one is opened."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orca_cli.exceptions import DataError, UnsafeError

# What zipfile raises for damaged archives and for features that it lacks.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
MAX_DEFLATE = 1032  # bytes that one byte of deflate can become


@contextmanager
def open_zip(path: Path, max_members: int, what: str) -> Iterator[zipfile.ZipFile]:
    """Give a zip archive whose directory was found consistent. What fails inside the block is left as it is (`DAMAGE`).

    Args:
        path: the archive.
        max_members: more are refused, before the directory is read.
        what: what the file should be, for messages.

    Raises:
        DataError: damaged, encrypted, or of a compression other than stored and deflate.
        UnsafeError: too many members, members that overlap, or that declare more than deflate can hold.
    """
    try:
        archive = _opened(path, max_members)
    except DAMAGE as error:
        raise DataError(f"is no readable {what}: {error}", where=str(path), hint="write or get it again") from error
    with archive:
        yield archive


def _opened(path: Path, max_members: int) -> zipfile.ZipFile:
    count = _count(path)
    if count > max_members:
        raise UnsafeError(f"{count} members, at most {max_members} are read", where=str(path))
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = archive.infolist()
        if len(members) > max_members:
            raise UnsafeError(f"{len(members)} members, at most {max_members} are read", where=str(path))
        for member in members:
            _check(member, path)
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise UnsafeError("members lie over one another, as in a zip bomb", where=str(path))
        stack.pop_all()
    return archive


def _check(member: zipfile.ZipInfo, path: Path) -> None:
    name = ascii(member.filename[:100])
    if not member.filename:
        raise DataError("a member has no name", where=str(path), hint="get the file again")
    if member.flag_bits & 1:
        raise DataError(f"member {name} is encrypted", where=str(path), hint="unpack it yourself first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"member {name} has an unusual compression", where=str(path), hint="use np.savez, or unpack it")
    if member.file_size > member.compress_size * MAX_DEFLATE + 1024:
        raise UnsafeError(
            f"member {name} declares {member.file_size:,} bytes, more than its {member.compress_size:,} can hold",
            where=str(path),
            hint="get the file from a source that you trust",
        )


def _count(path: Path) -> int:
    """Return the number of members that the last record declares; 0 where there is no such record."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - 2**16 - 22)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or len(tail) < place + 22:
            return 0
        entries = struct.unpack_from("<H", tail, place + 10)[0]
        if entries == 0xFFFF and place >= 20 and tail[place - 20 : place - 16] == b"PK\x06\x07":
            file.seek(struct.unpack_from("<Q", tail, place - 12)[0])
            record = file.read(56)
            if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                return struct.unpack_from("<Q", record, 32)[0]
        return entries
