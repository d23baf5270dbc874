"""Unpack tar, zip and gzip archives of unknown origin: plain files inside one folder, of bounded size, all or none."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self

from orca_cli import signals, storage
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.progress import Reporter
from orca_cli.untrusted.first_bytes import GZIP, ZIP, first_bytes
from orca_cli.untrusted.member_names import Names
from orca_cli.untrusted.zips import DAMAGE, open_zip

MAX_BYTES = 64 * 2**30
_MAX_MEMBERS = 2_000_000
_MAX_RATIO = 200  # bytes that one byte of the archive becomes, on average over the whole archive
_FREE_RATIO = 2**28  # bytes from which on the ratio counts
_CHUNK = 2**20
_MAX_HEADER = 2**20  # bytes of a tar's long names and attributes
_CONTENT = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ALLOWED = "allowed: tar, tar.gz, zip, and gzip of one file"
_TEMPORARY = ".tmp-unpack-"

Kind = Literal["tar", "zip", "gzip"]


def kind_of(path: Path) -> Kind:
    """Return what an archive is by its content; a compressed tar is a tar.

    Raises:
        DataError: missing, or none of these.
    """
    head = first_bytes(path, str(path), _ALLOWED, expected=(GZIP, *ZIP))
    if head.startswith(ZIP):
        return "zip"
    try:
        if head.startswith(GZIP):
            with gzip.open(path) as file:
                return "tar" if _is_tar(file.read(tarfile.BLOCKSIZE)) else "gzip"
        with open(path, "rb") as file:
            if _is_tar(file.read(tarfile.BLOCKSIZE)):
                return "tar"
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint="get the file again") from error
    raise DataError("not an archive that is read", where=str(path), hint=_ALLOWED)


def unpack(
    archive: Path,
    folder: Path,
    reporter: Reporter,
    max_bytes: int = MAX_BYTES,
    members: Callable[[str], bool] | None = None,
) -> list[Path]:
    """Unpack an archive into a folder and return the files, in the order of the archive.

    Everything is unpacked into a temporary folder first, so that a failure, a signal or a refusal leaves nothing
    behind. Then each file is moved, and replaces one of its name. Permissions, owners and times are not taken over.

    Args:
        archive: tar, tar.gz, zip, or gzip of one file, whose name is the archive's without `.gz`.
        folder: where to; made where it is missing.
        reporter: shows the progress.
        max_bytes: limit for all members together.
        members: says for a path inside the archive whether it is wanted; the others are checked and not written.

    Raises:
        DataError: missing, damaged, encrypted, or not an archive.
        UnsafeError: a member that is not a plain file or folder (links, devices), leaves the folder, or occurs twice; more
            members or bytes than allowed; or content that grows as only bombs do. Nothing is skipped silently.
        StorageError: the disk is too small or cannot be written.
        InterruptionError: a signal asked to stop.
    """
    kind = kind_of(archive)
    beside = folder if folder.is_dir() else storage.make_folder(folder.parent)
    with storage.guarded(folder), tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=beside) as temporary:
        job = _Job(archive, Path(temporary), max_bytes, members or (lambda name: True))
        try:
            with reporter.track(f"unpacking {archive.name}, MiB", -(-job.size // _CHUNK)) as advance:
                {"tar": _unpack_tar, "zip": _unpack_zip, "gzip": _unpack_gzip}[kind](job, advance)
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk: storage explains it
            raise DataError(f"is a damaged archive: {error}", where=str(archive), hint="get the file again") from error
        os.sync()
        signals.check()
        _place(job.temporary, folder, job.written)
    return [folder / path for path in job.written]


class _Job:
    """Writes members and keeps the bounds."""

    def __init__(self, archive: Path, temporary: Path, max_bytes: int, wanted: Callable[[str], bool]) -> None:
        self.archive, self.temporary, self.max_bytes, self.wanted = archive, temporary, max_bytes, wanted
        self.names = Names(str(archive))
        self.written: list[PurePosixPath] = []
        self.size = archive.stat().st_size
        self.bytes = 0
        self.count = 0

    def refused(self, what: str) -> UnsafeError:
        return UnsafeError(what, where=str(self.archive), hint="nothing was unpacked; inspect it before you trust it")

    def member(self, name: str, folder: bool, size: int) -> PurePosixPath | None:
        """Check one member by its declared size; return its path if it is to be written."""
        self.count += 1
        if self.count > _MAX_MEMBERS:
            raise self.refused(f"has more than {_MAX_MEMBERS} members")
        path = self.names.add(name, folder)
        if folder or path is None or not self.wanted(str(path)):
            return None
        self.allow(size)
        storage.require_space(self.temporary, size, f"member {ascii(name[:100])}")
        return path

    def allow(self, more: int) -> None:
        total = self.bytes + more
        if total > self.max_bytes:
            raise self.refused(f"unpacks to more than {self.max_bytes:,} bytes")
        if total > max(_FREE_RATIO, self.size * _MAX_RATIO):
            raise self.refused(f"grows to more than {_MAX_RATIO} times its size, as bombs do")

    def write(self, path: PurePosixPath, stream: IO[bytes] | gzip.GzipFile, size: int | None) -> None:
        """Write one file; its declared size is None where it is not known."""
        target = self.temporary / path
        target.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with open(target, "xb") as file:
            while chunk := stream.read(_CHUNK):
                signals.check()
                done += len(chunk)
                self.allow(len(chunk))
                self.bytes += len(chunk)
                file.write(chunk)
        if size is not None and done != size:
            raise EOFError(f"member {ascii(str(path)[:100])} has {done:,} of {size:,} bytes")
        self.written.append(path)


class _Counted(io.RawIOBase):
    """A file that says how far it was read."""

    def __init__(self, file: IO[bytes], advance: Callable[..., None]) -> None:
        self._file, self._advance, self._done = file, advance, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        signals.check()
        found = self._file.read(size)
        self._advance((self._done + len(found)) // _CHUNK - self._done // _CHUNK)
        self._done += len(found)
        return found


def _unpack_tar(job: _Job, advance: Callable[..., None]) -> None:
    with open(job.archive, "rb") as file:
        counted: Any = _Counted(file, advance)
        packed = file.read(2) == GZIP
        file.seek(0)
        inner: Any = gzip.GzipFile(fileobj=counted) if packed else counted
        with tarfile.open(fileobj=inner, mode="r|", bufsize=_CHUNK, errorlevel=2, tarinfo=_Header) as archive:
            for member in archive:
                if member.type not in (*_CONTENT, tarfile.DIRTYPE) or member.issparse():
                    raise job.refused(f"member {ascii(member.name[:100])} is a link, a device or another special file")
                path = job.member(member.name, member.isdir(), member.size)
                if path is not None:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    job.write(path, stream, member.size)
                archive.members = []  # type: ignore[attr-defined] # or the list of a large archive fills the memory
        while inner.read(_CHUNK):  # only padding is left; at its end a compressed stream compares its checksum
            pass
    if not job.count:
        raise ValueError("no members")


class _Header(tarfile.TarInfo):
    """A header of a tar; tarfile would take a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end
            raise EOFError("it is cut off, or a header is damaged") from error
        if found.type not in _CONTENT and not 0 <= found.size <= _MAX_HEADER:
            raise ValueError("a header is too long")
        if found.size < 0:
            raise ValueError("a member has a negative size")
        return found


def _unpack_zip(job: _Job, advance: Callable[..., None]) -> None:
    done = 0
    with open_zip(job.archive, _MAX_MEMBERS, "zip archive") as archive:
        chosen = []
        total = 0
        # All are checked before the first is written: the directory of a zip has all sizes.
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise job.refused(f"member {ascii(member.filename[:100])} is a link, a device or another special file")
            path = job.member(member.filename, member.is_dir(), member.file_size)
            if path is not None:
                total += member.file_size
                job.allow(total)
                chosen.append((path, member))
        storage.require_space(job.temporary, total, f"unpacking {job.archive.name}")
        for path, member in chosen:
            with archive.open(member) as stream:
                job.write(path, stream, member.file_size)
            before, done = done, done + member.compress_size
            advance(done // _CHUNK - before // _CHUNK)


def _unpack_gzip(job: _Job, advance: Callable[..., None]) -> None:
    name = job.archive.name
    path = job.member(name[:-3] if name.lower().endswith(".gz") else f"{name}.unpacked", False, 0)
    if path is None:
        return
    with open(job.archive, "rb") as file:
        counted: Any = _Counted(file, advance)
        with gzip.GzipFile(fileobj=counted) as stream:
            job.write(path, stream, None)


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _place(temporary: Path, folder: Path, files: list[PurePosixPath]) -> None:
    """Move what was unpacked into the folder."""
    targets = [folder / path for path in files]
    for path, target in zip(files, targets, strict=True):
        # A link planted in the folder would lead what is moved out of it.
        parents = [folder / parent for parent in path.parents if parent.parts]
        if any(parent.is_symlink() or (parent.exists() and not parent.is_dir()) for parent in parents):
            raise UnsafeError("a link or a file stands where a folder is needed", where=str(target.parent))
        if target.is_dir() and not target.is_symlink():
            raise DataError("a folder stands where a file is needed", where=str(target), hint="move it away")
    for path, target in zip(files, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, target)
