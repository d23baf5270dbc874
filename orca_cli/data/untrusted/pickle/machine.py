"""The instructions that data need of a pickle, and no others; names stand for functions of `numpy_objects` alone.

Bounds end what a small file could make large: instructions, containers, copies, integers, keys.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from functools import partial
from typing import IO, Any

import numpy as np

from orca_cli.data.untrusted.memory import check_memory
from orca_cli.data.untrusted.pickle.numpy_objects import NAMES, Named, set_array, set_dtype
from orca_cli.exceptions import DataError, UnsafeError

_MAX_OPCODES = 4_000_000
_MAX_CONTAINERS = 1_000_000
_LARGE = 2**26  # bytes of one value above which the free memory is checked
_MAX_COPIES = 4  # bytes that are made out of each byte of the file
_MAX_MADE = 2**20  # bytes that are made in any case
_MAX_INTEGER = 1024  # bytes
_MAX_KEY = 2**16  # letters of a key of a dict: equal ones are compared at every use
_MAX_KEY_PARTS = 32

PLAIN = (str, bytes, int, float, bool, type(None), np.generic)


def run(stream: IO[bytes], limit: int, where: str, compressed: bool) -> Any:
    """Return what a pickle makes, which may contain itself; damage raises whatever Python and NumPy raise for it."""
    return _Machine(stream, limit, where, compressed).run()


class _Machine:
    """The instructions of a pickle, one method each."""

    def __init__(self, stream: IO[bytes], limit: int, where: str, compressed: bool) -> None:
        self._stream, self._left, self._limit, self._where = stream, limit, limit, where
        self._compressed, self._made = compressed, 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._fresh: dict[int, Any] = {}  # arrays and dtypes that were made and not yet filled

    def run(self) -> Any:
        containers = 0
        for _ in range(_MAX_OPCODES):
            code = self.take(1)[0]
            containers += code in _MAKES_CONTAINER
            if containers > _MAX_CONTAINERS:
                raise UnsafeError(f"the pickle makes more than {_MAX_CONTAINERS:,} containers")
            if code == 0x2E:  # STOP
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("values are left")
                return self._stack[0]
            if code not in _ACTIONS:
                opcode = pickletools.code2op.get(chr(code))  # type: ignore[attr-defined]
                if opcode is None:
                    raise DataError("is not a pickle, or is damaged", hint="get the file again")
                raise UnsafeError(f"the pickle uses {opcode.name}, which data files need not")
            _ACTIONS[code](self)
        raise UnsafeError("the pickle has too many instructions")

    def take(self, size: int) -> bytes:
        if size > self._left:
            raise UnsafeError(f"the pickle unpacks to more than {self._limit} bytes") if self._compressed else EOFError
        if size > _LARGE:
            check_memory(size, self._where, hint="use a machine with more memory")
        self._left -= size
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError
        return content

    def _line(self) -> bytes:
        line = self._stream.readline(self._left)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError
        return line[:-1]

    def _number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def _items(self) -> list[Any]:
        """Return what is above the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _last(self, count: int) -> list[Any]:
        """Return the last values of the stack."""
        values = self._stack[-count:]
        if len(values) != count:
            raise IndexError
        del self._stack[-count:]
        return values

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def data(self, form: str, convert: Callable[[bytes], Any]) -> None:
        size = self._number(form)
        if size < 0:
            raise ValueError(size)
        self.push(convert(self.take(size)))

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise UnsafeError("the pickle appends to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise UnsafeError("the pickle sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples of tuples that are shared hash in exponential time.
            parts = key if type(key) is tuple else (key,)
            if len(parts) > _MAX_KEY_PARTS or not all(map(_is_plain_key, parts)):
                raise UnsafeError("the pickle has a dict with a key that is no short text and no number below 64 bits")
            target[key] = value

    def put(self, index: int) -> None:
        if not 0 <= index <= self._limit - self._left:
            raise UnsafeError("the pickle names a memo entry beyond its size")
        self._memo[index] = self._stack[-1]

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in NAMES:
            requested = f"{module}.{name}" if type(module) is type(name) is str else "something without name"
            shown = "".join(letter if letter.isprintable() else "?" for letter in requested[:200])
            raise UnsafeError(f"the pickle asks for {shown}")
        self.push(NAMES[module, name])

    def reduce(self) -> None:
        called, arguments = self._last(2)
        if not isinstance(called, Named) or called.function is None or type(arguments) is not tuple:
            raise UnsafeError("the pickle calls something that is not a function")
        made = called.function(*arguments)
        self._count_made(made)
        if isinstance(made, (np.ndarray, np.dtype)) and not called.name.endswith("_frombuffer"):
            self._fresh[id(made)] = made
        self.push(made)

    def _count_made(self, value: Any) -> None:
        """Refuse files that make the same content again and again."""
        self._made += value.nbytes if isinstance(value, (np.ndarray, np.generic)) else len(value) if value else 0
        if self._made > max(_MAX_MADE, _MAX_COPIES * (self._limit - self._left)):
            raise UnsafeError("the pickle makes more than its size can hold")

    def build(self) -> None:
        state = self._stack.pop()
        target = self._fresh.pop(id(self._stack[-1]), None)
        if isinstance(target, np.ndarray):
            set_array(target, state)
            self._count_made(target)
        elif isinstance(target, np.dtype):
            set_dtype(target, state)
        else:
            raise UnsafeError("the pickle sets the state of something that is not a new array")


def _is_plain_key(part: Any) -> bool:
    if isinstance(part, (str, bytes)):
        return len(part) <= _MAX_KEY
    return isinstance(part, PLAIN) and not (isinstance(part, int) and abs(part) >= 2**63)  # which can all have one hash


_latin = partial(str, encoding="latin-1")
_utf8 = partial(str, encoding="utf-8", errors="surrogatepass")


def _integer(content: bytes) -> int:
    if len(content) > _MAX_INTEGER:
        raise ValueError("a number of too many digits")
    return int.from_bytes(content, "little", signed=True)


def _integer_line(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return _latin(codecs.escape_decode(line[1:-1])[0])


def _dict_of(machine: _Machine) -> None:
    items = machine._items()
    machine.push({})
    machine.set_items(items)


_MAKES_CONTAINER = frozenset(b"(]}lt\x85\x86\x87")
_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    ord(letter): action
    for letter, action in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "(": _Machine.mark,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.push(_integer_line(m._line())),
        "L": lambda m: m.push(_integer_line(m._line())),
        "F": lambda m: m.push(float(m._line())),
        "J": lambda m: m.push(m._number("<i")),
        "K": lambda m: m.push(m._number("<B")),
        "M": lambda m: m.push(m._number("<H")),
        "G": lambda m: m.push(m._number(">d")),
        "\x8a": lambda m: m.data("<B", _integer),  # LONG1
        "\x8b": lambda m: m.data("<i", _integer),  # LONG4
        "S": lambda m: m.push(_quoted(m._line())),
        "T": lambda m: m.data("<i", _latin),  # BINSTRING
        "U": lambda m: m.data("<B", _latin),  # SHORT_BINSTRING
        "B": lambda m: m.data("<I", bytes),  # BINBYTES
        "C": lambda m: m.data("<B", bytes),  # SHORT_BINBYTES
        "\x8e": lambda m: m.data("<Q", bytes),  # BINBYTES8
        "\x96": lambda m: m.data("<Q", bytes),  # BYTEARRAY8, in which NumPy keeps arrays
        "V": lambda m: m.push(str(m._line(), "raw-unicode-escape")),  # UNICODE
        "X": lambda m: m.data("<I", _utf8),  # BINUNICODE
        "\x8c": lambda m: m.data("<B", _utf8),  # SHORT_BINUNICODE
        "\x8d": lambda m: m.data("<Q", _utf8),  # BINUNICODE8
        "]": lambda m: m.push([]),
        "a": lambda m: m.append([m._stack.pop()]),
        "e": lambda m: m.append(m._items()),
        "l": lambda m: m.push(m._items()),
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.push(tuple(m._last(1))),
        "\x86": lambda m: m.push(tuple(m._last(2))),
        "\x87": lambda m: m.push(tuple(m._last(3))),
        "t": lambda m: m.push(tuple(m._items())),
        "}": lambda m: m.push({}),
        "d": _dict_of,
        "s": lambda m: m.set_items(m._last(2)),
        "u": lambda m: m.set_items(m._items()),
        "p": lambda m: m.put(int(m._line())),
        "q": lambda m: m.put(m._number("<B")),
        "r": lambda m: m.put(m._number("<I")),
        "\x94": lambda m: m.put(len(m._memo)),  # MEMOIZE
        "g": lambda m: m.push(m._memo[int(m._line())]),
        "h": lambda m: m.push(m._memo[m._number("<B")]),
        "j": lambda m: m.push(m._memo[m._number("<I")]),
        "c": lambda m: m.named(_utf8(m._line()), _utf8(m._line())),
        "\x93": lambda m: m.named(*m._last(2)),  # STACK_GLOBAL
        "R": _Machine.reduce,
        "b": _Machine.build,
    }.items()
}
