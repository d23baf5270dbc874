"""What a file is by its first bytes, so that failed downloads and wrong suffixes are recognised; and small text files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_cli.exceptions import DataError, OrcaError

GZIP = b"\x1f\x8b"
HDF5 = b"\x89HDF\r\n\x1a\n"
NPY = b"\x93NUMPY"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

_AGAIN = "download the file again"
_DISGUISES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with `git lfs pull`"),
    (b"<!doctype", "a web page", _AGAIN),
    (b"<html", "a web page", _AGAIN),
    (b"<?xml", "an XML message, perhaps an error of the server", _AGAIN),
    (GZIP, "a gzip archive", "unpack it first"),
    (b"\x89hdf", "an HDF5 file", None),
)

_MAGIC = {".npy": (NPY,), ".npz": ZIP, ".zip": ZIP, ".gz": (GZIP,), ".tgz": (GZIP,)}


@contextmanager
def damage(where: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises for a damaged file into a DataError; ours and MemoryError pass."""
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way
        raise DataError(f"is a damaged {what}: {error}"[:500], where=where, hint="get the file again") from error


def first_bytes(path: Path, where: str, allowed: str, expected: tuple[bytes, ...] = ()) -> bytes:
    """Return the first 64 bytes of a file that exists, can be read and is not known to be something else.

    Args:
        path: the file.
        where: setting or file, for messages about a file that cannot be read.
        allowed: hint that says what is allowed.
        expected: beginnings that the caller can read.

    Raises:
        DataError: missing, a folder, unreadable, empty, or a web page, Git LFS pointer or archive in its place.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        what, advice = f"'{path}' cannot be read: {error.strerror}", "check its permissions"
        if isinstance(error, IsADirectoryError):
            what, advice = f"'{path}' is a folder", allowed
        elif isinstance(error, FileNotFoundError):
            what, advice = "the file does not exist" if where == str(path) else f"no file '{path}'", "check the name"
        raise DataError(what, where=where, hint=advice) from error
    if not head:
        raise DataError("the file is empty", where=str(path), hint="write or download it again")
    if not head.startswith(expected or (b"\0" * 65,)):
        for start, what, hint in _DISGUISES:
            if head.lstrip().lower().startswith(start):
                raise DataError(f"this is {what}", where=str(path), hint=hint or allowed)
    return head


def disguise(head: bytes, name: str) -> str:
    """Return what a download is by its first few hundred bytes, if its name says otherwise; else an empty text."""
    suffix = Path(name).suffix.lower()
    if not head:
        return "an empty file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and suffix not in (".xml", ".html", ".htm", ".svg"):
        return "a web page or another document in markup"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file that it points to"
    magic = _MAGIC.get(suffix)
    return f"not a {suffix} file (it begins with {head[:8]!r})" if magic and not head.startswith(magic) else ""


def read_text(path: Path, max_bytes: int, hint: str = "") -> str:
    """Return the content of a UTF-8 file; DataError where it cannot be read or is larger than `max_bytes`."""
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"has more than {max_bytes} bytes", where=str(path), hint=hint)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), hint=hint) from error
