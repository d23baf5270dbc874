"""Unpack tar, zip and gzip archives of unknown origin.

Either all of an archive's files come out, plain, of bounded size and inside one folder, or none.

Zip archives, such as .npz files, are checked by their directory before a member is opened.
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
# Bytes that one byte of deflate can become at most.
MAX_DEFLATE = 1032
_MAX_BYTES = 64 * 2**30
_MAX_MEMBERS = 2_000_000
# Bytes that one byte of the archive may become, on average over the whole archive.
_MAX_RATIO = 200
# Unpacked bytes up to which any ratio is allowed.
_FREE_BYTES = 2**28
_CHUNK = 2**20
# Bytes of a tar's long names and attributes.
_MAX_HEADER = 2**20
_CONTENT = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ALLOWED = "allowed: tar, tar.gz, zip, and gzip of one file"


class _Member(NamedTuple):
    """An entry of an archive as it declares itself."""

    name: str
    is_folder: bool
    # A file or a folder, rather than a link or a device.
    is_plain: bool
    open: Callable[[], Any]


def unpack(
    archive: Path, folder: Path, reporter: Reporter, members: Callable[[str], bool] | None = None
) -> list[Path]:
    """Unpack an archive into a folder and return the files, in the order of the archive.

    Everything is unpacked into a temporary folder first, so that a failure, a signal or a refusal
    leaves nothing behind. Then each file is moved, and replaces one of its name. Permissions,
    owners and times are not taken over.

    Args:
        archive: tar, tar.gz, zip, or gzip of one file, whose name is the archive's without `.gz`.
        folder: created if it is missing.
        reporter: shows the archive's name.
        members: whether a path inside the archive is wanted; others are checked, but not written.

    Raises:
        DataError: missing, damaged, encrypted, or not an archive.
        UnsafeError: a member that is not a plain file or folder (links, devices), leaves the
            folder, or occurs twice; more members or bytes than allowed; or content that grows as
            only bombs do. No member is skipped silently.
    """
    entries = _members(archive)
    reporter.say(f"unpacking {archive.name}")
    # On the file system of the target, so that files can be moved by a rename.
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
            # An error of the disk: storage explains it.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"is a damaged archive: {error}", where=str(archive), hint="get the file again"
            ) from error
        # A file gets its name once its content is on the disk.
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
    """Refuse a path at which a link would redirect the file, or a file or folder is in its way."""
    target = folder / member_path
    is_blocked = target.is_dir() and not target.is_symlink()
    # The last of the parents is the folder itself.
    for parent in map(folder.joinpath, member_path.parents[:-1]):
        # A link that somebody planted would lead the file out of the folder.
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            is_blocked = True
    if is_blocked:
        raise UnsafeError(
            "a link or a file stands where a folder is needed, or a folder where a file is",
            where=str(target),
            hint="move it away",
        )


def _members(archive_path: Path) -> Iterator[_Member]:
    """Return the entries of an archive; its format is known by its content.

    Raises:
        DataError: missing, or not an archive.
    """
    head = first_bytes(archive_path, str(archive_path), _ALLOWED)
    if head.startswith(ZIP):
        return _in_zip(archive_path)
    is_packed = head.startswith(GZIP)
    with damage(str(archive_path), "archive"), _open(archive_path, is_packed) as file:
        # The first header, if it is a tar.
        first_header = file.read(tarfile.BLOCKSIZE)
    try:
        # The header of a tar has a checksum, so other content does not pass for one.
        tarfile.TarInfo.frombuf(first_header, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        if is_packed:
            return _in_gzip(archive_path)
        raise DataError(
            "not an archive that is read", where=str(archive_path), hint=_ALLOWED
        ) from error
    return _in_tar(archive_path, is_packed)


def _open(path: Path, is_packed: bool) -> IO[bytes] | gzip.GzipFile:
    """Open a file for reading, through gzip where it is packed."""
    if is_packed:
        return gzip.open(path)
    return open(path, "rb")


def _write(
    archive: Path, members: Iterator[_Member], folder: Path, is_wanted: Callable[[str], bool]
) -> list[PurePosixPath]:
    """Write the wanted members below a folder and return their paths; all are checked."""
    member_paths: list[PurePosixPath] = []
    num_members = 0
    for member in members:
        num_members += 1
        if num_members > _MAX_MEMBERS:
            raise _refusal(archive, f"has more than {_MAX_MEMBERS} members")
        # Unwanted members as well: an archive with one unsafe name is refused.
        _check_member(archive, member)
        member_path = PurePosixPath(member.name)
        if member.is_folder or not is_wanted(str(member_path)):
            continue
        target = folder / member_path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # The file system decides which names are the same.
            target.touch(exist_ok=False)
        except (FileExistsError, NotADirectoryError) as error:
            raise _refusal(
                archive, f"{_label(member.name)} occurs twice, or lies inside a file"
            ) from error
        with member.open() as stream, open(target, "wb") as file:
            for chunk in iter(partial(stream.read, _CHUNK), b""):
                signals.check()
                file.write(chunk)
        member_paths.append(member_path)
    # An error of damaged archives, as those of zipfile and tarfile.
    if num_members == 0:
        raise ValueError("no members")
    return member_paths


def _label(name: str) -> str:
    """Return the name of a member for messages."""
    return f"member {ascii(name[:100])}"


def _check_member(archive: Path, member: _Member) -> None:
    name = member.name
    path = PurePosixPath(name)
    has_name = bool(path.parts) or member.is_folder
    if not member.is_plain or not has_name:
        raise _refusal(archive, f"{_label(name)} is a link, a device or no file at all")
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        # A drive of Windows.
        or name[1:2] == ":"
        or not name.isprintable()
    ):
        raise _refusal(archive, f"{_label(name)} leads out of the folder, or has an unsafe name")


def _check_total(archive: Path, total_bytes: int) -> None:
    """Refuse an archive that unpacks to too many bytes."""
    archive_size = archive.stat().st_size
    by_ratio = max(_FREE_BYTES, archive_size * _MAX_RATIO)
    if total_bytes > min(_MAX_BYTES, by_ratio):
        raise _refusal(
            archive,
            f"unpacks to more than {_MAX_BYTES:,} bytes or {_MAX_RATIO} times its size,"
            " as bombs do",
        )


def _refusal(archive: Path, message: str) -> UnsafeError:
    return UnsafeError(
        message,
        where=str(archive),
        hint="nothing was unpacked; get the archive from a source that you trust",
    )


class _Stream:
    """The unpacked bytes of an archive, whose number is bounded.

    Those of unwanted members count, and those behind the last member of a tar.
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
        # Mode r|: each byte is read once, and passes `_Stream`, which counts.
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_CHUNK, errorlevel=2, tarinfo=_Header
        ) as archive:
            for header in archive:
                is_known = header.type in (*_CONTENT, tarfile.DIRTYPE)
                # A sparse file could declare any size with hardly a byte in the archive.
                is_plain = is_known and not header.issparse()
                yield _Member(
                    name=header.name,
                    is_folder=header.isdir(),
                    is_plain=is_plain,
                    open=partial(archive.extractfile, header),
                )
                # Otherwise the headers of a large archive would fill the memory.
                archive.members = []  # type: ignore[attr-defined]
        # Only padding is left. At its end a compressed stream compares its checksum.
        while stream.read(_CHUNK):
            pass


def _in_zip(archive_path: Path) -> Iterator[_Member]:
    with open_zip(archive_path, _MAX_MEMBERS, "zip archive") as archive:
        entries = archive.infolist()
        # zipfile reads no more of a member than the member declares.
        total_bytes = sum(entry.file_size for entry in entries)
        _check_total(archive_path, total_bytes)
        for entry in entries:
            # 0 where the archive was made by a system without such types.
            file_type = stat.S_IFMT(entry.external_attr >> 16)
            yield _Member(
                name=entry.filename,
                is_folder=entry.is_dir(),
                is_plain=file_type in (0, stat.S_IFREG, stat.S_IFDIR),
                open=partial(archive.open, entry),
            )


class _Header(tarfile.TarInfo):
    """A header of a tar that is not damaged, which tarfile would take for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # A block of zeros ends a tar.
            is_end = len(buf) == tarfile.BLOCKSIZE and not any(buf)
            if is_end:
                raise
            raise EOFError("it is cut off, or a header is damaged") from error
        # Long names and attributes are read into memory as a whole.
        if header.size < 0 or (header.type not in _CONTENT and header.size > _MAX_HEADER):
            raise ValueError("a header is too long, or a size negative")
        return header


@contextmanager
def open_zip(path: Path, max_members: int, kind: str) -> Iterator[zipfile.ZipFile]:
    """Yield a zip archive whose directory is consistent.

    Errors inside the block (`DAMAGE`) are passed on. Messages name the expected `kind` of file.

    Raises:
        DataError: missing, damaged, encrypted, or of a compression other than stored and deflate.
        UnsafeError: too many members, members that overlap, or that declare more than deflate can
            hold.
    """
    where = str(path)
    first_bytes(path, where, f"a {kind} is needed")
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(
            f"not a readable {kind}: {error}", where=where, hint="write or get it again"
        ) from error
    with archive:
        entries = archive.infolist()
        num_members = len(entries)
        if num_members > max_members:
            raise UnsafeError(f"{num_members} members, at most {max_members} are read", where=where)
        for entry in entries:
            _check_entry(entry, where)
        # Members of one file cannot have more bytes together than the file.
        if sum(entry.compress_size for entry in entries) > path.stat().st_size:
            raise UnsafeError("members lie over one another, as in a zip bomb", where=where)
        yield archive


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    if not entry.filename:
        raise DataError("a member has no name", where=where, hint="get the file again")
    label = _label(entry.filename)
    is_encrypted = entry.flag_bits & 1
    if is_encrypted or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{label} is encrypted or has an unusual compression",
            where=where,
            hint="unpack it yourself",
        )
    if entry.file_size > entry.compress_size * MAX_DEFLATE + 1024:
        raise UnsafeError(
            f"{label} declares {entry.file_size:,} bytes,"
            f" more than its {entry.compress_size:,} can hold",
            where=where,
        )
