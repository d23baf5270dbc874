"""What NumPy writes into pickles, rebuilt from checked arguments: dtypes, arrays, scalars.

No function trusts what the pickle gives: sizes are compared before anything is allocated, a dtype's flags are NumPy's own and
never the file's, and only the byte order is taken over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.data.untrusted.memory import checked_characters
from orca_cli.exceptions import UnsafeError

_DTYPE = re.compile(r"[biufcSUO]\d{1,7}")
_MAX_AXES = 32


@dataclass(frozen=True, eq=False, slots=True)
class Named:
    """What a pickle may name. Only the reader can call it, and only if it has a function."""

    name: str
    function: Callable[..., Any] | None = None


def _refuse(what: str) -> UnsafeError:
    return UnsafeError(f"the pickle {what}")


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if type(code) is not str or not _DTYPE.fullmatch(code):
        raise _refuse(f"asks for the dtype {ascii(code)[:60]}; numbers, strings and objects are allowed")
    dtype = np.dtype(code, False, True)  # a copy, since its order of bytes is set later
    if dtype.itemsize == 0:
        raise _refuse("asks for a dtype of no bytes")
    return dtype


def set_dtype(dtype: np.dtype, state: Any) -> None:
    """Give a fresh dtype the byte order in `state`, and nothing else of it; states that describe another dtype are refused."""
    if type(state) is not tuple or len(state) not in (8, 9):
        raise _refuse("has a dtype of an unknown version")
    order, subtype, names, fields, itemsize = state[1:6]
    is_plain = subtype is None and names is None and fields is None
    if not is_plain or type(order) is not str or order not in ("<", ">", "|", "="):
        raise _refuse("has a dtype with fields, or one that is not NumPy's")
    if type(itemsize) is not int or itemsize not in (-1, dtype.itemsize):
        raise _refuse("has a dtype of another size than it says")
    fresh_state = list(dtype.__reduce__()[2])
    if fresh_state[1] != "|" and order != "|":
        fresh_state[1] = order
    dtype.__setstate__(tuple(fresh_state))  # type: ignore[attr-defined]


def _shape(shape: Any, dtype: Any) -> int:
    """Return the number of elements."""
    is_shape = type(shape) is tuple and len(shape) <= _MAX_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not (is_shape and isinstance(dtype, np.dtype)):
        raise _refuse("has an array without shape or dtype")
    # NumPy ignores empty axes when it checks that an array is not too large.
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        raise _refuse("has an array larger than any memory")
    return math.prod(shape)


def _empty(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    if subtype is not NDARRAY or type(shape) is not tuple or shape != (0,):
        raise _refuse("makes an array otherwise than empty, to be filled by its state")
    return np.empty(0, dtype=np.int8)


def set_array(array: np.ndarray, state: Any) -> None:
    """Fill a fresh array in place."""
    if type(state) is not tuple or len(state) != 5:
        raise _refuse("has an array of an unknown version")
    _, shape, dtype, fortran, content = state
    count = _shape(shape, dtype)
    if dtype.kind != "O":
        content = _raw(content)
        if len(content) != count * dtype.itemsize:
            raise _refuse(f"has an array of {count * dtype.itemsize:,} bytes, and {len(content):,} are there")
    elif type(content) is not list or len(content) != count:
        raise _refuse("has an array of objects that are not all there")
    array.__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    checked_characters(array)


def _raw(content: Any) -> bytes:
    if type(content) is str:  # Python 2, decoded as Latin-1
        return content.encode("latin-1")
    if type(content) is not bytes:
        raise _refuse("has an array without content")
    return content


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Return what protocol 5 stores of a contiguous array."""
    count = _shape(shape, dtype)
    if dtype.kind == "O" or type(content) is not bytes or len(content) != count * dtype.itemsize:
        raise _refuse("has an array whose content does not fit its shape")
    array = np.ndarray(shape, dtype, buffer=content if count else None, order="F" if order == "F" else "C")
    checked_characters(array)
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind == "O":
        raise _refuse("has a scalar that is neither a number nor a string")
    raw = _raw(content)
    if len(raw) != dtype.itemsize:
        raise _refuse("has a scalar of another size than it declares")
    return checked_characters(np.frombuffer(raw, dtype))[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that Python 3 stores as text in protocols 0 to 2."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise _refuse("encodes something other than bytes")
    return text.encode("latin-1")


# All that a pickle may name, exactly. The second spelling of a module is NumPy 2's.
NDARRAY = Named("numpy.ndarray")
NAMES: dict[tuple[str, str], Named] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Named("numpy.dtype", _dtype),
    ("_codecs", "encode"): Named("_codecs.encode", _encode),
}
for _builtins in ("__builtin__", "builtins"):
    NAMES[_builtins, "bytes"] = Named("bytes", lambda: b"")
for _core in ("numpy.core", "numpy._core"):
    NAMES[f"{_core}.multiarray", "_reconstruct"] = Named("numpy.core.multiarray._reconstruct", _empty)
    NAMES[f"{_core}.multiarray", "scalar"] = Named("numpy.core.multiarray.scalar", _scalar)
    NAMES[f"{_core}.numeric", "_frombuffer"] = Named("numpy.core.numeric._frombuffer", _from_buffer)
