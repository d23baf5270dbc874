"""Unpack tar, zip and gzip archives of unknown origin: plain files inside one folder, of bounded size, all or none.

Zip archives, .npz files among them, are checked by their directory before a member is opened.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from orca_cli import signals, storage
from orca_cli.data.untrusted.first_bytes import GZIP, ZIP, first_bytes
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.progress import Reporter

# What zipfile and tarfile raise for damaged archives and for features that they lack.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError)
MAX_DEFLATE = 1032  # bytes that one byte of deflate can become
_TOTAL = zipfile._ECD_ENTRIES_TOTAL  # type: ignore[attr-defined]
_MAX_BYTES = 64 * 2**30
_MAX_MEMBERS = 2_000_000
_MAX_RATIO = 200  # bytes that one byte of the archive becomes, on average over the whole archive
_FREE_RATIO = 2**28  # bytes from which on the ratio counts
_CHUNK = 2**20
_MAX_HEADER = 2**20  # bytes of a tar's long names and attributes
_CONTENT = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ALLOWED = "allowed: tar, tar.gz, zip, and gzip of one file"


def unpack(archive: Path, folder: Path, reporter: Reporter, members: Callable[[str], bool] | None = None) -> list[Path]:
    """Unpack an archive into a folder and return the files, in the order of the archive.

    Everything is unpacked into a temporary folder first, so that a failure, a signal or a refusal leaves nothing
    behind. Then each file is moved, and replaces one of its name. Permissions, owners and times are not taken over.

    Args:
        archive: tar, tar.gz, zip, or gzip of one file, whose name is the archive's without `.gz`.
        folder: created if it is missing.
        reporter: shows the archive's name.
        members: whether a path inside the archive is wanted; the others are checked and not written.

    Raises:
        DataError: missing, damaged, encrypted, or not an archive.
        UnsafeError: a member that is not a plain file or folder (links, devices), leaves the folder, or occurs twice; more
            members or bytes than allowed; or content that grows as only bombs do. Nothing is skipped silently.
        StorageError: the disk is too small or cannot be written.
        InterruptionError: a signal asked to stop.
    """
    unpack_members = _unpacker(archive)
    reporter.say(f"unpacking {archive.name}")
    beside = folder if folder.is_dir() else storage.make_folder(folder.parent)
    with storage.guarded(folder), tempfile.TemporaryDirectory(prefix=".tmp-unpack-", dir=beside) as temporary:
        job = _Job(archive, Path(temporary), members)
        try:
            unpack_members(job)
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk: storage explains it
            raise DataError(f"is a damaged archive: {error}", where=str(archive), hint="get the file again") from error
        os.sync()
        signals.check()
        _place(job.temporary, folder, job.written)
    return [folder / path for path in job.written]


def _unpacker(path: Path) -> Callable[[_Job], None]:
    """Return what unpacks an archive, by its content; a compressed tar is a tar. DataError: missing, or none of these."""
    head = first_bytes(path, str(path), _ALLOWED)
    if head.startswith(ZIP):
        return _unpack_zip
    packed = head.startswith(GZIP)
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        if packed:
            return _unpack_gzip
        raise DataError("not an archive that is read", where=str(path), hint=_ALLOWED) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint="get the file again") from error
    return _unpack_tar


class _Job:
    """Writes members below a folder and enforces the bounds."""

    def __init__(self, archive: Path, temporary: Path, is_selected: Callable[[str], bool] | None) -> None:
        self.archive, self.temporary, self.is_selected = archive, temporary, is_selected
        self.written: list[PurePosixPath] = []
        self.size = archive.stat().st_size
        self.bytes = self.count = 0

    def refused(self, what: str, member: str | None = None) -> UnsafeError:
        who = "" if member is None else f"member {ascii(member[:100])} "
        hint = "nothing was unpacked; get the archive from a source that you trust"
        return UnsafeError(f"{who}{what}", where=str(self.archive), hint=hint)

    def member(self, name: str, is_folder: bool, size: int, is_special: bool = False) -> PurePosixPath | None:
        """Check one member by its declared size; return its path if it is to be written."""
        self.count += 1
        if self.count > _MAX_MEMBERS:
            raise self.refused(f"has more than {_MAX_MEMBERS} members")
        path = PurePosixPath(name)
        if is_special or not (path.parts or is_folder):
            raise self.refused("is a link, a device or no file at all", name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":" or not name.isprintable():
            raise self.refused("leads out of the folder, or has an unsafe name", name)
        if is_folder or not (self.is_selected is None or self.is_selected(str(path))):
            return None
        self.allow(self.bytes + size)
        storage.require_space(self.temporary, size, f"member {ascii(name[:100])}")
        return path

    def allow(self, total: int) -> None:
        """Check a number of unpacked bytes."""
        if total > _MAX_BYTES:
            raise self.refused(f"unpacks to more than {_MAX_BYTES:,} bytes")
        if total > max(_FREE_RATIO, self.size * _MAX_RATIO):
            raise self.refused(f"grows to more than {_MAX_RATIO} times its size, as bombs do")

    def write(self, path: PurePosixPath, stream: IO[bytes] | gzip.GzipFile, size: int | None) -> None:
        """Write one file; its declared size is None where it is not known."""
        target = self.temporary / path
        done = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)  # the file system says which names are the same
        except (FileExistsError, NotADirectoryError) as error:
            raise self.refused("occurs twice, or lies inside a file", str(path)) from error
        with open(target, "wb") as file:
            while chunk := stream.read(_CHUNK):
                signals.check()
                done += len(chunk)
                self.bytes += len(chunk)
                self.allow(self.bytes)
                file.write(chunk)
        if size is not None and done != size:
            raise EOFError(f"member {ascii(str(path)[:100])} has {done:,} of {size:,} bytes")
        self.written.append(path)


class _Stream:
    """The bytes of a tar; members that are not wanted, and what follows the last one, count as well."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, job: _Job) -> None:
        self._file, self._job, self._bytes = file, job, 0

    def read(self, size: int) -> bytes:
        signals.check()
        content = self._file.read(size)
        self._bytes += len(content)
        self._job.allow(self._bytes)
        return content


def _unpack_tar(job: _Job) -> None:
    with open(job.archive, "rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        inner: Any = _Stream(gzip.GzipFile(fileobj=file) if packed else file, job)
        with tarfile.open(fileobj=inner, mode="r|", bufsize=_CHUNK, errorlevel=2, tarinfo=_Header) as archive:
            for member in archive:
                special = member.type not in (*_CONTENT, tarfile.DIRTYPE) or member.issparse()
                path = job.member(member.name, member.isdir(), member.size, special)
                if path is not None:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    job.write(path, stream, member.size)
                archive.members = []  # type: ignore[attr-defined] # else the members of a large archive fill the memory
        while inner.read(_CHUNK):  # only padding is left; at its end a compressed stream compares its checksum
            pass
    if not job.count:
        raise ValueError("no members")


class _Header(tarfile.TarInfo):
    """A header of a tar; tarfile would take a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end
            raise EOFError("it is cut off, or a header is damaged") from error
        if header.type not in _CONTENT and not 0 <= header.size <= _MAX_HEADER:
            raise ValueError("a header is too long")
        if header.size < 0:
            raise ValueError("a member has a negative size")
        return header


def _unpack_zip(job: _Job) -> None:
    with open_zip(job.archive, _MAX_MEMBERS, "zip archive") as archive:
        for member in archive.infolist():
            special = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
            path = job.member(member.filename, member.is_dir(), member.file_size, special)
            if path is not None:
                with archive.open(member) as stream:
                    job.write(path, stream, member.file_size)


def _unpack_gzip(job: _Job) -> None:
    name = job.archive.name
    path = job.member(name[:-3] if name.lower().endswith(".gz") else f"{name}.unpacked", False, 0)
    if path is not None:
        with gzip.open(job.archive) as stream:
            job.write(path, stream, None)


def _place(temporary: Path, folder: Path, files: list[PurePosixPath]) -> None:
    """Move what was unpacked into the folder."""
    targets = {path: folder / path for path in files}
    for path, target in targets.items():
        # A link planted in the folder would redirect the files that are moved there.
        parents = [folder / parent for parent in path.parents if parent.parts]
        if any(parent.is_symlink() or (parent.exists() and not parent.is_dir()) for parent in parents):
            raise UnsafeError("a link or a file stands where a folder is needed", where=str(target.parent))
        if target.is_dir() and not target.is_symlink():
            raise DataError("a folder stands where a file is needed", where=str(target), hint="move it away")
    for path, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, target)


@contextmanager
def open_zip(path: Path, max_members: int, what: str) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive whose directory is consistent. What fails inside the block is passed on (`DAMAGE`).

    `max_members` is checked before the directory is read; `what` is the expected kind of file, for messages.

    Raises:
        DataError: damaged, encrypted, or of a compression other than stored and deflate.
        UnsafeError: too many members, members that overlap, or that declare more than deflate can hold.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            record = zipfile._EndRecData(file)  # type: ignore[attr-defined] # as ZipFile does, without the directory
        if record and record[_TOTAL] > max_members:
            raise UnsafeError(f"{record[_TOTAL]} members, at most {max_members} are read", where=where)
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(f"not a readable {what}: {error}", where=where, hint="write or get it again") from error
    with archive:
        members = archive.infolist()
        if len(members) > max_members:
            raise UnsafeError(f"{len(members)} members, at most {max_members} are read", where=where)
        for member in members:
            _check_member(member, where)
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise UnsafeError("members lie over one another, as in a zip bomb", where=where)
        yield archive


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    who = f"member {ascii(member.filename[:100])}"
    if not member.filename:
        raise DataError("a member has no name", where=where, hint="get the file again")
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        what = f"{who} is encrypted or has an unusual compression"
        raise DataError(what, where=where, hint="use np.savez, or unpack it yourself first")
    if member.file_size > member.compress_size * MAX_DEFLATE + 1024:
        what = f"{who} declares {member.file_size:,} bytes, more than its {member.compress_size:,} can hold"
        raise UnsafeError(what, where=where, hint="get the file from a source that you trust")
