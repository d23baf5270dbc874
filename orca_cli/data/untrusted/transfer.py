"""Values between this process and an isolated one: JSON that says what they are, then their bytes, and arrays as .npy.

No pickle, and the receiver trusts nothing: an array's header is checked, and its size compared, before anything is allocated.
The arrays are no .npz, which has to be whole in memory before the first of them can be read.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from orca_cli.data.untrusted.npy_header import read_header
from orca_cli.exceptions import DataError, UnsafeError

_MAX_TEXT = 2**28
_LENGTH = struct.Struct("<Q")
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError)


class TransferError(Exception):
    """A value cannot be sent, or a message is malformed."""


def pack(value: Any) -> list[Any]:
    """Return a value as the parts of a message, each with the buffer protocol.

    Values: None, bool, int, float, text, bytes, NumPy's scalars, dtypes and arrays (of objects too), and lists, tuples
    and dicts of values; nothing may contain itself. Raises TransferError for any other value, and for more text than a
    message has.
    """
    contents: list[Any] = []
    try:
        text = json.dumps(_node(value, contents)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise TransferError(str(error)) from error
    if len(text) > _MAX_TEXT:
        raise TransferError(f"more than {_MAX_TEXT:,} bytes of text")
    return [_LENGTH.pack(len(text)), text, *contents]


def unpack(max_bytes: int, fill: Callable[[memoryview], None]) -> Any:
    """Return the value of the next message, of which `fill` reads the next bytes into a buffer.

    Raises TransferError if it is malformed, or its arrays have more than `max_bytes` together.
    """
    incoming = _Incoming(fill, max_bytes)
    (size,) = _LENGTH.unpack(incoming.read(_LENGTH.size))
    if size > _MAX_TEXT:
        raise TransferError(f"declares {size:,} bytes of text")
    try:
        return _value(json.loads(incoming.read(size)), incoming)
    except (*_MALFORMED, DataError, UnsafeError) as error:
        raise TransferError(f"{type(error).__name__}: {error}") from error


class _Incoming:
    """The rest of a message; what `read_header` needs of a file.

    Args:
        fill: as for `unpack`.
        left: bytes that contents may have.
    """

    def __init__(self, fill: Callable[[memoryview], None], left: int) -> None:
        self._fill, self._left = fill, left

    def read(self, size: int) -> bytes:
        text = bytearray(size)
        self._fill(memoryview(text))
        return bytes(text)

    def tell(self) -> int:
        return 0  # where an array begins in a message is of no use

    def content(self, size: Any) -> np.ndarray:
        if type(size) is not int or not 0 <= size <= self._left:
            raise ValueError(f"{size} bytes, and {self._left:,} are allowed")
        self._left -= size
        content = np.empty(size, np.uint8)
        if size:
            self._fill(content.data)
        return content

    def array(self) -> np.ndarray:
        header = read_header(self, "an array", "")  # type: ignore[arg-type]
        return self.content(header.bytes).view(header.dtype).reshape(header.shape, order=header.order)


def _node(value: Any, contents: list[Any]) -> Any:
    """Return a value as JSON takes it; its bytes and arrays are appended in the order in which they are met."""
    if isinstance(value, np.generic):
        contents += _npy(np.array(value))
        return {"scalar": None}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_node(item, contents) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_node(item, contents) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_node(key, contents), _node(item, contents)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        contents.append(value)
        return {type(value).__name__: len(value)}
    if isinstance(value, np.dtype):
        contents += _npy(np.empty(0, value))
        return {"dtype": None}
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a value of type {type(value).__name__} is not sent")
    if value.dtype.kind == "O":
        contents += _npy(np.zeros(value.shape, bool))  # for its shape
        return {"objects": [_node(item, contents) for item in value.ravel()]}
    contents += _npy(value)
    return {"array": None}


def _value(node: Any, incoming: _Incoming) -> Any:
    if type(node) is list:
        return [_value(item, incoming) for item in node]
    if type(node) is not dict:
        return node
    ((kind, content),) = node.items()
    if kind == "tuple":
        return tuple([_value(item, incoming) for item in content])
    if kind == "dict":
        return {_value(key, incoming): _value(item, incoming) for key, item in content}
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray)(incoming.content(content))
    array = incoming.array()
    if kind == "array":
        return array
    if kind == "dtype":
        return array.dtype
    if kind == "scalar" and array.shape == ():
        return array[()]
    if kind != "objects":
        raise ValueError("an unknown kind of value")
    objects = np.empty(len(content), object)
    for place, item in enumerate(content):
        objects[place] = _value(item, incoming)
    return objects.reshape(array.shape)


def _npy(array: np.ndarray) -> list[Any]:
    """Return the header and, unless it is empty, the content of an array; one stored by columns is sent as it is in memory."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    flat = (array if array.flags.c_contiguous else array.T).reshape(-1)
    return [header.getvalue(), *([flat.view(np.uint8).data] if array.nbytes else [])]
