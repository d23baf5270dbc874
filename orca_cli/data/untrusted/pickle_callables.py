"""All that a pickle of unknown origin may name, in place of NumPy's own functions.

Every function checks its arguments, which the pickle chooses.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from orca_cli.data.untrusted.memory import checked_characters, is_shape
from orca_cli.exceptions import UnsafeError

# A kind (truths, integers, floats, complex numbers, bytes, texts or objects) and a size.
_DTYPE = re.compile(r"[biufcSUO]\d{1,7}")


def refused(predicate: str) -> UnsafeError:
    """Return the error for a pickle; the predicate says what it does, such as "asks for x"."""
    return UnsafeError(f"the pickle {predicate}")


def make_dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """Return a fresh dtype, whose byte order its state sets."""
    if type(code) is not str or not _DTYPE.fullmatch(code):
        shown = ascii(code)[:60]
        raise refused(f"asks for the dtype {shown}; numbers, strings and objects are allowed")
    # A copy, since its byte order is set later.
    dtype = np.dtype(code, False, True)
    if dtype.itemsize == 0:
        raise refused("asks for a dtype of no bytes")
    return dtype


def set_byte_order(dtype: np.dtype, state: Any) -> None:
    """Give a fresh dtype the byte order in `state`, and nothing else.

    A state that describes another dtype is refused.
    """
    if type(state) is not tuple or len(state) not in (8, 9):
        raise refused("has a dtype of an unknown version")
    byte_order, subtype, names, fields, itemsize = state[1:6]
    is_plain = subtype is None and names is None and fields is None
    if not is_plain or type(byte_order) is not str or byte_order not in ("<", ">", "|", "="):
        raise refused("has a dtype with fields, or one that is not NumPy's")
    if type(itemsize) is not int or itemsize not in (-1, dtype.itemsize):
        raise refused("has a dtype of another size than it says")
    # NumPy's own state of this dtype; only its byte order is replaced.
    fresh_state = list(dtype.__reduce__()[2])
    # "|" says that a byte order does not apply, as to single bytes.
    if fresh_state[1] != "|" and byte_order != "|":
        fresh_state[1] = byte_order
    dtype.__setstate__(tuple(fresh_state))  # type: ignore[attr-defined]


def _elements(shape: Any, dtype: Any) -> int:
    """Return the number of elements of an array."""
    if not (is_shape(shape) and isinstance(dtype, np.dtype)):
        raise refused("has an array without shape or dtype")
    # NumPy ignores empty axes when it checks that an array is not too large.
    if math.prod(extent for extent in shape if extent) * dtype.itemsize >= 2**63:
        raise refused("has an array larger than any memory")
    return math.prod(shape)


def _array_bytes(content: Any, shape: Any, dtype: Any) -> bytes | bytearray:
    """Return the content of an array of numbers or strings.

    Python 2 stored it as a text, which is decoded as Latin-1.
    """
    needed_bytes = _elements(shape, dtype) * dtype.itemsize
    array_bytes = content.encode("latin-1") if type(content) is str else content
    if (
        dtype.kind == "O"
        or type(array_bytes) not in (bytes, bytearray)
        or len(array_bytes) != needed_bytes
    ):
        raise refused(f"has an array of {needed_bytes:,} bytes, and not these as its content")
    return array_bytes


def _ndarray(*_: Any) -> None:
    """Refuse to be called: pickles only pass NumPy's class on to `make_empty`."""
    raise refused("makes an array otherwise than empty, to be filled by its state")


def make_empty(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    """Return a fresh array, which its state fills."""
    if subtype is not _ndarray or type(shape) is not tuple or shape != (0,):
        _ndarray()
    return np.empty(0, dtype=np.int8)


def fill(array: np.ndarray, state: Any) -> None:
    """Fill a fresh array in place."""
    if type(state) is not tuple or len(state) != 5:
        raise refused("has an array of an unknown version")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, np.dtype) or dtype.kind != "O":
        content = _array_bytes(content, shape, dtype)
    elif type(content) is not list or len(content) != _elements(shape, dtype):
        raise refused("has an array of objects that are not all there")
    # Version 1 of NumPy's form, of parts that were checked above.
    array.__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    checked_characters(array)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Return a contiguous array as protocol 5 stores it."""
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
        raise refused("encodes something other than bytes")
    return text.encode("latin-1")


def _bytes() -> bytes:
    """Return no bytes, as Python 3 calls `bytes` in protocols 0 to 2 for an empty value."""
    return b""


# All that a pickle may name: module and name. Python 3 and NumPy 2 have renamed modules.
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
