"""Arrays in .npy and .npz files of unknown origin.

The header of an array is checked before memory for the array is allocated. No code of a file runs.
"""

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from orca_cli.data.untrusted.archives import open_zip
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.memory import check_memory, checked_characters, is_shape
from orca_cli.exceptions import DataError, UnsafeError

_ALLOWED = "allowed: .npz (x and y in one file) and .npy (task.train=x.npy task.labels=y.npy)"
_MAX_MEMBERS = 1000
# Largest allowed number of unpacked bytes per byte of a member.
_MAX_RATIO = 200
# Up to this number of unpacked bytes, any ratio is allowed.
_FREE_BYTES = 2**28
# Largest number of characters in a header; NumPy has the same limit.
_MAX_HEADER = 10_000
# Version of a header -> its reader.
_READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy parses a header as a Python literal, so the errors of such parsing may occur.
_PARSING = (SyntaxError, TokenError, RecursionError, MemoryError)
_HEADER_DAMAGE = (*_PARSING, ValueError, LookupError, EOFError, TypeError)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, after a check of its header."""

    # File and array, for messages.
    where: str
    # As the header declares it; the file is large enough for this shape.
    shape: tuple[int, ...]
    # A dtype without Python objects and fields.
    dtype: np.dtype
    # Returns the array; a memory map if the file allows it.
    read: Callable[[], np.ndarray]


def open_arrays(path: Path, where: str, allowed: str = _ALLOWED) -> dict[str, StoredArray]:
    """Return the arrays of a file by name; the array of an .npy file has the empty name.

    `where` is the setting that names the file, `allowed` the hint for files of other formats.

    Raises:
        DataError: the file is missing, empty, cut off, or neither .npz nor .npy.
        UnsafeError: an array contains Python objects, so reading it would execute code.
        MemoryExhaustedError: an array is larger than the free memory.
    """
    first_bytes(path, where, allowed)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"": read_npy(path)}
    if suffix == ".npz":
        return _npz(path)
    raise DataError(f"'{path.name}' has an unsupported suffix", where=where, hint=allowed)


class Header(NamedTuple):
    """An array as its header declares it; `read_header` has checked the declaration."""

    shape: tuple[int, ...]
    # A dtype of numbers, strings or Python objects, without fields.
    dtype: np.dtype
    # Number of bytes before the content.
    offset: int


def read_header(file: IO[bytes], size: int, where: str, objects: bool = False) -> Header:
    """Return the header of an array at the beginning of a file.

    The content of the array begins at the header's `offset`. The position of `file` after the call
    may be beyond it.

    Args:
        file: opened file, of which up to 10,000 bytes are read.
        size: size of the file in bytes.
        where: name of the array in messages.
        objects: whether an array of Python objects is accepted, because the caller reads its pickle
            safely.

    Raises:
        DataError: the header is damaged, or declares fields, or a shape for which the file is too
            small.
        UnsafeError: the header declares Python objects, and `objects` is False.
    """
    try:
        # NumPy checks a header's length only after it has read all of it.
        head = io.BytesIO(file.read(_MAX_HEADER))
        version = np.lib.format.read_magic(head)
        shape, _, dtype = _READERS[version](head, max_header_size=_MAX_HEADER)
    except _HEADER_DAMAGE as error:
        raise DataError(
            "is not a NumPy array: its header cannot be read", where=where, hint=_ALLOWED
        ) from error
    is_readable = objects and dtype == np.dtype(object)
    if dtype.hasobject and not is_readable:
        raise UnsafeError(
            "contains Python objects, and reading them would execute code from the file",
            where=where,
            hint="store numbers or strings; store sequences of different lengths as one padded"
            " array and an array 'lengths'",
        )
    if not _is_plain(shape, dtype):
        raise DataError(
            f"has an unsupported shape or type: shape {shape}, dtype {dtype}",
            where=where,
            hint="store arrays of numbers or strings; store each field of records as its own array",
        )
    # Also the position in the file, because `head` begins at the beginning of the file.
    offset = head.tell()
    # Objects are stored as a pickle, whose size does not follow from the shape.
    needed_bytes = math.prod(shape) * dtype.itemsize
    remaining_bytes = size - offset
    if needed_bytes > remaining_bytes and not dtype.hasobject:
        raise DataError(
            f"is cut off: its header declares {needed_bytes:,} bytes,"
            f" but only {remaining_bytes:,} follow",
            where=where,
            hint="save or get the file again",
        )
    return Header(shape, dtype, offset)


def _is_plain(shape: tuple[Any, ...], dtype: np.dtype) -> bool:
    """Return whether an array has a possible shape, and neither fields nor values of 0 bytes."""
    if dtype.kind == "V" or not is_shape(shape):
        return False
    # NumPy ignores empty axes when it checks that an array is not too large.
    num_bytes = math.prod(extent for extent in shape if extent > 0) * dtype.itemsize
    return 0 < num_bytes < 2**63


def read_npy(path: Path) -> StoredArray:
    """Return the array of an .npy file; raises the errors of `open_arrays`."""
    where = str(path)
    with open(path, "rb") as file:
        header = read_header(file, path.stat().st_size, where)

    def read() -> np.ndarray:
        # Empty arrays cannot be mapped.
        mode: Literal["r"] | None = None if 0 in header.shape else "r"
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
        return checked_characters(array, where)

    return StoredArray(where, header.shape, header.dtype, read)


def _npz(path: Path) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    with open_zip(path, _MAX_MEMBERS, ".npz file") as archive:
        # The members `x` and `x.npy` both mean the array x.
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise UnsafeError(
                "has two arrays with the same name", where=str(path), hint="rename one of them"
            )
        for name, member in members.items():
            where = f"{path}[{name}]"
            with damage(where, "array"), archive.open(member) as file:
                arrays[name] = _member(path, where, member, file)
    return arrays


def _member(path: Path, where: str, member: zipfile.ZipInfo, file: IO[bytes]) -> StoredArray:
    header = read_header(file, member.file_size, where)

    def read() -> np.ndarray:
        # Checked only now, because members that are never read may be large.
        if member.file_size > max(_FREE_BYTES, _MAX_RATIO * member.compress_size):
            raise UnsafeError(
                f"unpacks to more than {_MAX_RATIO} times its size, as archive bombs do",
                where=where,
                hint="if you trust the file, store it uncompressed",
            )
        check_memory(math.prod(header.shape) * header.dtype.itemsize, where)
        with (
            damage(where, "array"),
            # Opened again, because `_npz` has closed it.
            zipfile.ZipFile(path) as archive,
            archive.open(member) as stream,
        ):
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # zipfile compares the checksum of a member when the end of the member is read.
            stream.read(1)
        return checked_characters(array, where)

    return StoredArray(where, header.shape, header.dtype, read)
