"""A machine for pickles of unknown origin that can do nothing but make data.

A pickle is a program. Python's own machine imports what the program names and calls it. This one
cannot: it knows the instructions that data need (numbers, strings, containers, NumPy's arrays and
scalars) and an exact list of names, which stand for functions of this file. Every other instruction
or name ends the reading, and so do bounds on all that a small file could make large: instructions,
containers, copies, integers, keys. No function trusts the pickle: sizes are compared before
anything is allocated, a dtype's flags are NumPy's own and never the file's, and only the byte order
is taken over.
"""

import codecs
import math
import pickletools
import re
import struct
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import IO, Any

import numpy as np

from orca_cli.data.untrusted.memory import check_memory, checked_characters
from orca_cli.exceptions import DataError, UnsafeError

_MAX_OPCODES = 4_000_000
_MAX_CONTAINERS = 1_000_000
# Of the result, counted as often as they are met.
_MAX_VALUES = 20_000_000
_MAX_DEPTH = 100
# Bytes of one value above which the free memory is checked.
_LARGE = 2**26
# Bytes that are made out of each byte of the file, and bytes that are made in any case.
_MAX_COPIES = 4
_MAX_MADE = 2**20
# Bits.
_MAX_INTEGER = 8192
# Letters of a key of a dict: equal ones are compared at every use.
_MAX_KEY = 2**16
_MAX_KEY_PARTS = 32
_MAX_AXES = 32
_DTYPE = re.compile(r"[biufcSUO]\d{1,7}")
_PLAIN = (str, bytes, int, float, bool, type(None), np.generic)
# A damaged pickle can break the machine at any place, and NumPy reports it in many ways.
_FAILURES = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, ValueError)
_DAMAGE = (*_FAILURES, struct.error, zlib.error)
_HINT = "nothing was run; get the data from a source that you trust, or as .npz"


def read(stream: IO[bytes], where: str, limit: int, compressed: bool = False) -> Any:
    """Return the object of the pickle at a buffered stream's position, which moves past it.

    Args:
        stream: of the pickle.
        where: names it in messages.
        limit: bytes that it may have.
        compressed: whether the stream may have more bytes than its file.

    Raises:
        UnsafeError, DataError, MemoryExhaustedError: as `unpickle`.
    """
    try:
        value = _Machine(stream, limit, where, compressed).run()
        _check_result(value, finished={}, above=set())
        # At the end of a compressed stream its checksum is compared.
        if compressed:
            stream.read(1)
    except (UnsafeError, DataError) as error:
        raise type(error)(error.what, where=where, hint=error.hint or _HINT) from error
    except EOFError as error:
        raise DataError("is cut off", where=where, hint="get the file again") from error
    except _DAMAGE as error:
        message = f"is a damaged pickle ({type(error).__name__})"
        raise DataError(message, where=where, hint="get the file again") from error
    return value


def _refused(what: str) -> UnsafeError:
    return UnsafeError(f"the pickle {what}")


class _Machine:
    """The stack of a pickle, and its instructions as methods.

    It is also the stream from which `pickletools` reads their arguments. Arguments: as `read`.
    """

    def __init__(self, stream: IO[bytes], limit: int, where: str, compressed: bool) -> None:
        self._stream = stream
        self._limit = limit
        # Bytes that may still be read.
        self._left = limit
        self._where = where
        self._compressed = compressed
        # Bytes, or entries, that calls have made.
        self._made = 0
        self._stack: list[Any] = []
        # Stacks below the marks.
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        # By id, arrays and dtypes that were made and not yet filled.
        self._fresh: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the pickle's value, which may contain itself.

        Raises:
            UnsafeError: an instruction or a name is not allowed, or a bound is reached.
            DataError: it is not a pickle.
            Exception: it is damaged, and Python or NumPy says so (`_DAMAGE`).
        """
        containers = 0
        for _ in range(_MAX_OPCODES):
            opcode = pickletools.code2op.get(chr(self.read(1)[0]))  # type: ignore[attr-defined]
            if opcode is None:
                raise DataError("is not a pickle, or is damaged", hint="get the file again")
            if opcode.name == "STOP":
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("values are left")
                return self._stack[0]
            if opcode.name in _MAKES_CONTAINER:
                containers += 1
            if containers > _MAX_CONTAINERS:
                raise _refused(f"makes more than {_MAX_CONTAINERS:,} containers")
            if opcode.name not in _ACTIONS:
                raise _refused(f"uses {opcode.name}, which data files need not")
            argument = None
            if opcode.arg:
                read_argument = _READERS.get(opcode.name, opcode.arg.reader)
                argument = read_argument(self)
            _ACTIONS[opcode.name](self, argument)
        raise _refused("has too many instructions")

    def _take(self, size: int) -> None:
        if size > self._left and self._compressed:
            raise _refused(f"unpacks to more than {self._limit} bytes")
        if size > self._left:
            raise EOFError
        if size > _LARGE:
            check_memory(size, self._where, hint="use a machine with more memory")
        self._left -= size

    def read(self, size: int) -> bytes:
        self._take(size)
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

    def quoted(self) -> str:
        """Return the argument of STRING, of which `pickletools` takes ASCII alone."""
        line = self.readline()[:-1]
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin-1")

    def content(self) -> bytearray:
        """Return the argument of BYTEARRAY8, an array's content, which `pickletools` would copy."""
        (size,) = struct.unpack("<Q", self.read(8))
        self._take(size)
        content = bytearray(size)
        if self._stream.readinto(content) != size:  # type: ignore[attr-defined]
            raise EOFError
        return content

    def items(self) -> list[Any]:
        """Take the values above the last mark off the stack."""
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """Take the last values off the stack."""
        items = self._stack[-count:]
        if len(items) != count:
            raise IndexError
        del self._stack[-count:]
        return items

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > _MAX_INTEGER:
            raise ValueError("a number of too many digits")
        self._stack.append(value)

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _refused("appends to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise _refused("sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples of tuples that are shared hash in exponential time.
            parts = key if type(key) is tuple else (key,)
            if len(parts) > _MAX_KEY_PARTS or not all(map(_is_plain_key, parts)):
                message = "has a dict with a key that is no short text and no number below 64 bits"
                raise _refused(message)
            target[key] = value

    def make_dict(self) -> None:
        items = self.items()
        self.push({})
        self.set_items(items)

    def put(self, index: int) -> None:
        if not 0 <= index <= self._limit - self._left:
            raise _refused("names a memo entry beyond its size")
        self._memo[index] = self._stack[-1]

    def named(self, module: Any, name: Any) -> None:
        is_text = type(module) is str and type(name) is str
        if not is_text:
            raise _refused("asks for something without name")
        if (module, name) not in _NAMES:
            requested = f"{module}.{name}"[:200]
            shown = [letter if letter.isprintable() else "?" for letter in requested]
            raise _refused(f"asks for {''.join(shown)}")
        self.push(_NAMES[module, name])

    def reduce(self) -> None:
        function, arguments = self.last(2)
        if type(function) is not FunctionType or type(arguments) is not tuple:
            raise _refused("calls something that is not a function")
        made = function(*arguments)
        self._count_made(made)
        if function in (_empty, _dtype):
            self._fresh[id(made)] = made
        self.push(made)

    def _count_made(self, made: Any) -> None:
        """Refuse files that make the same content again and again."""
        if isinstance(made, (np.ndarray, np.generic)):
            self._made += made.nbytes
        elif made:
            self._made += len(made)
        if self._made > max(_MAX_MADE, _MAX_COPIES * (self._limit - self._left)):
            raise _refused("makes more than its size can hold")

    def build(self) -> None:
        state = self._stack.pop()
        target = self._fresh.pop(id(self._stack[-1]), None)
        if isinstance(target, np.ndarray):
            _set_array(target, state)
            self._count_made(target)
        elif isinstance(target, np.dtype):
            _set_dtype(target, state)
        else:
            raise _refused("sets the state of something that is not a new array")


def _is_plain_key(part: Any) -> bool:
    if isinstance(part, (str, bytes)):
        return len(part) <= _MAX_KEY
    # Longer numbers can all have the same hash.
    is_long = isinstance(part, int) and abs(part) >= 2**63
    return isinstance(part, _PLAIN) and not is_long


def _check_result(
    value: Any, *, finished: dict[int, tuple[int, int]], above: set[int]
) -> tuple[int, int]:
    """Refuse values that nobody could traverse.

    They contain themselves, or are huge since they share their parts.

    Args:
        value: of a pickle.
        finished: by id, size and depth of values that were traversed.
        above: ids of the values that contain this one.

    Returns:
        Its size and its depth.
    """
    if id(value) in finished:
        return finished[id(value)]
    endless = _refused("holds containers in one another without end")
    if id(value) in above or len(above) > _MAX_DEPTH:
        raise endless
    items: Any = ()
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            items = value.ravel()
    elif type(value) is dict:
        # Keys are plain.
        items = value.values()
    elif type(value) in (list, tuple):
        items = value
    elif not isinstance(value, _PLAIN):
        raise _refused(f"leaves a {type(value).__name__} as a value")
    size = 1 + len(items)
    depth = 1
    above.add(id(value))
    for item in items:
        if isinstance(item, _PLAIN):
            continue
        item_size, item_depth = _check_result(item, finished=finished, above=above)
        size += item_size
        depth = max(depth, item_depth + 1)
        if size > _MAX_VALUES or depth > _MAX_DEPTH:
            raise endless
    above.discard(id(value))
    finished[id(value)] = (size, depth)
    return size, depth


# Functions that NumPy names in pickles, rebuilt with checked arguments.


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if type(code) is not str or not _DTYPE.fullmatch(code):
        shown = ascii(code)[:60]
        raise _refused(f"asks for the dtype {shown}; numbers, strings and objects are allowed")
    # A copy, since its order of bytes is set later.
    dtype = np.dtype(code, False, True)
    if dtype.itemsize == 0:
        raise _refused("asks for a dtype of no bytes")
    return dtype


def _set_dtype(dtype: np.dtype, state: Any) -> None:
    """Give a fresh dtype the byte order in `state`, and nothing else of it.

    States that describe another dtype are refused.
    """
    if type(state) is not tuple or len(state) not in (8, 9):
        raise _refused("has a dtype of an unknown version")
    order, subtype, names, fields, itemsize = state[1:6]
    is_plain = subtype is None and names is None and fields is None
    if not is_plain or type(order) is not str or order not in ("<", ">", "|", "="):
        raise _refused("has a dtype with fields, or one that is not NumPy's")
    if type(itemsize) is not int or itemsize not in (-1, dtype.itemsize):
        raise _refused("has a dtype of another size than it says")
    fresh_state = list(dtype.__reduce__()[2])
    if fresh_state[1] != "|" and order != "|":
        fresh_state[1] = order
    dtype.__setstate__(tuple(fresh_state))  # type: ignore[attr-defined]


def _elements(shape: Any, dtype: Any) -> int:
    """Return the number of elements of an array."""
    is_shape = (
        type(shape) is tuple
        and len(shape) <= _MAX_AXES
        and all(type(extent) is int and extent >= 0 for extent in shape)
    )
    if not (is_shape and isinstance(dtype, np.dtype)):
        raise _refused("has an array without shape or dtype")
    # NumPy ignores empty axes when it checks that an array is not too large.
    if math.prod(extent for extent in shape if extent) * dtype.itemsize >= 2**63:
        raise _refused("has an array larger than any memory")
    return math.prod(shape)


def _raw(content: Any, shape: Any, dtype: Any) -> bytes | bytearray:
    """Return the content of an array of numbers or strings.

    Python 2's is a text, decoded as Latin-1.
    """
    needed = _elements(shape, dtype) * dtype.itemsize
    raw = content.encode("latin-1") if type(content) is str else content
    if dtype.kind == "O" or type(raw) not in (bytes, bytearray) or len(raw) != needed:
        raise _refused(f"has an array of {needed:,} bytes, and not these as its content")
    return raw


def _ndarray(*_: Any) -> None:
    raise _refused("makes an array otherwise than empty, to be filled by its state")


def _empty(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    if subtype is not _ndarray or type(shape) is not tuple or shape != (0,):
        _ndarray()
    return np.empty(0, dtype=np.int8)


def _set_array(array: np.ndarray, state: Any) -> None:
    """Fill a fresh array in place."""
    if type(state) is not tuple or len(state) != 5:
        raise _refused("has an array of an unknown version")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, np.dtype) or dtype.kind != "O":
        content = _raw(content, shape, dtype)
    elif type(content) is not list or len(content) != _elements(shape, dtype):
        raise _refused("has an array of objects that are not all there")
    array.__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    checked_characters(array)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Return a contiguous array as protocol 5 stores it."""
    raw = _raw(content, shape, dtype)
    array = np.ndarray(shape, dtype, buffer=raw or None, order="F" if order == "F" else "C")
    checked_characters(array)
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_buffer(content, dtype, (), "C")[()]


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that Python 3 stores as text in protocols 0 to 2."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise _refused("encodes something other than bytes")
    return text.encode("latin-1")


# All that a pickle may name, exactly. The second spelling of a module is NumPy 2's.
_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    **{(builtins, "bytes"): lambda: b"" for builtins in ("__builtin__", "builtins")},
    **{(f"{core}.multiarray", "_reconstruct"): _empty for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in ("numpy.core", "numpy._core")},
}
_MAKES_CONTAINER = frozenset(
    ("MARK", "EMPTY_LIST", "EMPTY_DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
)
# Instructions whose argument is a value.
_VALUES = (
    "INT LONG FLOAT BININT BININT1 BININT2 BINFLOAT LONG1 LONG4 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_READERS: dict[str, Callable[[_Machine], Any]] = {
    "STRING": _Machine.quoted,
    "BYTEARRAY8": _Machine.content,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.append(m.last(1)),
    "APPENDS": lambda m, _: m.append(m.items()),
    "LIST": lambda m, _: m.push(m.items()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.items())),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.make_dict(),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.items()),
    "MEMOIZE": lambda m, _: m.put(len(m._memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.put(index)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m._memo[index])),
    "GLOBAL": lambda m, name: m.named(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.named(*m.last(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
