"""Headers of .npy files and members: shape and type are known before anything of that size is made; and texts in arrays."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from tokenize import TokenError
from typing import IO, Literal

import numpy as np

from orca_cli.exceptions import DataError, UnsafeError

_MAX_HEADER = 10_000  # characters; NumPy's own bound
_MAX_AXES = 32
_LAST = 0x10FFFF  # of Unicode; NumPy takes any 32 bits for a character, and fails wherever such a text is used
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NumPy reads a header as Python text, so it raises what such reading raises.
_PARSING = (SyntaxError, TokenError, RecursionError, MemoryError)
_DAMAGE = (*_PARSING, ValueError, LookupError, EOFError, TypeError)


@dataclass(frozen=True)
class Header:
    """What an array's header declares; plain numbers or strings, or one type of Python objects."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype  # no fields
    offset: int  # bytes before the content
    bytes: int  # of the content; unknown (0) for Python objects

    def check_held(self, size: int, where: str) -> None:
        """Raise DataError where a file of `size` bytes ends before its array does."""
        if self.bytes > size - self.offset:
            what = f"the header declares {self.bytes:,} bytes, the file holds {size - self.offset:,}"
            raise DataError(what, where=where, hint="write it again")


def read_header(file: IO[bytes], where: str, allowed: str, objects: bool = False) -> Header:
    """Return the header of an array at a file's beginning; the file is read further than that.

    `allowed` is the hint that says which files are allowed; `objects`: whether the caller unpickles Python objects.

    Raises:
        DataError: no header, fields, or a shape that no array has.
        UnsafeError: Python objects, where the caller does not take them.
    """
    try:
        head = io.BytesIO(file.read(_MAX_HEADER))  # NumPy compares a header's length after it has read it
        shape, fortran, dtype = _READERS[np.lib.format.read_magic(head)](head, max_header_size=_MAX_HEADER)
    except _DAMAGE as error:
        raise DataError("not a NumPy array: its header cannot be read", where=where, hint=allowed) from error
    if dtype.hasobject and not (objects and dtype == np.dtype(object)):
        what = "an array of Python objects; reading it would execute code of the file"
        hint = "store numbers or strings; sequences of several lengths as one padded array beside their `lengths`"
        raise UnsafeError(what, where=where, hint=hint)
    # NumPy ignores empty axes when it checks that an array is not too large.
    is_sized = all(type(size) is int and size >= 0 for size in shape) and len(shape) <= _MAX_AXES
    if not is_sized or not 0 < math.prod(size for size in shape if size) * dtype.itemsize < 2**63 or dtype.kind == "V":
        what = f"the header declares shape {shape}, dtype {dtype}"
        raise DataError(what, where=where, hint="store plain arrays of numbers or strings, under one name each")
    size = 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
    return Header(shape, "F" if fortran else "C", dtype, head.tell(), size)


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array; raise DataError if it holds texts with codes that are not Unicode characters."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST:
            raise DataError("holds text with invalid characters", where=where, hint="get the file again")
    return array
