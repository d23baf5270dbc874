"""Read pickles of other people without running anything: an exact list of names, and a look at all opcodes before.

A pickle is a program. Three things make it harmless here: only listed opcodes (no sets, no extension registry, no
persistent ids, no way to build instances), only listed globals (NumPy's arrays), and bounds on what a small file can make
large (declared lengths, memo indices, tuples that contain each other).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, UnsafeError


class _EmptyArray:
    """Stands in for NumPy's _reconstruct, which would allocate whatever shape it is told."""

    __slots__ = ()  # so that a pickle cannot set attributes on it

    def __call__(self, subtype: object, shape: tuple[int, ...], code: object) -> np.ndarray:
        if shape != (0,):
            raise ValueError("an array is made empty and filled by its state")
        return np.empty(0, dtype=np.int8)


# What a pickle may name, and what it gets. The array type is only ever an argument, so it gets something to pass on that
# cannot be called.
ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _EmptyArray(),  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _EmptyArray(),  # NumPy 2
}
_MAX_OPCODES = 2_000_000
_STRUCTURE = {"PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
# fmt: off
_NUMBERS = {
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT",
    "BINFLOAT",
}
_STRINGS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}
_CONTAINERS = {
    "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT",
    "DICT", "SETITEM", "SETITEMS",
}
# fmt: on
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
# After these a tuple can lie on top of the stack; honest files store the others' results before, never after.
_MAYBE_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BUILD", "APPENDS", "SETITEMS"}
_OPCODES = _STRUCTURE | _NUMBERS | _STRINGS | _CONTAINERS | _PUTS | _GETS


def load(path: Path, max_bytes: int = 256 * 2**20) -> Any:
    """Return the object of a pickle file; strings of Python 2 are decoded as Latin-1.

    Args:
        path: the file.
        max_bytes: larger files are refused.

    Raises:
        UnsafeError: it refers to anything but NumPy's arrays, or would grow beyond its size; nothing of it was run.
        DataError: it is not a pickle, damaged, or cannot be read.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise UnsafeError(f"the pickle has more than {max_bytes} bytes", where=str(path))
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    _inspect(content, path)
    try:
        return _Restricted(content, path).load()
    except UnsafeError:
        raise
    # A damaged pickle can raise almost anything from inside the machine that runs it and from NumPy.
    except Exception as error:  # noqa: BLE001
        raise DataError(f"is a damaged pickle ({type(error).__name__})", where=str(path)) from error


class _Restricted(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise UnsafeError(
                f"the pickle asks for {module}.{name}",
                where=str(self._path),
                hint="nothing was run; get the data from a source that you trust, or as .npz",
            )
        return ARRAYS[module, name]


def _inspect(content: bytes, path: Path) -> None:
    """Look at every opcode without running one.

    Raises:
        UnsafeError: an opcode that is not listed, too many, a memo index beyond the file, or a tuple that is used twice.
        DataError: not a pickle, or cut off.
    """
    memo: set[int] = set()
    tuples: set[int] = set()
    top = ""  # the opcode that made what lies on top of the stack
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            name = opcode.name
            if name not in _OPCODES or count > _MAX_OPCODES:
                raise _refused(f"uses {name}" if name not in _OPCODES else "has too many instructions", path)
            if name in _PUTS:
                index = len(memo) if argument is None else int(argument)
                if index > len(content):  # the memo is an array: a huge index allocates gigabytes
                    raise _refused("names a memo entry beyond its size", path)
                memo.add(index)
                tuples.discard(index)
                if top in _MAYBE_TUPLE:
                    tuples.add(index)
            elif name in _GETS and argument is not None and int(argument) in tuples:
                # Tuples of tuples that are shared hash in exponential time.
                raise _refused("uses one tuple several times", path)
            elif name not in ("PROTO", "FRAME"):
                top = name
    except (ValueError, IndexError, OverflowError, UnicodeError) as error:
        raise DataError("is not a pickle, or is cut off", where=str(path)) from error


def _refused(what: str, path: Path) -> UnsafeError:
    return UnsafeError(f"the pickle {what}, which data files need not", where=str(path), hint="nothing was run")
