"""Unpack tar, zip and gzip archives of unknown origin: plain files inside one folder, of bounded size, all or none.

Zip archives, .npz files among them, are checked by their directory before a member is opened.
"""

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self

from orca_cli import signals, storage
from orca_cli.data.untrusted.first_bytes import GZIP, ZIP, damage, first_bytes
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.progress import Reporter

# What zipfile and tarfile raise for damaged archives and for features that they lack.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
MAX_DEFLATE = 1032  # bytes that one byte of deflate can become
_MAX_BYTES = 64 * 2**30
_MAX_MEMBERS = 2_000_000
_MAX_RATIO = 200  # bytes that one byte of the archive becomes, on average over the whole archive
_FREE_RATIO = 2**28  # bytes from which on the ratio counts
_CHUNK = 2**20
_MAX_HEADER = 2**20  # bytes of a tar's long names and attributes
_CONTENT = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ALLOWED = "allowed: tar, tar.gz, zip, and gzip of one file"


class _Member(NamedTuple):
    """An entry of an archive as it declares itself."""

    name: str
    is_folder: bool
    is_plain: bool  # a file or a folder
    open: Callable[[], Any]


def unpack(
    archive: Path, folder: Path, reporter: Reporter, members: Callable[[str], bool] | None = None
) -> list[Path]:
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
    """
    held = _members(archive)
    reporter.say(f"unpacking {archive.name}")
    beside = folder if folder.is_dir() else storage.make_folder(folder.parent)
    with (
        storage.guarded(folder),
        tempfile.TemporaryDirectory(prefix=".tmp-unpack-", dir=beside) as temporary,
    ):
        try:
            written = _write(archive, held, Path(temporary), members or (lambda name: True))
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk: storage explains it
            raise DataError(
                f"is a damaged archive: {error}", where=str(archive), hint="get the file again"
            ) from error
        os.sync()
        signals.check()
        for path in written:
            parents = [folder / parent for parent in path.parents if parent.parts]
            # A link planted in the folder would redirect the files that are moved there.
            is_taken = any(
                parent.is_symlink() or (parent.exists() and not parent.is_dir())
                for parent in parents
            )
            if is_taken or ((folder / path).is_dir() and not (folder / path).is_symlink()):
                what = (
                    "a link or a file stands where a folder is needed, or a folder where a file is"
                )
                raise UnsafeError(what, where=str(folder / path), hint="move it away")
        for path in written:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary, path), folder / path)
    return [folder / path for path in written]


def _members(path: Path) -> Iterator[_Member]:
    """Return the entries of an archive, by its content; a compressed tar is a tar. DataError: missing, or none of these."""
    head = first_bytes(path, str(path), _ALLOWED)
    if head.startswith(ZIP):
        return _in_zip(path)
    packed = head.startswith(GZIP)
    with damage(str(path), "archive"), gzip.open(path) if packed else open(path, "rb") as file:
        block = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        if packed:
            return _in_gzip(path)
        raise DataError("not an archive that is read", where=str(path), hint=_ALLOWED) from error
    return _in_tar(path, packed)


def _write(
    archive: Path, members: Iterator[_Member], folder: Path, is_wanted: Callable[[str], bool]
) -> list[PurePosixPath]:
    """Write the wanted members below a folder and return their paths; all are checked."""
    written: list[PurePosixPath] = []
    count = 0
    for count, (name, is_folder, is_plain, open_member) in enumerate(members, start=1):
        path, who = PurePosixPath(name), f"member {ascii(name[:100])}"
        if count > _MAX_MEMBERS:
            raise _refused(archive, f"has more than {_MAX_MEMBERS} members")
        if not is_plain or not (path.parts or is_folder):
            raise _refused(archive, f"{who} is a link, a device or no file at all")
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or name[1:2] == ":"
            or not name.isprintable()
        ):
            raise _refused(archive, f"{who} leads out of the folder, or has an unsafe name")
        if is_folder or not is_wanted(str(path)):
            continue
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)  # the file system says which names are the same
        except (FileExistsError, NotADirectoryError) as error:
            raise _refused(archive, f"{who} occurs twice, or lies inside a file") from error
        with open_member() as stream, open(target, "wb") as file:
            while chunk := stream.read(_CHUNK):
                signals.check()
                file.write(chunk)
        written.append(path)
    if not count:
        raise ValueError("no members")
    return written


def _check_total(archive: Path, total: int) -> None:
    """Check a number of unpacked bytes."""
    if total > min(_MAX_BYTES, max(_FREE_RATIO, archive.stat().st_size * _MAX_RATIO)):
        raise _refused(
            archive,
            f"unpacks to more than {_MAX_BYTES:,} bytes or {_MAX_RATIO} times its size, as bombs do",
        )


def _refused(archive: Path, what: str) -> UnsafeError:
    return UnsafeError(
        what,
        where=str(archive),
        hint="nothing was unpacked; get the archive from a source that you trust",
    )


class _Stream:
    """The unpacked bytes of an archive: what is not wanted, and what follows the last member of a tar, count as well."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, archive: Path) -> None:
        self._file, self._archive, self._bytes = file, archive, 0

    def read(self, size: int) -> bytes:
        signals.check()
        content = self._file.read(size)
        self._bytes += len(content)
        _check_total(self._archive, self._bytes)
        return content


def _in_gzip(path: Path) -> Iterator[_Member]:
    name = path.name[:-3] if path.name.lower().endswith(".gz") else f"{path.name}.unpacked"
    with gzip.open(path) as file:
        yield _Member(name, False, True, lambda: nullcontext(_Stream(file, path)))


def _in_tar(path: Path, packed: bool) -> Iterator[_Member]:
    with gzip.open(path) if packed else open(path, "rb") as file:
        stream: Any = _Stream(file, path)
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_CHUNK, errorlevel=2, tarinfo=_Header
        ) as archive:
            for member in archive:
                is_plain = member.type in (*_CONTENT, tarfile.DIRTYPE) and not member.issparse()
                yield _Member(
                    member.name, member.isdir(), is_plain, partial(archive.extractfile, member)
                )
                archive.members = []  # type: ignore[attr-defined] # else the members of a large archive fill the memory
        while stream.read(
            _CHUNK
        ):  # only padding is left; at its end a compressed stream compares its checksum
            pass


def _in_zip(path: Path) -> Iterator[_Member]:
    with open_zip(path, _MAX_MEMBERS, "zip archive") as archive:
        _check_total(
            path, sum(member.file_size for member in archive.infolist())
        )  # of which none gives more
        for member in archive.infolist():
            kind, opened = stat.S_IFMT(member.external_attr >> 16), partial(archive.open, member)
            yield _Member(
                member.filename, member.is_dir(), kind in (0, stat.S_IFREG, stat.S_IFDIR), opened
            )


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
        if header.size < 0 or (header.type not in _CONTENT and header.size > _MAX_HEADER):
            raise ValueError("a header is too long, or a size negative")
        return header


@contextmanager
def open_zip(path: Path, max_members: int, what: str) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive whose directory is consistent. What fails inside the block is passed on (`DAMAGE`).

    `what` is the expected kind of file, for messages.

    Raises:
        DataError: missing, damaged, encrypted, or of a compression other than stored and deflate.
        UnsafeError: too many members, members that overlap, or that declare more than deflate can hold.
    """
    where = str(path)
    first_bytes(path, where, f"a {what} is needed")
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(
            f"not a readable {what}: {error}", where=where, hint="write or get it again"
        ) from error
    with archive:
        members = archive.infolist()
        if len(members) > max_members:
            raise UnsafeError(
                f"{len(members)} members, at most {max_members} are read", where=where
            )
        for member in members:
            who = f"member {ascii(member.filename[:100])}"
            if not member.filename:
                raise DataError("a member has no name", where=where, hint="get the file again")
            if member.flag_bits & 1 or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise DataError(
                    f"{who} is encrypted or has an unusual compression",
                    where=where,
                    hint="unpack it yourself",
                )
            if member.file_size > member.compress_size * MAX_DEFLATE + 1024:
                problem = f"{who} declares {member.file_size:,} bytes, more than its {member.compress_size:,} can hold"
                raise UnsafeError(problem, where=where)
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise UnsafeError("members lie over one another, as in a zip bomb", where=where)
        yield archive
