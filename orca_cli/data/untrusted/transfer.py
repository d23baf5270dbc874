"""Values between this process and an isolated one: JSON that says what they are, then the bytes of texts and arrays.

No pickle, and the receiver trusts nothing: types and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_MAX_TEXT = 2**28
_LENGTH = struct.Struct("<Q")
_DTYPE = re.compile(r"[<>|][biufcSU][1-9]\d*")
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError)


class TransferError(Exception):
    """A value cannot be sent, or a message is malformed."""


def pack(value: Any) -> list[Any]:
    """Return a value as the parts of a message, each with the buffer protocol.

    Values: None, bool, int, float, text, bytes, NumPy's scalars and arrays (of objects too), and lists, tuples and dicts of
    values; nothing may contain itself. Raises TransferError for any other value, and for more text than a message has.
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
    left = max_bytes

    def read(size: int) -> np.ndarray:
        nonlocal left
        if type(size) is not int or not 0 <= size <= left:
            raise ValueError(f"{size} bytes, and {left:,} are allowed")
        left -= size
        content = np.empty(size, np.uint8)
        if size:
            fill(content.data)
        return content

    length = bytearray(_LENGTH.size)
    fill(memoryview(length))
    (size,) = _LENGTH.unpack(length)
    if size > _MAX_TEXT:
        raise TransferError(f"declares {size:,} bytes of text")
    text = bytearray(size)
    fill(memoryview(text))
    try:
        return _value(json.loads(text), read)
    except _MALFORMED as error:
        raise TransferError(f"{type(error).__name__}: {error}") from error


def _node(value: Any, contents: list[Any]) -> Any:
    """Return a value as JSON takes it; its bytes and arrays are appended in the order in which they are met."""
    if isinstance(value, np.generic):
        return {"scalar": _node(np.array(value), contents)["array"]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_node(item, contents) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_node(item, contents) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_node(key, contents), _node(item, contents)] for key, item in value.items()]}
    if isinstance(value, bytes):
        contents.append(value)
        return {"bytes": len(value)}
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufcSUO":
        raise TypeError(f"a value of type {type(value).__name__} is not sent")
    if value.dtype.kind == "O":
        return {"objects": [list(value.shape), [_node(item, contents) for item in value.ravel()]]}
    # One that is stored by columns is sent as it is in memory.
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if value.size:
        contents.append(np.ascontiguousarray(value.T if order == "F" else value).reshape(-1).view(np.uint8).data)
    return {"array": [value.dtype.str, list(value.shape), order]}


def _value(node: Any, read: Callable[[int], np.ndarray]) -> Any:
    if type(node) is list:
        return [_value(item, read) for item in node]
    if type(node) is not dict:
        return node
    ((kind, content),) = node.items()
    if kind == "tuple":
        return tuple([_value(item, read) for item in content])
    if kind == "dict":
        return {_value(key, read): _value(item, read) for key, item in content}
    if kind == "bytes":
        return read(content).tobytes()
    if kind == "objects":
        shape, items = content
        objects = np.empty(len(items), object)
        for place, item in enumerate(items):
            objects[place] = _value(item, read)
        return objects.reshape(shape)
    if kind not in ("array", "scalar"):
        raise ValueError("an unknown kind of value")
    dtype, shape, order = content
    if not _DTYPE.fullmatch(dtype):
        raise ValueError("an unknown type of array")
    array = read(math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape, order=order)
    return array[()] if kind == "scalar" else array
