"""The functions that a pickle of unknown origin may name; they replace NumPy's own functions.

Every function checks its arguments, because the pickle chooses them.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from orca_cli.data.untrusted.memory import checked_characters, is_shape
from orca_cli.exceptions import UnsafeError

# A kind (booleans, integers, floats, complex numbers, bytes, texts or objects) and a size.
_DTYPE = re.compile(r"[biufcSUO]\d{1,7}")


def refused(predicate: str) -> UnsafeError:
    """Return the error for a refused pickle; the predicate is its fault, such as "asks for x"."""
    return UnsafeError(f"the pickle {predicate}")


def make_dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """Return a new dtype, whose byte order is set later by its state."""
    if type(code) is not str or not _DTYPE.fullmatch(code):
        shown = ascii(code)[:60]
        raise refused(f"asks for the dtype {shown}; allowed: numbers, strings and objects")
    # A copy, because its byte order is set later.
    dtype = np.dtype(code, False, True)
    if dtype.itemsize == 0:
        raise refused("asks for a dtype of 0 bytes")
    return dtype


def set_byte_order(dtype: np.dtype, state: Any) -> None:
    """Set the byte order of a new dtype from `state`, and change nothing else.

    A state that describes another dtype is refused.
    """
    if type(state) is not tuple or len(state) not in (8, 9):
        raise refused("has a dtype whose format version is unknown")
    byte_order, subtype, names, fields, itemsize = state[1:6]
    is_plain = subtype is None and names is None and fields is None
    if not is_plain or type(byte_order) is not str or byte_order not in ("<", ">", "|", "="):
        raise refused("has a dtype with fields or subarrays, or with an unknown byte order")
    if type(itemsize) is not int or itemsize not in (-1, dtype.itemsize):
        raise refused("has a dtype whose declared size is wrong")
    # NumPy's own state of this dtype; only its byte order is replaced.
    fresh_state = list(dtype.__reduce__()[2])
    # "|" means that the dtype has no byte order, such as single bytes.
    if fresh_state[1] != "|" and byte_order != "|":
        fresh_state[1] = byte_order
    dtype.__setstate__(tuple(fresh_state))  # type: ignore[attr-defined]


def _elements(shape: Any, dtype: Any) -> int:
    """Return the number of elements of an array."""
    if not (is_shape(shape) and isinstance(dtype, np.dtype)):
        raise refused("has an array without a valid shape or dtype")
    # NumPy ignores empty axes when it checks that an array is not too large.
    if math.prod(extent for extent in shape if extent) * dtype.itemsize >= 2**63:
        raise refused("has an array larger than any memory")
    return math.prod(shape)


def _array_bytes(content: Any, shape: Any, dtype: Any) -> bytes | bytearray:
    """Return the content of an array of numbers or strings.

    Python 2 stored the content as a string, which was decoded as Latin-1.
    """
    needed_bytes = _elements(shape, dtype) * dtype.itemsize
    array_bytes = content.encode("latin-1") if type(content) is str else content
    if (
        dtype.kind == "O"
        or type(array_bytes) not in (bytes, bytearray)
        or len(array_bytes) != needed_bytes
    ):
        raise refused(
            f"has an array whose content does not have the declared {needed_bytes:,} bytes"
        )
    return array_bytes


def _ndarray(*_: Any) -> None:
    """Refuse any call: valid pickles only pass NumPy's class on to `make_empty`."""
    raise refused("creates an array in another way than NumPy does")


def make_empty(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    """Return a new empty array, which its state fills later."""
    if subtype is not _ndarray or type(shape) is not tuple or shape != (0,):
        _ndarray()
    return np.empty(0, dtype=np.int8)


def fill(array: np.ndarray, state: Any) -> None:
    """Fill a new array in place from its state."""
    if type(state) is not tuple or len(state) != 5:
        raise refused("has an array whose format version is unknown")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, np.dtype) or dtype.kind != "O":
        content = _array_bytes(content, shape, dtype)
    elif type(content) is not list or len(content) != _elements(shape, dtype):
        raise refused("has an object array whose number of objects differs from its shape")
    # A state of version 1 in NumPy's format, made of the parts that were checked above.
    array.__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    checked_characters(array)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Return a contiguous array from the form in which protocol 5 stores it."""
    content = _array_bytes(content, shape, dtype)
    array = np.ndarray(shape, dtype, buffer=content or None, order="F" if order == "F" else "C")
    checked_characters(array)
    if axes is None:
        return array
    return array.transpose(axes)


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_buffer(content, dtype, (), "C")[()]


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that Python 3 stores as text in protocols 0 to 2."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise refused("encodes something other than Latin-1 text")
    return text.encode("latin-1")


def _bytes() -> bytes:
    """Return an empty bytes object, which Python 3 stores as a call in protocols 0 to 2."""
    return b""


# Module and name -> function, for all names that a pickle may use. Python 3 and NumPy 2 have
# renamed some modules.
CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): make_dtype,
    ("numpy.core.multiarray", "_reconstruct"): make_empty,
    ("numpy._core.multiarray", "_reconstruct"): make_empty,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "bytes"): _bytes,
}
