"""Headers of .npy files and members: shape and type are known before anything of that size is made; and texts in arrays."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from tokenize import TokenError
from typing import IO, Literal

import numpy as np

from orca_cli.exceptions import DataError, UnsafeError

_MAX_HEADER = 10_000  # characters; NumPy's own bound
_MAX_AXES = 32
_LAST = 0x10FFFF  # of Unicode; NumPy takes any 32 bits for a character, and fails wherever such a text is used
_READERS = {
    (1, 0): ("<H", np.lib.format.read_array_header_1_0),
    (2, 0): ("<I", np.lib.format.read_array_header_2_0),
}
# NumPy reads a header as Python text, so it raises what such reading raises.
_PARSING = (SyntaxError, TokenError, RecursionError, MemoryError)
_DAMAGE = (*_PARSING, ValueError, LookupError, EOFError, TypeError, struct.error)


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
    """Return the header at a file's position, the start of an array.

    `allowed` is the hint that says which files are allowed; `objects`: whether the caller unpickles Python objects.

    Raises:
        DataError: no header, fields, or a shape that no array has.
        UnsafeError: Python objects, where the caller does not take them.
    """
    try:
        form, reader = _READERS[np.lib.format.read_magic(file)]
        length = file.read(struct.calcsize(form))
        if struct.unpack(form, length)[0] > _MAX_HEADER:  # NumPy compares it after it has read it
            raise ValueError("the header is too long")
        head = io.BytesIO(length + file.read(*struct.unpack(form, length)))
        shape, fortran, dtype = reader(head, max_header_size=_MAX_HEADER)
        offset = file.tell()
    except _DAMAGE as error:
        raise DataError("not a NumPy array: its header cannot be read", where=where, hint=allowed) from error
    if dtype.hasobject and not (objects and dtype == np.dtype(object)):
        what = "an array of Python objects; reading it would execute code of the file"
        hint = "store numbers or strings; sequences of several lengths as one padded array beside their `lengths`"
        raise UnsafeError(what, where=where, hint=hint)
    if dtype.fields is not None or dtype.subdtype is not None or dtype.kind == "V":
        raise DataError(f"dtype {dtype} has fields", where=where, hint="store plain arrays under one name each")
    # NumPy ignores empty axes when it checks that an array is not too large.
    too_large = math.prod(size for size in shape if size) * dtype.itemsize >= 2**63 and 0 in shape
    wrong = any(isinstance(size, bool) or size < 0 for size in shape) or len(shape) > _MAX_AXES or dtype.itemsize == 0
    if wrong or too_large:
        raise DataError(f"the header declares shape {shape}, dtype {dtype}", where=where, hint="write it again")
    size = 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
    return Header(shape, "F" if fortran else "C", dtype, offset, size)


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array; raise DataError if it holds texts with codes that are not Unicode characters."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST:
            raise DataError("holds text with invalid characters", where=where, hint="get the file again")
    return array
