"""Files by their first bytes, which reveal failed downloads and wrong suffixes; small texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_cli.exceptions import DataError, OrcaError

GZIP = b"\x1f\x8b"
NPY = b"\x93NUMPY"
# The second mark begins an archive without members.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

# In lower case, as the beginning of a file is compared.
_DISGUISES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file (`git lfs pull` fetches it)",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML message, perhaps an error of the server",
}
# Suffix -> the beginnings that its files may have.
_MAGIC = {".npy": (NPY,), ".npz": ZIP, ".zip": ZIP, ".gz": (GZIP,), ".tgz": (GZIP,)}


@contextmanager
def damage(where: str, kind: str) -> Iterator[None]:
    """Turn any error of a library, for a damaged file, into a DataError.

    Errors of ours and MemoryError pass. Messages name the expected `kind` of file.
    """
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way
        message = f"is a damaged {kind}: {error}"[:500]
        raise DataError(message, where=where, hint="get the file again") from error


def first_bytes(path: Path, where: str, allowed: str) -> bytes:
    """Return the first 64 bytes of a file.

    `where` is the setting or file, for messages about a file that cannot be read; `allowed` a hint
    at the files that can be.

    Raises:
        DataError: it cannot be read, is empty, a web page or a Git LFS pointer.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        message = f"no file '{path}'"
        if where == str(path):
            message = "the file does not exist"
        raise DataError(message, where=where, hint="check the name") from error
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror}", where=where, hint=allowed
        ) from error
    problem = disguise(head)
    if problem:
        raise DataError(f"this is {problem}", where=str(path), hint=allowed)
    return head


def disguise(head: bytes, name: str = "") -> str:
    """Return the kind of a file by its first few hundred bytes; an empty text if it may be data.

    With a name, it also has to be of the kind that the name's suffix says.
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
        return f"not a file of its kind (it begins with {head[:8]!r})"
    return ""


def read_text(path: Path, max_bytes: int, hint: str = "") -> str:
    """Return the content of a UTF-8 file.

    Raises:
        DataError: it cannot be read, or is larger than `max_bytes`.
    """
    try:
        # Before it is read into memory.
        if path.stat().st_size > max_bytes:
            raise DataError(f"has more than {max_bytes} bytes", where=str(path), hint=hint)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), hint=hint) from error
