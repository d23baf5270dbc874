"""Values between this process and the worker: text that says what they are, and raw bytes. No pickle.

A message is the length of its text (8 bytes), the text in JSON, then the bytes of its arrays one after the other. The receiver
trusts nothing: kinds, types and sizes are compared before anything is allocated.
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
_DTYPE = re.compile(r"[<>|][biufcSU]\d{1,8}")
_MAX_AXES = 32
_LENGTH = struct.Struct("<Q")


class TransferError(Exception):
    """A value cannot be sent, or a message is malformed."""


def pack(value: Any) -> list[Any]:
    """Return a value as the parts of a message, each with the buffer protocol.

    Values: None, bool, int, float, text, bytes, NumPy's scalars, dtypes and arrays (of objects too), and lists, tuples
    and dicts of values. What occurs twice is sent once and is one object again. Nothing may contain itself. Raises
    TransferError for any other value, and for more text than a message has.
    """
    packer = _Packer()
    try:
        text = json.dumps(packer.node(value)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise TransferError(str(error)) from error
    if len(text) > _MAX_TEXT:
        raise TransferError(f"more than {_MAX_TEXT:,} bytes of text")
    return [_LENGTH.pack(len(text)), text, *packer.parts]


def unpack(max_bytes: int, fill: Callable[[memoryview], None]) -> Any:
    """Return the value of the next message, of which `fill` reads the next bytes into a buffer.

    Raises TransferError if it is malformed, or its arrays have more than `max_bytes` together.
    """
    head = bytearray(_LENGTH.size)
    fill(memoryview(head))
    (size,) = _LENGTH.unpack(head)
    if size > _MAX_TEXT:
        raise TransferError(f"declares {size:,} bytes of text")
    text = bytearray(size)
    fill(memoryview(text))
    try:
        return _Unpacker(max_bytes, fill).value(json.loads(text))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise TransferError(f"{type(error).__name__}: {error}") from error


class _Packer:
    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._seen: dict[int, tuple[int, Any]] = {}  # keeps what was seen alive, so that no other object gets its id

    def node(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            return {"scalar": value.dtype.str, "bytes": self._part(np.array(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.dtype):
            return {"dtype": value.str}
        if id(value) in self._seen:
            return {"again": self._seen[id(value)][0]}
        container = self._container(value)
        self._seen[id(value)] = len(self._seen), value
        return container

    def _container(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.node(item) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [self.node(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.node(key), self.node(item)] for key, item in value.items()]}
        if isinstance(value, (bytes, bytearray)):
            self.parts.append(value)
            return {type(value).__name__: len(value)}
        if not isinstance(value, np.ndarray):
            raise TypeError(f"a value of type {type(value).__name__} is not sent")
        if value.dtype.kind == "O":
            return {"objects": value.shape, "items": [self.node(item) for item in value.ravel()]}
        # A matrix stored by columns is sent as it is in memory, transposed.
        by_columns = not value.flags.c_contiguous and value.flags.f_contiguous
        size = self._part(value.T if by_columns else np.ascontiguousarray(value))
        return {"array": [value.dtype.str, value.shape, "F" if by_columns else "C"], "bytes": size}

    def _part(self, array: np.ndarray) -> int:
        if array.nbytes:
            self.parts.append(array.reshape(-1).view(np.uint8).data)
        return array.nbytes


class _Unpacker:
    def __init__(self, max_bytes: int, fill: Callable[[memoryview], None]) -> None:
        self._left, self._fill = max_bytes, fill
        self._held: list[Any] = []

    def value(self, node: Any) -> Any:
        if type(node) not in (list, dict):
            return node
        kind, content = ("list", node) if type(node) is list else next(iter(node.items()), ("", None))
        if kind == "again":
            if type(content) is not int or content < 0:
                raise ValueError("a container without number")
            return self._held[content]
        if kind == "dtype":
            return _dtype(content)
        if kind == "scalar":
            return self._array(content, [], "C", node["bytes"])[()]
        container = self._container(kind, content, node)
        self._held.append(container)
        return container

    def _container(self, kind: str, content: Any, node: Any) -> Any:
        if kind in ("list", "tuple"):
            return (list if kind == "list" else tuple)([self.value(item) for item in content])
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in content}
        if kind in ("bytes", "bytearray"):
            return (bytes if kind == "bytes" else bytearray)(self._buffer(content))
        if kind == "array":
            code, shape, order = content
            return self._array(code, shape, order, node["bytes"])
        if kind != "objects":
            raise ValueError("an unknown kind of value")
        array = np.empty(_shape(content, len(node["items"])), object)
        flat = array.reshape(-1)
        for i, item in enumerate(node["items"]):
            flat[i] = self.value(item)
        return array

    def _array(self, code: Any, shape: Any, order: Any, size: Any) -> np.ndarray:
        dtype = _dtype(code)
        if type(size) is not int or size % dtype.itemsize or order not in ("C", "F"):
            raise ValueError("an array of another size than declared")
        extents = _shape(shape, size // dtype.itemsize)
        return self._buffer(size).view(dtype).reshape(extents, order=order)

    def _buffer(self, size: Any) -> np.ndarray:
        if type(size) is not int or not 0 <= size <= self._left:
            raise ValueError(f"{size} bytes, and {self._left:,} are allowed")
        self._left -= size
        buffer = np.empty(size, np.uint8)
        if size:
            self._fill(buffer.data)
        return buffer


def _dtype(code: Any) -> np.dtype:
    if type(code) is not str or not _DTYPE.fullmatch(code) or np.dtype(code).itemsize == 0:
        raise ValueError("an unknown type of array")
    return np.dtype(code)


def _shape(shape: Any, count: int) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) > _MAX_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("an array without shape")
    if math.prod(shape) != count or math.prod(n for n in shape if n) >= 2**60:
        raise ValueError("an array of another size than declared")
    return tuple(shape)
