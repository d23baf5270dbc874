"""Unpack tar, zip and gzip archives of unknown origin.

Either all files of an archive are unpacked, as plain files of bounded size inside one folder, or
the archive is refused and no file is written to the folder.

The directory of a zip archive, such as an .npz file, is checked before a member is opened.
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

# Exceptions of zipfile and tarfile for damaged archives and for features that they do not support.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
# Largest number of unpacked bytes per byte of deflate data.
MAX_DEFLATE = 1032
_MAX_BYTES = 64 * 2**30
_MAX_MEMBERS = 2_000_000
# Largest allowed number of unpacked bytes per byte of the whole archive.
_MAX_RATIO = 200
# Up to this number of unpacked bytes, any ratio is allowed.
_FREE_BYTES = 2**28
_CHUNK = 2**20
# Largest size of long names and attributes in a tar archive, in bytes.
_MAX_HEADER = 2**20
_CONTENT = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ALLOWED = "allowed: tar, tar.gz, zip, and gzip of one file"


class _Member(NamedTuple):
    """An entry of an archive, as the archive declares it."""

    name: str
    is_folder: bool
    # Whether it is a file or a folder, rather than a link or a device.
    is_plain: bool
    open: Callable[[], Any]


def unpack(
    archive: Path, folder: Path, reporter: Reporter, members: Callable[[str], bool] | None = None
) -> list[Path]:
    """Unpack an archive into a folder and return the files, in the order of the archive.

    All files are unpacked into a temporary folder first, so that a failure, a signal or a refusal
    leaves no files behind. Then each file is moved to the folder, and replaces any file of the same
    name. Permissions, owners and times in the archive are not used.

    Args:
        archive: tar, tar.gz, zip, or gzip of one file, whose name is the archive's without `.gz`.
        folder: target folder, which is created if it is missing.
        reporter: shows the archive's name.
        members: function that returns whether a path inside the archive is wanted; other members
            are checked, but not written. None means that all are wanted.

    Raises:
        DataError: the archive is missing, damaged or encrypted, or the file is not an archive.
        UnsafeError: a member is not a plain file or folder (links, devices), leads out of the
            folder, or occurs twice; the archive has more members or bytes than allowed; or its
            content grows as only bombs do. No such member is skipped silently.
    """
    entries = _members(archive)
    reporter.say(f"unpacking {archive.name}")
    # In the file system of the target, so that files can be moved by renaming them.
    existing_folder = folder
    if not folder.is_dir():
        existing_folder = storage.make_folder(folder.parent)
    with (
        storage.guarded(folder),
        tempfile.TemporaryDirectory(prefix=".tmp-unpack-", dir=existing_folder) as temporary,
    ):
        try:
            member_paths = _write(archive, entries, Path(temporary), members or (lambda name: True))
        except DAMAGE as error:
            # For an error of the disk, `storage.guarded` raises an error with an explanation.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"is a damaged archive: {error}", where=str(archive), hint="get the file again"
            ) from error
        # The content of every file must be on the disk before the file gets its final name.
        os.sync()
        signals.check()
        # All targets are checked before the first file is moved.
        for member_path in member_paths:
            _check_target(folder, member_path)
        for member_path in member_paths:
            (folder / member_path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary, member_path), folder / member_path)
    return [folder / member_path for member_path in member_paths]


def _check_target(folder: Path, member_path: PurePosixPath) -> None:
    """Refuse a path that a link would redirect, or that an existing file or folder blocks."""
    target = folder / member_path
    is_blocked = target.is_dir() and not target.is_symlink()
    # Without the last of the parents, which is the folder itself.
    for parent in map(folder.joinpath, member_path.parents[:-1]):
        # A planted link could redirect the file to a place outside the folder.
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            is_blocked = True
    if is_blocked:
        raise UnsafeError(
            "cannot be written, because a link, file or folder at this path blocks it",
            where=str(target),
            hint="move the existing link, file or folder away",
        )


def _members(archive_path: Path) -> Iterator[_Member]:
    """Return the entries of an archive; its format is recognised by its content.

    Raises:
        DataError: the file is missing, or not an archive.
    """
    head = first_bytes(archive_path, str(archive_path), _ALLOWED)
    if head.startswith(ZIP):
        return _in_zip(archive_path)
    is_packed = head.startswith(GZIP)
    with damage(str(archive_path), "archive"), _open(archive_path, is_packed) as file:
        # The first header, if the file is a tar archive.
        first_header = file.read(tarfile.BLOCKSIZE)
    try:
        # The header of a tar archive has a checksum, so other content is not taken for a header.
        tarfile.TarInfo.frombuf(first_header, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        if is_packed:
            return _in_gzip(archive_path)
        raise DataError(
            "is not an archive of a supported format", where=str(archive_path), hint=_ALLOWED
        ) from error
    return _in_tar(archive_path, is_packed)


def _open(path: Path, is_packed: bool) -> IO[bytes] | gzip.GzipFile:
    """Open a file for reading, through gzip if `is_packed`."""
    if is_packed:
        return gzip.open(path)
    return open(path, "rb")


def _write(
    archive: Path, members: Iterator[_Member], folder: Path, is_wanted: Callable[[str], bool]
) -> list[PurePosixPath]:
    """Write the wanted members below a folder and return their paths; every member is checked."""
    member_paths: list[PurePosixPath] = []
    num_members = 0
    for member in members:
        num_members += 1
        if num_members > _MAX_MEMBERS:
            raise _refusal(archive, f"has more than {_MAX_MEMBERS} members")
        # Unwanted members are checked too: an archive with any unsafe name is refused.
        _check_member(archive, member)
        member_path = PurePosixPath(member.name)
        if member.is_folder or not is_wanted(str(member_path)):
            continue
        target = folder / member_path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # The file system decides whether two names are the same.
            target.touch(exist_ok=False)
        except (FileExistsError, NotADirectoryError) as error:
            raise _refusal(
                archive, f"{_label(member.name)} occurs twice, or a file and a folder share a name"
            ) from error
        with member.open() as stream, open(target, "wb") as file:
            for chunk in iter(partial(stream.read, _CHUNK), b""):
                signals.check()
                file.write(chunk)
        member_paths.append(member_path)
    # ValueError is in DAMAGE, as the errors of zipfile and tarfile for damaged archives are.
    if num_members == 0:
        raise ValueError("it has no members")
    return member_paths


def _label(name: str) -> str:
    """Return the name of a member for messages."""
    return f"member {ascii(name[:100])}"


def _check_member(archive: Path, member: _Member) -> None:
    name = member.name
    path = PurePosixPath(name)
    has_name = bool(path.parts) or member.is_folder
    if not member.is_plain or not has_name:
        raise _refusal(archive, f"{_label(name)} is a link or a device, or has no name")
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        # A drive letter of Windows.
        or name[1:2] == ":"
        or not name.isprintable()
    ):
        raise _refusal(archive, f"{_label(name)} leads out of the folder, or has an unsafe name")


def _check_total(archive: Path, total_bytes: int) -> None:
    """Refuse an archive if it unpacks to too many bytes."""
    archive_size = archive.stat().st_size
    by_ratio = max(_FREE_BYTES, archive_size * _MAX_RATIO)
    if total_bytes > min(_MAX_BYTES, by_ratio):
        raise _refusal(
            archive,
            f"unpacks to more than {_MAX_BYTES:,} bytes or to more than {_MAX_RATIO} times its"
            " size, as archive bombs do",
        )


def _refusal(archive: Path, message: str) -> UnsafeError:
    return UnsafeError(
        message,
        where=str(archive),
        hint="no file was unpacked; get the archive from a source that you trust",
    )


class _Stream:
    """The unpacked bytes of an archive, whose number is bounded.

    The bytes of unwanted members count too, and the bytes after the last member of a tar archive.
    """

    def __init__(self, file: IO[bytes] | gzip.GzipFile, archive: Path) -> None:
        self._file = file
        self._archive = archive
        self._total = 0

    def read(self, size: int) -> bytes:
        signals.check()
        content = self._file.read(size)
        self._total += len(content)
        _check_total(self._archive, self._total)
        return content


def _in_gzip(archive_path: Path) -> Iterator[_Member]:
    name = archive_path.name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    else:
        name = f"{name}.unpacked"
    with gzip.open(archive_path) as file:
        yield _Member(
            name=name,
            is_folder=False,
            is_plain=True,
            open=lambda: nullcontext(_Stream(file, archive_path)),
        )


def _in_tar(archive_path: Path, is_packed: bool) -> Iterator[_Member]:
    with _open(archive_path, is_packed) as file:
        stream: Any = _Stream(file, archive_path)
        # With mode r|, each byte is read once, through `_Stream`, which counts the bytes.
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_CHUNK, errorlevel=2, tarinfo=_Header
        ) as archive:
            for header in archive:
                is_known = header.type in (*_CONTENT, tarfile.DIRTYPE)
                # A sparse file could declare any size with very few bytes in the archive.
                is_plain = is_known and not header.issparse()
                yield _Member(
                    name=header.name,
                    is_folder=header.isdir(),
                    is_plain=is_plain,
                    open=partial(archive.extractfile, header),
                )
                # Otherwise the headers of a large archive would fill the memory.
                archive.members = []  # type: ignore[attr-defined]
        # Only padding is left. At the end of the file, gzip compares its checksum.
        while stream.read(_CHUNK):
            pass


def _in_zip(archive_path: Path) -> Iterator[_Member]:
    with open_zip(archive_path, _MAX_MEMBERS, "zip archive") as archive:
        entries = archive.infolist()
        # zipfile never reads more bytes of a member than the member declares.
        total_bytes = sum(entry.file_size for entry in entries)
        _check_total(archive_path, total_bytes)
        for entry in entries:
            # 0 if the archive was made by a system without file types.
            file_type = stat.S_IFMT(entry.external_attr >> 16)
            yield _Member(
                name=entry.filename,
                is_folder=entry.is_dir(),
                is_plain=file_type in (0, stat.S_IFREG, stat.S_IFDIR),
                open=partial(archive.open, entry),
            )


class _Header(tarfile.TarInfo):
    """A header of a tar archive; a damaged header raises an error.

    tarfile would take a damaged header for the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # A block of zeros ends a tar archive.
            is_end = len(buf) == tarfile.BLOCKSIZE and not any(buf)
            if is_end:
                raise
            raise EOFError("it is cut off, or a header is damaged") from error
        # Long names and attributes are read into memory as a whole.
        if header.size < 0 or (header.type not in _CONTENT and header.size > _MAX_HEADER):
            raise ValueError("a header is too long, or declares a negative size")
        return header


@contextmanager
def open_zip(path: Path, max_members: int, kind: str) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive after checking that its directory is consistent.

    Errors inside the block (`DAMAGE`) are not converted. Messages name the expected `kind` of file.

    Raises:
        DataError: the file is missing, damaged or encrypted, or uses a compression other than
            stored and deflate.
        UnsafeError: the archive has too many members, members that overlap, or members that declare
            more bytes than deflate can produce.
    """
    where = str(path)
    first_bytes(path, where, f"provide a valid {kind}")
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(
            f"is not a valid {kind}: {error}", where=where, hint="save or get the file again"
        ) from error
    with archive:
        entries = archive.infolist()
        num_members = len(entries)
        if num_members > max_members:
            raise UnsafeError(
                f"has {num_members} members, more than the limit of {max_members}", where=where
            )
        for entry in entries:
            _check_entry(entry, where)
        # Unless members overlap, their compressed bytes add up to at most the size of the file.
        if sum(entry.compress_size for entry in entries) > path.stat().st_size:
            raise UnsafeError(
                "has members that overlap, as in a zip bomb; get it from a source that you trust",
                where=where,
            )
        yield archive


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    if not entry.filename:
        raise DataError("has a member without a name", where=where, hint="get the file again")
    label = _label(entry.filename)
    is_encrypted = entry.flag_bits & 1
    if is_encrypted or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{label} is encrypted, or its compression is not supported",
            where=where,
            hint="unpack the archive with another program",
        )
    if entry.file_size > entry.compress_size * MAX_DEFLATE + 1024:
        raise UnsafeError(
            f"{label} declares {entry.file_size:,} bytes, more than"
            f" its {entry.compress_size:,} compressed bytes can contain; get the file from a source"
            " that you trust",
            where=where,
        )
