"""Arrays in .npy and .npz files, headers first.

Nothing is allocated and no code runs before the header is checked.
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
# Bytes that one byte of a member may become.
_MAX_RATIO = 200
# Bytes up to which any ratio is allowed.
_FREE_BYTES = 2**28
# Characters of a header; NumPy's own bound.
_MAX_HEADER = 10_000
# Version of a header -> its reader.
_READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy parses a header as a Python literal, so it raises what such parsing raises.
_PARSING = (SyntaxError, TokenError, RecursionError, MemoryError)
_HEADER_DAMAGE = (*_PARSING, ValueError, LookupError, EOFError, TypeError)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file whose header was read and found harmless."""

    # File and array, for messages.
    where: str
    # As declared; the file is large enough for it.
    shape: tuple[int, ...]
    # Without objects and fields.
    dtype: np.dtype
    # Returns the array, as a memory map where the file allows it.
    read: Callable[[], np.ndarray]


def open_arrays(path: Path, where: str, allowed: str = _ALLOWED) -> dict[str, StoredArray]:
    """Return the arrays of a file by name; the array of a .npy file has the empty name.

    `where` is the setting that names the file, `allowed` the hint for files of other kinds.

    Raises:
        DataError: missing, empty, cut off, or not such a file.
        UnsafeError: an array of Python objects: reading it would execute code.
        MemoryExhaustedError: an array is larger than the free memory.
    """
    first_bytes(path, where, allowed)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"": read_npy(path)}
    if suffix == ".npz":
        return _npz(path)
    raise DataError(f"'{path.name}' has a suffix that is not read", where=where, hint=allowed)


class Header(NamedTuple):
    """An array as its header declares it; `read_header` has checked the declaration."""

    shape: tuple[int, ...]
    # Plain numbers or strings, or Python objects.
    dtype: np.dtype
    # Bytes before the content.
    offset: int


def read_header(file: IO[bytes], size: int, where: str, objects: bool = False) -> Header:
    """Return the header of an array at the beginning of a file.

    The content begins at the header's `offset`, not at the file's position afterwards.

    Args:
        file: up to 10,000 bytes of it are read.
        size: of the file in bytes.
        where: names the array in messages.
        objects: whether the caller reads the pickle of an array of Python objects.

    Raises:
        DataError: the header is damaged, or declares fields or a shape that the file cannot hold.
        UnsafeError: it declares Python objects, and `objects` is not set.
    """
    try:
        # NumPy checks a header's length only after it has read all of it.
        head = io.BytesIO(file.read(_MAX_HEADER))
        version = np.lib.format.read_magic(head)
        shape, _, dtype = _READERS[version](head, max_header_size=_MAX_HEADER)
    except _HEADER_DAMAGE as error:
        raise DataError(
            "not a NumPy array: its header cannot be read", where=where, hint=_ALLOWED
        ) from error
    is_readable = objects and dtype == np.dtype(object)
    if dtype.hasobject and not is_readable:
        raise UnsafeError(
            "an array of Python objects; reading it would execute code of the file",
            where=where,
            hint="store numbers or strings; sequences of several lengths as one padded array"
            " beside their `lengths`",
        )
    if not _is_plain(shape, dtype):
        raise DataError(
            f"the header declares shape {shape}, dtype {dtype}",
            where=where,
            hint="store plain arrays of numbers or strings, under one name each",
        )
    # In the file too, since `head` begins where the file does.
    offset = head.tell()
    # Objects are a pickle, whose size does not follow from the shape.
    needed_bytes = math.prod(shape) * dtype.itemsize
    remaining_bytes = size - offset
    if needed_bytes > remaining_bytes and not dtype.hasobject:
        raise DataError(
            f"the header declares {needed_bytes:,} bytes, the file holds {remaining_bytes:,}",
            where=where,
            hint="write it again",
        )
    return Header(shape, dtype, offset)


def _is_plain(shape: tuple[Any, ...], dtype: np.dtype) -> bool:
    """Return whether an array has a possible shape, and neither fields nor values of no bytes."""
    if dtype.kind == "V" or not is_shape(shape):
        return False
    # NumPy ignores empty axes when it checks that an array is not too large.
    num_bytes = math.prod(extent for extent in shape if extent > 0) * dtype.itemsize
    return 0 < num_bytes < 2**63


def read_npy(path: Path) -> StoredArray:
    """Return the array of an .npy file; raises as `open_arrays`."""
    where = str(path)
    with open(path, "rb") as file:
        header = read_header(file, path.stat().st_size, where)

    def read() -> np.ndarray:
        # Arrays of no bytes cannot be mapped.
        mode: Literal["r"] | None = None if 0 in header.shape else "r"
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
        return checked_characters(array, where)

    return StoredArray(where, header.shape, header.dtype, read)


def _npz(path: Path) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    with open_zip(path, _MAX_MEMBERS, ".npz file") as archive:
        # `x` and `x.npy` are both the array x.
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise UnsafeError("two arrays have one name", where=str(path), hint="write it again")
        for name, member in members.items():
            where = f"{path}[{name}]"
            with damage(where, "array"), archive.open(member) as file:
                arrays[name] = _member(path, where, member, file)
    return arrays


def _member(path: Path, where: str, member: zipfile.ZipInfo, file: IO[bytes]) -> StoredArray:
    header = read_header(file, member.file_size, where)

    def read() -> np.ndarray:
        # Checked here and not on opening: members that nobody reads may be large.
        if member.file_size > max(_FREE_BYTES, _MAX_RATIO * member.compress_size):
            raise UnsafeError(
                f"grows to more than {_MAX_RATIO} times its size, as bombs do",
                where=where,
                hint="store it uncompressed",
            )
        check_memory(math.prod(header.shape) * header.dtype.itemsize, where)
        with (
            damage(where, "array"),
            # Opened again: `_npz` has closed it.
            zipfile.ZipFile(path) as archive,
            archive.open(member) as stream,
        ):
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # The checksum of a member is compared at its end.
            stream.read(1)
        return checked_characters(array, where)

    return StoredArray(where, header.shape, header.dtype, read)
