"""Check the first bytes of files, which reveal failed downloads and wrong suffixes; read texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_cli.exceptions import DataError, OrcaError

GZIP = b"\x1f\x8b"
NPY = b"\x93NUMPY"
# The second signature is the beginning of an archive without members.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

# Beginning of a file -> its kind. In lower case, because the file's beginning is lowered too.
_DISGUISES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file (`git lfs pull` fetches the file)",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML message, perhaps an error of the server",
}
# Suffix -> the bytes with which files with this suffix may begin.
_MAGIC = {".npy": (NPY,), ".npz": ZIP, ".zip": ZIP, ".gz": (GZIP,), ".tgz": (GZIP,)}


@contextmanager
def damage(where: str, kind: str) -> Iterator[None]:
    """Convert any error of a library inside the block to a DataError for a damaged file.

    OrcaError and MemoryError are not converted. Messages name the expected `kind` of file.
    """
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way
        message = f"is not a valid {kind}: {error}"[:500]
        raise DataError(message, where=where, hint="get the file again") from error


def first_bytes(path: Path, where: str, allowed: str) -> bytes:
    """Return the first 64 bytes of a file.

    `where` is the setting or file in messages about a file that cannot be read, `allowed` their
    hint.

    Raises:
        DataError: the file cannot be read, is empty, or is a web page or a Git LFS pointer.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        message = f"'{path}' does not exist"
        if where == str(path):
            message = "does not exist"
        raise DataError(message, where=where, hint="check the name") from error
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror}", where=where, hint=allowed
        ) from error
    problem = disguise(head)
    if problem:
        raise DataError(f"is {problem}", where=str(path), hint=allowed)
    return head


def disguise(head: bytes, name: str = "") -> str:
    """Return the kind of a file from its first few hundred bytes; empty if it may be data.

    With `name`, the beginning of the file must also fit the suffix of the name.
    """
    if not head:
        return "an empty file"
    # A web page may begin with a byte order mark or with blanks.
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, kind in _DISGUISES.items():
        if start.startswith(mark):
            return kind
    suffix = Path(name).suffix.lower()
    beginnings = _MAGIC.get(suffix)
    if beginnings and not head.startswith(beginnings):
        return f"a file that is not in the {suffix} format (it begins with {head[:8]!r})"
    return ""


def read_text(path: Path, max_bytes: int, hint: str = "") -> str:
    """Return the content of a UTF-8 file.

    Raises:
        DataError: the file cannot be read, is larger than `max_bytes`, or is not UTF-8 text.
    """
    try:
        # Checked before the content is read into memory.
        if path.stat().st_size > max_bytes:
            raise DataError(
                f"has more bytes than the limit of {max_bytes}", where=str(path), hint=hint
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), hint=hint) from error
