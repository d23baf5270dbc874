"""The instructions that data need of a pickle, and no others; names stand for functions of `numpy_objects` alone.

Bounds end what a small file could make large: instructions, containers, copies, integers, keys.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable
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
_MAX_INTEGER = 8192  # bits
_MAX_KEY = 2**16  # letters of a key of a dict: equal ones are compared at every use
_MAX_KEY_PARTS = 32

PLAIN = (str, bytes, int, float, bool, type(None), np.generic)


def run(stream: IO[bytes], limit: int, where: str, compressed: bool) -> Any:
    """Return what a pickle makes, which may contain itself; damage raises whatever Python and NumPy raise for it."""
    return _Machine(stream, limit, where, compressed).run()


class _Machine:
    """The instructions of a pickle, one method each; also the stream from which `pickletools` reads their arguments."""

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
            opcode = pickletools.code2op.get(chr(self.read(1)[0]))  # type: ignore[attr-defined]
            if opcode is None:
                raise DataError("is not a pickle, or is damaged", hint="get the file again")
            if opcode.name == "STOP":
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("values are left")
                return self._stack[0]
            containers += opcode.name in _MAKES_CONTAINER
            if containers > _MAX_CONTAINERS:
                raise UnsafeError(f"the pickle makes more than {_MAX_CONTAINERS:,} containers")
            if opcode.name == "STRING":  # `pickletools` takes ASCII alone
                self.push(_quoted(self.readline()[:-1]))
            elif opcode.name in _VALUES:
                self.push(_value(opcode.arg.reader(self)))
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, opcode.arg.reader(self) if opcode.arg else None)
            else:
                raise UnsafeError(f"the pickle uses {opcode.name}, which data files need not")
        raise UnsafeError("the pickle has too many instructions")

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise UnsafeError(f"the pickle unpacks to more than {self._limit} bytes") if self._compressed else EOFError
        if size > _LARGE:
            check_memory(size, self._where, hint="use a machine with more memory")
        self._left -= size
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError
        return content

    def readline(self) -> bytes:
        line = self._stream.readline(self._left)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError
        return line

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


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _value(value: Any) -> Any:
    """Return a number, a text or bytes as an instruction holds it; NumPy keeps arrays in a bytearray."""
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER:
        raise ValueError("a number of too many digits")
    return bytes(value) if isinstance(value, bytearray) else value


def _dict_of(machine: _Machine) -> None:
    items = machine._items()
    machine.push({})
    machine.set_items(items)


_MAKES_CONTAINER = frozenset(("MARK", "EMPTY_LIST", "EMPTY_DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
# Instructions whose argument is a value.
_VALUES = frozenset(
    (
        *("INT", "LONG", "FLOAT", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "LONG4"),
        *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    )
)
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.append([m._stack.pop()]),
    "APPENDS": lambda m, _: m.append(m._items()),
    "LIST": lambda m, _: m.push(m._items()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m._last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m._last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m._last(3))),
    "TUPLE": lambda m, _: m.push(tuple(m._items())),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: _dict_of(m),
    "SETITEM": lambda m, _: m.set_items(m._last(2)),
    "SETITEMS": lambda m, _: m.set_items(m._items()),
    "MEMOIZE": lambda m, _: m.put(len(m._memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.put(index)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m._memo[index])),
    "GLOBAL": lambda m, name: m.named(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.named(*m._last(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
