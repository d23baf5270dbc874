"""MATLAB 5 files, read by our own code: the reader that everyone uses crashes the process at damaged files.

Format: "MAT-File Format", The MathWorks. A header of 128 bytes, then elements: type, length, content. A variable is an
element of type matrix, perhaps inside one of type compressed (zlib), with elements for flags, extents, name and numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Protocol

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.untrusted.memory import check_memory

_MATRIX, _COMPRESSED, _UTF8 = 14, 15, 16
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "u1", 2: "u1", 4: "u2", 16: "u1", 17: "u2", 18: "u4"}
_CELL, _CHAR = 1, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {2: "a struct", 3: "an object of a class", 5: "a sparse matrix", 16: "a function", 17: "an object of a class"}
_CHUNK = 2**20  # a multiple of all sizes of numbers
_MAX_AXES = 32
_MAX_DEPTH = 16
_MAX_CELLS = 2_000_000
_MAX_DEFLATE = 1032  # bytes that one byte of deflate can become


class _Source(Protocol):
    def read(self, size: int) -> bytes:
        """Return exactly so many bytes, or raise EOFError."""


class _Plain:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) != size:
            raise EOFError("the file is cut off")
        return found


class _Inflated:
    """The content of a compressed element, a part at a time."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left, self._zlib = file, size, zlib.decompressobj()
        self._held, self._at = b"", 0

    def read(self, size: int) -> bytes:
        if self._at + size > len(self._held):
            parts = [self._held[self._at :]]
            held = len(parts[0])
            while held < size:
                part = self._more(size - held)
                if not part:
                    raise EOFError("a compressed variable is cut off")
                parts.append(part)
                held += len(part)
            self._held, self._at = b"".join(parts), 0
        self._at += size
        return self._held[self._at - size : self._at]

    def _more(self, size: int) -> bytes:
        """Return some bytes, about `size` or 64 KiB, or none at the end."""
        part = b""
        while not part and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._left, _CHUNK))
                self._left -= len(packed)
                if not packed:
                    raise EOFError("a compressed variable is cut off")
            part = self._zlib.decompress(packed, max(size, 2**16))
        return part

    def finish(self) -> None:
        """Reach the end, where the checksum is compared; only padding is left before it."""
        self._more(2**16)
        if not self._zlib.eof:
            raise ValueError("a variable is followed by something else")


@dataclass(frozen=True)
class _Matrix:
    name: str
    kind: int
    shape: tuple[int, ...]
    is_complex: bool
    logical: bool
    left: int  # bytes of the element behind the name


def read(path: Path, names: list[str], max_bytes: int) -> dict[str, np.ndarray]:
    """Return variables of a MATLAB 5 file; errors as in `matlab.read`, ValueError and EOFError for damage."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(126)
        order = "<" if file.read(2) == b"IM" else ">"
        reader = _Reader(order, str(path), max_bytes)
        found: dict[str, np.ndarray] = {}
        held: list[str] = []
        place = 128
        while place + 8 <= size and len(found) < len(names):
            signals.check()
            file.seek(place)
            kind, length = struct.unpack(f"{order}II", file.read(8))
            if length > size - place - 8:
                raise EOFError("a variable is cut off")
            place += 8 + length
            if kind not in (_MATRIX, _COMPRESSED):
                continue
            source: _Source = _Plain(file)
            if kind == _COMPRESSED:
                source = _Inflated(file, length)
                inner, length = struct.unpack(f"{order}II", source.read(8))
                if inner != _MATRIX or length > (place - 136) * _MAX_DEFLATE:
                    raise ValueError("a compressed variable holds none")
            matrix = reader.matrix(source, length)
            held.append(matrix.name)
            if matrix.name in names and matrix.name not in found:
                found[matrix.name] = reader.value(source, matrix, 0)
                if isinstance(source, _Inflated):
                    source.finish()
    missing = [name for name in names if name not in found]
    if missing:
        shown = ", ".join(sorted(ascii(name)[1:-1] for name in held if name)[:10]) or "nothing"
        raise DataError(f"holds no array '{missing[0]}'", where=str(path), hint=f"it holds: {shown}")
    return found


class _Reader:
    def __init__(self, order: str, where: str, max_bytes: int) -> None:
        self._order, self._where, self._left, self._cells = order, where, max_bytes, 0

    def matrix(self, source: _Source, length: int) -> _Matrix:
        """Read up to the name of a variable whose element has `length` bytes."""
        flags, used = self._small(source, (6,), length)
        extents, more = self._small(source, (5,), length - used)
        name, last = self._small(source, (1,), length - used - more)
        if len(flags) != 8 or len(extents) % 4 or not 8 <= len(extents) <= 4 * _MAX_AXES:
            raise ValueError("a variable without extents")
        word = struct.unpack(f"{self._order}I", flags[:4])[0]
        shape = struct.unpack(f"{self._order}{len(extents) // 4}i", extents)
        if any(extent < 0 for extent in shape):
            raise ValueError("a variable has negative extents")
        kind = word & 0xFF
        return _Matrix(
            name.decode("latin-1"), kind, shape, bool(word & 0x0800), bool(word & 0x0200), length - used - more - last
        )

    def value(self, source: _Source, matrix: _Matrix, depth: int) -> np.ndarray:
        """Read the content of a variable."""
        count = math.prod(matrix.shape)
        if matrix.kind == _CELL:
            return self._cell(source, matrix, count, depth)
        if matrix.kind == _CHAR:
            return self._text(source, matrix, count)
        if matrix.kind not in _CLASSES:
            what = _OTHERS.get(matrix.kind, "of an unknown class")
            raise DataError(
                f"'{ascii(matrix.name)[1:-1]}' is {what}", where=self._where, hint="save it as an array or a cell array"
            )
        dtype = np.dtype(_CLASSES[matrix.kind])
        if not matrix.is_complex:
            data, _ = self._numbers(source, count, dtype, matrix.left)
        else:
            real, used = self._numbers(source, count, dtype, matrix.left)
            imaginary, _ = self._numbers(source, count, dtype, matrix.left - used)
            data = real + 1j * imaginary
        shaped = data.reshape(matrix.shape, order="F")
        return shaped.astype(bool) if matrix.logical else shaped

    def _cell(self, source: _Source, matrix: _Matrix, count: int, depth: int) -> np.ndarray:
        if depth >= _MAX_DEPTH:
            self._refuse(f"cells lie in one another more than {_MAX_DEPTH} deep")
        self._cells += count
        if count * 8 > matrix.left:
            raise ValueError("a cell array is larger than its content")
        if self._cells > _MAX_CELLS:
            self._refuse(f"has more than {_MAX_CELLS} cells")
        cells = np.empty(count, object)
        left = matrix.left
        for i in range(count):
            kind, length = struct.unpack(f"{self._order}II", source.read(8))
            left -= 8 + length
            if kind != _MATRIX or left < 0:
                raise ValueError("a cell holds no variable")
            if length == 0:
                cells[i] = np.empty((0, 0))
                continue
            inner = self.matrix(source, length)
            before = _Tally(source)
            cells[i] = self.value(before, inner, depth + 1)
            if before.done > inner.left:
                raise ValueError("a cell is larger than it says")
            source.read(inner.left - before.done)
        return cells.reshape(matrix.shape, order="F")

    def _text(self, source: _Source, matrix: _Matrix, count: int) -> np.ndarray:
        kind, length, inline, _ = self._tag(source, matrix.left)
        if kind not in _TEXT:
            raise ValueError("text of an unknown form")
        self._allow(max(length, count) * 4)
        content = inline if inline is not None else source.read(length)
        if inline is None:
            source.read(-length % 8)
        if kind == _UTF8:
            letters = list(content.decode("utf-8"))
        else:
            units = np.frombuffer(content, np.dtype(_TEXT[kind]).newbyteorder(self._order))  # type: ignore[arg-type]
            letters = [chr(unit) for unit in units.tolist()]
        if len(letters) != count:
            raise ValueError("text of another length than it says")
        return rows_of_text(np.array(letters, "U1").reshape(matrix.shape, order="F"))

    def _numbers(self, source: _Source, count: int, dtype: np.dtype, left: int) -> tuple[np.ndarray, int]:
        """Return numbers as `dtype`, and the bytes of their element."""
        kind, length, inline, used = self._tag(source, left)
        if kind not in _NUMBERS:
            raise ValueError("numbers of an unknown type")
        stored = np.dtype(_NUMBERS[kind]).newbyteorder(self._order)  # type: ignore[arg-type]
        if length != count * stored.itemsize:
            raise ValueError(f"{count * stored.itemsize:,} bytes are declared, and {length:,} are there")
        self._allow(count * dtype.itemsize)
        if inline is not None:
            return np.frombuffer(inline, stored).astype(dtype), used
        data = np.empty(count, dtype)
        done = 0
        while done < length:
            if length > _CHUNK:
                signals.check()
            part = np.frombuffer(source.read(min(_CHUNK, length - done)), stored)
            data[done // stored.itemsize :][: len(part)] = part
            done += part.nbytes
        source.read(-length % 8)
        return data, used

    def _allow(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self._refuse("the variables declare more bytes than are read")
        if size > 2**26:
            check_memory(size, self._where, hint="use a machine with more memory")

    def _tag(self, source: _Source, left: int) -> tuple[int, int, bytes | None, int]:
        """Return type, length, content if it stands in the tag, and bytes of the whole element with its padding."""
        head = source.read(8)
        first, length = struct.unpack(f"{self._order}II", head)
        if first >> 16:
            length = first >> 16
            if length > 4:
                raise ValueError("a short element is too long")
            return first & 0xFFFF, length, head[4 : 4 + length], 8
        used = 8 + length + -length % 8
        if used > left:
            raise ValueError("an element is larger than what it lies in")
        return first, length, None, used

    def _small(self, source: _Source, kinds: tuple[int, ...], left: int) -> tuple[bytes, int]:
        kind, length, inline, used = self._tag(source, min(left, 4096))
        if kind not in kinds:
            raise ValueError("a variable without flags, extents or name")
        if inline is not None:
            return inline, used
        return source.read(length + -length % 8)[:length], used

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafeError(what, where=self._where, hint="get the file from a source that you trust")


class _Tally:
    """Counts what is read."""

    def __init__(self, source: _Source) -> None:
        self._source, self.done = source, 0

    def read(self, size: int) -> bytes:
        self.done += size
        return self._source.read(size)


def rows_of_text(letters: np.ndarray) -> np.ndarray:
    """Return letters [..., n] as strings [...]; [0] of no letters."""
    if letters.size == 0:
        return np.empty(0, "U1")
    joined = np.array(["".join(row) for row in letters.reshape(-1, letters.shape[-1])])
    return joined.reshape(letters.shape[:-1])
