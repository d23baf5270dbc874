"""Arrays in .npy and .npz files, headers first: nothing is allocated and no code runs before the check."""

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
from orca_cli.data.untrusted.memory import check_memory, checked_characters
from orca_cli.exceptions import DataError, UnsafeError

_ALLOWED = "allowed: .npz (x and y in one file) and .npy (task.train=x.npy task.labels=y.npy)"
_MAX_MEMBERS = 1000
_MAX_RATIO = 200  # bytes that one byte of a member becomes
_FREE_BYTES = 2**28  # from which on the ratio counts
_MAX_HEADER = 10_000  # characters; NumPy's own bound
_MAX_AXES = 32
_READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy reads a header as Python text, so it raises what such reading raises.
_PARSING = (SyntaxError, TokenError, RecursionError, MemoryError)
_HEADER_DAMAGE = (*_PARSING, ValueError, LookupError, EOFError, TypeError)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file whose header was read and found harmless."""

    where: str  # file and array, for messages
    shape: tuple[int, ...]  # as declared, and as the file's size allows
    dtype: np.dtype  # no objects, no fields
    read: Callable[[], np.ndarray]  # returns the array; a memory map where the file allows it


def open_arrays(path: Path, where: str, allowed: str = _ALLOWED) -> dict[str, StoredArray]:
    """Return the arrays of a file by name; a .npy file's one array has the empty name.

    `where` is the setting that names the file; `allowed` the hint where it is none.

    Raises:
        DataError: missing, empty, cut off, or not such a file.
        UnsafeError: an array of Python objects: reading it would execute code.
        MemoryExhaustedError: an array is larger than the free memory.
    """
    first_bytes(path, where, allowed)
    if path.suffix.lower() == ".npy":
        return {"": read_npy(path)}
    if path.suffix.lower() == ".npz":
        return _npz(path)
    raise DataError(f"'{path.name}' has a suffix that is not read", where=where, hint=allowed)


class Header(NamedTuple):
    """What an array's header declares, once `read_header` has checked it."""

    shape: tuple[int, ...]
    dtype: np.dtype  # plain numbers or strings, or Python objects
    offset: int  # bytes before the content


def read_header(file: IO[bytes], size: int, where: str, objects: bool = False) -> Header:
    """Return the header of an array at the beginning of a file of `size` bytes, of which up to 10,000 are read.

    The content begins at the header's `offset`, not where the file stands afterwards. DataError where the header is damaged,
    or declares fields or a shape that the file cannot hold; UnsafeError for Python objects, unless `objects` says that the
    caller reads their pickle.
    """
    try:
        head = io.BytesIO(
            file.read(_MAX_HEADER)
        )  # NumPy compares a header's length after it has read it
        shape, _, dtype = _READERS[np.lib.format.read_magic(head)](
            head, max_header_size=_MAX_HEADER
        )
    except _HEADER_DAMAGE as error:
        raise DataError(
            "not a NumPy array: its header cannot be read", where=where, hint=_ALLOWED
        ) from error
    if dtype.hasobject and not (objects and dtype == np.dtype(object)):
        what = "an array of Python objects; reading it would execute code of the file"
        hint = "store numbers or strings; sequences of several lengths as one padded array beside their `lengths`"
        raise UnsafeError(what, where=where, hint=hint)
    # NumPy ignores empty axes when it checks that an array is not too large.
    is_sized = (
        all(type(extent) is int and extent >= 0 for extent in shape) and len(shape) <= _MAX_AXES
    )
    if (
        not is_sized
        or not 0 < math.prod(filter(None, shape)) * dtype.itemsize < 2**63
        or dtype.kind == "V"
    ):
        what = f"the header declares shape {shape}, dtype {dtype}"
        raise DataError(
            what, where=where, hint="store plain arrays of numbers or strings, under one name each"
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed > size - head.tell() and not dtype.hasobject:
        what = f"the header declares {needed:,} bytes, the file holds {size - head.tell():,}"
        raise DataError(what, where=where, hint="write it again")
    return Header(shape, dtype, head.tell())


def read_npy(path: Path) -> StoredArray:
    """Return the array of an .npy file; raises as `open_arrays`."""
    where = str(path)
    with open(path, "rb") as file:
        shape, dtype, _ = read_header(file, path.stat().st_size, where)

    def read() -> np.ndarray:
        mode: Literal["r"] | None = "r" if 0 not in shape else None  # nothing cannot be mapped
        return checked_characters(np.load(path, mmap_mode=mode, allow_pickle=False), where)

    return StoredArray(where, shape, dtype, read)


def _npz(path: Path) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    with open_zip(path, _MAX_MEMBERS, ".npz file") as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise UnsafeError("two arrays have one name", where=str(path), hint="write it again")
        for name, member in members.items():
            with damage(f"{path}[{name}]", "array"), archive.open(member) as file:
                arrays[name] = _member(path, f"{path}[{name}]", member, file)
    return arrays


def _member(path: Path, where: str, member: zipfile.ZipInfo, file: IO[bytes]) -> StoredArray:
    shape, dtype, _ = read_header(file, member.file_size, where)

    def read() -> np.ndarray:
        # Checked here and not on opening: members that nobody reads may be large.
        if member.file_size > max(_FREE_BYTES, _MAX_RATIO * member.compress_size):
            what = f"grows to more than {_MAX_RATIO} times its size, as bombs do"
            raise UnsafeError(what, where=where, hint="store it uncompressed")
        check_memory(math.prod(shape) * dtype.itemsize, where)
        with (
            damage(where, "array"),
            zipfile.ZipFile(path) as archive,
            archive.open(member) as stream,
        ):
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # the checksum of a member is compared at its end
        return checked_characters(array, where)

    return StoredArray(where, shape, dtype, read)
