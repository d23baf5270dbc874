"""A machine for pickles of unknown origin that can only make data.

A pickle is a program. Python's own machine imports and calls the functions that the program names.
This machine cannot: it knows only the instructions that data need (numbers, strings, containers,
NumPy's arrays and scalars) and an exact list of names, each of which means a function of
`pickle_callables`. Any other instruction or name ends the reading. Everything that a small file
could make large has an upper bound: instructions, containers, copies, integers, keys. No function
trusts the pickle: sizes are checked before memory is allocated, and only the byte order is used
from the state of a dtype, never its flags.
"""

import codecs
import pickletools
import struct
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import IO, Any

import numpy as np

from orca_cli.data.untrusted.memory import check_memory
from orca_cli.data.untrusted.pickle_callables import (
    CALLABLES,
    fill,
    make_dtype,
    make_empty,
    refused,
    set_byte_order,
)
from orca_cli.exceptions import DataError, UnsafeError

# Largest number of instructions, which bounds the time for a pickle.
_MAX_OPCODES = 4_000_000
# Bounded because each byte of the file can make an empty list or dict of some 60 bytes.
_MAX_CONTAINERS = 1_000_000
# Largest number of values in the result; a shared value counts each time it occurs.
_MAX_VALUES = 20_000_000
# `_check_result` calls itself for each level, and Python allows 1000 nested calls by default.
_MAX_DEPTH = 100
# The free memory is checked before a value of more than this number of bytes is read.
_LARGE = 2**26
# Calls may create this number of bytes per byte of the file, or `_MAX_CREATED` bytes in any case.
_MAX_COPIES = 4
_MAX_CREATED = 2**20
# Largest number of bits of an integer.
_MAX_INTEGER = 8192
# Largest number of characters of a dict's key, because equal keys are compared at every use.
_MAX_KEY = 2**16
# Largest number of entries of a tuple that is a key.
_MAX_KEY_ENTRIES = 32
# Types of values that contain no other values.
_PLAIN = (str, bytes, int, float, bool, type(None), np.generic)
# A damaged pickle can cause errors anywhere in the machine, and NumPy reports damage in many ways.
_FAILURES = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, ValueError)
_DAMAGE = (*_FAILURES, struct.error, zlib.error)
_HINT = "no code of the pickle was run; get the data from a source that you trust, or as .npz"


def read(stream: IO[bytes], where: str, limit: int, compressed: bool = False) -> Any:
    """Return the object of the pickle at a buffered stream's position.

    The stream's position is after the pickle then.

    Args:
        stream: stream that contains the pickle.
        where: name of the pickle in messages.
        limit: largest allowed size of the pickle in bytes.
        compressed: whether the stream is decompressed and may have more bytes than its file.

    Raises:
        UnsafeError, DataError, MemoryExhaustedError: as in `unpickle`.
    """
    try:
        value = _Machine(stream, limit, where, compressed).run()
        _check_result(value, finished={}, above=set())
        # A compressed stream compares its checksum when its end is read.
        if compressed:
            stream.read(1)
    except (UnsafeError, DataError) as error:
        raise type(error)(error.what, where=where, hint=error.hint or _HINT) from error
    # Before `_DAMAGE`, which contains EOFError, because this message is more precise.
    except EOFError as error:
        raise DataError("is cut off", where=where, hint="get the file again") from error
    except _DAMAGE as error:
        error_name = type(error).__name__
        raise DataError(
            f"is a damaged pickle ({error_name})", where=where, hint="get the file again"
        ) from error
    return value


class _Machine:
    """The stack of a pickle, with the pickle's instructions as methods.

    It is also the stream from which `pickletools` reads the arguments of instructions. The
    arguments of the constructor are those of `read`.
    """

    def __init__(self, stream: IO[bytes], limit: int, where: str, compressed: bool) -> None:
        self._stream = stream
        self._limit = limit
        # Number of bytes that may still be read.
        self._left = limit
        self._where = where
        self._compressed = compressed
        # Sum of the bytes of arrays, and of the lengths of other values, that calls have created.
        self._created = 0
        self._stack: list[Any] = []
        # The stacks below the marks.
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        # Id -> an array or dtype whose state is not set yet.
        self._fresh: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the pickle's value, which may contain itself.

        Raises:
            UnsafeError: an instruction or a name is not allowed, or a bound is reached.
            DataError: the content is not a pickle.
            Exception: the pickle is damaged; this is an error of Python or NumPy (`_DAMAGE`).
        """
        num_containers = 0
        # Each iteration reads an instruction's byte and argument, and runs its action.
        for _ in range(_MAX_OPCODES):
            opcode_byte = self.read(1)[0]
            opcode = pickletools.code2op.get(chr(opcode_byte))  # type: ignore[attr-defined]
            if opcode is None:
                raise DataError("is not a pickle, or is damaged", hint="get the file again")
            if opcode.name == "STOP":
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("values are left")
                return self._stack[0]
            if opcode.name in _MAKES_CONTAINER:
                num_containers += 1
            if num_containers > _MAX_CONTAINERS:
                raise refused(f"makes more than {_MAX_CONTAINERS:,} containers")
            # `_ACTIONS` lists the allowed instructions, so new instructions are refused too.
            if opcode.name not in _ACTIONS:
                raise refused(f"uses the instruction {opcode.name}, which data files do not need")
            argument = None
            if opcode.arg:
                read_argument = _READERS.get(opcode.name, opcode.arg.reader)
                argument = read_argument(self)
            _ACTIONS[opcode.name](self, argument)
        raise refused("has too many instructions")

    def _bytes_read(self) -> int:
        return self._limit - self._left

    def _count_read(self, size: int) -> None:
        """Count bytes that are about to be read; raise an error if they exceed the limit."""
        if size > self._left and self._compressed:
            raise refused(f"unpacks to more than {self._limit} bytes")
        if size > self._left:
            raise EOFError
        if size > _LARGE:
            check_memory(size, self._where, hint="use a machine with more memory")
        self._left -= size

    def read(self, size: int) -> bytes:
        self._count_read(size)
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError
        return content

    def readline(self) -> bytes:
        # At most the bytes that are left, because a line without end would fill the memory.
        line = self._stream.readline(self._left)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def quoted(self) -> str:
        """Return the argument of STRING; `pickletools` would read ASCII only."""
        line = self.readline()[:-1]
        quote = line[:1]
        if len(line) < 2 or not line.endswith(quote) or quote not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        content, _ = codecs.escape_decode(line[1:-1])
        return content.decode("latin-1")

    def content(self) -> bytearray:
        """Return the argument of BYTEARRAY8, an array's content; `pickletools` would copy it."""
        (size,) = struct.unpack("<Q", self.read(8))
        self._count_read(size)
        # Read into the final buffer, so that an array's content is in memory only once.
        content = bytearray(size)
        if self._stream.readinto(content) != size:  # type: ignore[attr-defined]
            raise EOFError
        return content

    def pop_to_mark(self) -> list[Any]:
        """Remove the values above the last mark from the stack, and return them."""
        values = self._stack
        self._stack = self._marked.pop()
        return values

    def pop(self, count: int) -> list[Any]:
        """Remove the last `count` values from the stack, and return them."""
        values = self._stack[-count:]
        if len(values) != count:
            raise IndexError
        del self._stack[-count:]
        return values

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > _MAX_INTEGER:
            raise ValueError("a number has too many digits")
        self._stack.append(value)

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        # The exact type is compared, because a pickle of data appends only to lists.
        if type(target) is not list:
            raise refused("appends to something that is not a list")
        target.extend(values)

    def set_items(self, keys_and_values: list[Any]) -> None:
        dictionary = self._stack[-1]
        if type(dictionary) is not dict or len(keys_and_values) % 2:
            raise refused("sets items of something that is not a dict")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            # Tuples within a key are refused: hashing tuples that share tuples may never end.
            key_entries = key if type(key) is tuple else (key,)
            if len(key_entries) > _MAX_KEY_ENTRIES or not all(map(_is_plain_key, key_entries)):
                raise refused(
                    "has a dict with a key that is neither a short text nor a number below 64 bits"
                )
            dictionary[key] = value

    def make_dict(self) -> None:
        keys_and_values = self.pop_to_mark()
        self.push({})
        self.set_items(keys_and_values)

    def put(self, index: int) -> None:
        # Each entry needs at least one byte of the pickle, so valid indices are smaller.
        if not 0 <= index <= self._bytes_read():
            raise refused("uses a memo index that is larger than the pickle's size in bytes")
        self._memo[index] = self._stack[-1]

    def named(self, module: Any, name: Any) -> None:
        is_text = type(module) is str and type(name) is str
        if not is_text:
            raise refused("asks for an object whose name is not text")
        if (module, name) not in CALLABLES:
            requested = f"{module}.{name}"[:200]
            for character in requested:
                if not character.isprintable():
                    requested = requested.replace(character, "?")
            raise refused(f"asks for {requested}")
        self.push(CALLABLES[module, name])

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        # Only `named` puts functions on the stack, so only functions in `CALLABLES` can be called.
        if type(function) is not FunctionType or type(arguments) is not tuple:
            raise refused("calls something that is not a function")
        created = function(*arguments)
        self._count_created(created)
        # `_fresh` keeps the object alive, so that no other object gets its id.
        if function in (make_empty, make_dtype):
            self._fresh[id(created)] = created
        self.push(created)

    def _count_created(self, created: Any) -> None:
        """Refuse a pickle that creates the same content again and again."""
        if isinstance(created, (np.ndarray, np.generic)):
            self._created += created.nbytes
        elif created:
            self._created += len(created)
        # A small amount is always allowed, above it a multiple of the bytes that were read so far.
        if self._created > max(_MAX_CREATED, _MAX_COPIES * self._bytes_read()):
            raise refused("creates more content than the pickle's size allows")

    def build(self) -> None:
        state = self._stack.pop()
        # Removed, so that a state is set only once: an array cannot change after its check.
        target = self._fresh.pop(id(self._stack[-1]), None)
        if isinstance(target, np.ndarray):
            fill(target, state)
            # Counted now, because the array was empty when it was created.
            self._count_created(target)
        elif isinstance(target, np.dtype):
            set_byte_order(target, state)
        else:
            raise refused("sets the state of something that is not a new array")


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, (str, bytes)):
        return len(key) <= _MAX_KEY
    # Arbitrarily many longer integers can have the same hash, which makes a dict slow.
    is_long = isinstance(key, int) and abs(key) >= 2**63
    return isinstance(key, _PLAIN) and not is_long


def _check_result(
    value: Any, *, finished: dict[int, tuple[int, int]], above: set[int]
) -> tuple[int, int]:
    """Refuse values that cannot be traversed.

    Such a value contains itself, or contains the same value so often that it is huge.

    Args:
        value: value of a pickle.
        finished: id -> size and depth, for values that were traversed.
        above: ids of the values that contain this value.

    Returns:
        The size and the depth of the value.
    """
    # A value that occurs often is traversed once, and counted each time.
    if id(value) in finished:
        return finished[id(value)]
    endless = refused(
        "has containers that contain themselves, or are nested too deeply or too often"
    )
    # A value inside itself, or nested too deeply for the recursion of this function.
    if id(value) in above or len(above) > _MAX_DEPTH:
        raise endless
    elements: Any = ()
    if isinstance(value, np.ndarray):
        # Other arrays contain no values that have to be traversed.
        if value.dtype.kind == "O":
            elements = value.ravel()
    elif type(value) is dict:
        # Keys are plain, as `set_items` ensures.
        elements = value.values()
    elif type(value) in (list, tuple):
        elements = value
    elif not isinstance(value, _PLAIN):
        raise refused(f"contains an object of type {type(value).__name__}")
    size = 1 + len(elements)
    depth = 1
    above.add(id(value))
    for element in elements:
        if isinstance(element, _PLAIN):
            continue
        element_size, element_depth = _check_result(element, finished=finished, above=above)
        size += element_size
        depth = max(depth, element_depth + 1)
        if size > _MAX_VALUES or depth > _MAX_DEPTH:
            raise endless
    above.discard(id(value))
    finished[id(value)] = (size, depth)
    return size, depth


# A mark counts as well, because it starts a new list as the stack.
_MAKES_CONTAINER = frozenset(
    ("MARK", "EMPTY_LIST", "EMPTY_DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
)
# Instructions that push their argument.
_VALUES = (
    "INT LONG FLOAT BININT BININT1 BININT2 BINFLOAT LONG1 LONG4 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
# Instruction -> reader of its argument, which replaces the reader of `pickletools`.
_READERS: dict[str, Callable[[_Machine], Any]] = {
    "STRING": _Machine.quoted,
    "BYTEARRAY8": _Machine.content,
}
# Instruction -> its action on the machine; the second parameter is its argument, or None.
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    # The version, and the length of a part of the file; neither changes the value.
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.append(m.pop(1)),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.make_dict(),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "MEMOIZE": lambda m, _: m.put(len(m._memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.put(index)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m._memo[index])),
    # `pickletools` joins the module and the name with a space.
    "GLOBAL": lambda m, name: m.named(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.named(*m.pop(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
