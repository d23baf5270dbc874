"""Read pickles of unknown origin with a machine that can do nothing else: it has no way to run their code.

A pickle is a program. Python's own machine imports what the program names and calls it. This one knows the instructions that
data need (numbers, strings, containers, NumPy's arrays and scalars) and an exact list of names that stand for functions of
`numpy_objects`. Every other instruction or name ends the reading.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.archives import MAX_DEFLATE
from orca_cli.data.untrusted.first_bytes import GZIP, first_bytes
from orca_cli.data.untrusted.pickle.machine import PLAIN, run
from orca_cli.exceptions import DataError, UnsafeError

MAX_BYTES = 2**31
_MAX_VALUES = 20_000_000  # of the result, counted as often as they are met
_MAX_DEPTH = 100
_BATCH = 64  # pickles in memory that are read at once
# A damaged pickle can break the machine at any place, and NumPy reports it in many ways.
_FAILURES = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, ValueError)
_DAMAGE = (*_FAILURES, struct.error, zlib.error)
_ENDLESS = "the pickle holds containers in one another without end"
_HINT = "nothing was run; get the data from a source that you trust, or as .npz"


def unpickle(path: Path, max_bytes: int = MAX_BYTES, gzipped: bool = False) -> Any:
    """Return the object of a pickle file, read in the worker; strings of Python 2 are decoded as Latin-1.

    Arrays may be read-only. About as much memory as the content is needed, here and in the worker.

    Args:
        path: a pickle, or a gzip file of one.
        max_bytes: limit of the uncompressed content.
        gzipped: whether it is a gzip file.

    Raises:
        UnsafeError: it names anything but NumPy's arrays and scalars, uses instructions that data do not need, or would
            grow beyond its size; nothing of it was run.
        DataError: it is missing, not a pickle, or damaged.
        MemoryExhaustedError: a value is larger than the free memory.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    size = checked_size(path, max_bytes, gzipped)
    return isolation.read(read_here, str(path), size, path=str(path), max_bytes=max_bytes, gzipped=gzipped)


def unpickle_bytes(content: bytes, where: str) -> Any:
    """Return the object of a pickle in memory; `where` names it in messages. Raises as `unpickle`."""
    return next(unpickle_each([(content, where)]))


def unpickle_each(pairs: Iterable[tuple[bytes, str]]) -> Iterator[Any]:
    """Yield the objects of many small pickles in memory, each with its name for messages. Raises as `unpickle`."""
    ahead = iter(pairs)
    while batch := list(islice(ahead, _BATCH)):
        contents, wheres = [content for content, _ in batch], [where for _, where in batch]
        title = wheres[0] if len(wheres) == 1 else f"{wheres[0]} to {wheres[-1]}"
        yield from isolation.read(read_bytes_here, title, sum(map(len, contents)), contents=contents, wheres=wheres)


def read_here(path: str, max_bytes: int = MAX_BYTES, gzipped: bool = False) -> Any:
    """Return what `unpickle` does, read in this process; errors as there."""
    size = checked_size(Path(path), max_bytes, gzipped)
    limit = min(max_bytes, size * MAX_DEFLATE) if gzipped else size
    with gzip.open(path) if gzipped else open(path, "rb", buffering=2**16) as file:
        stream: Any = file
        return read_stream(stream, path, limit, compressed=gzipped)


def read_bytes_here(contents: list[bytes], wheres: list[str]) -> list[Any]:
    """Return the objects of pickles in memory, read in this process; errors as `unpickle`."""
    pairs = zip(contents, wheres, strict=True)
    return [read_stream(io.BytesIO(content), where, len(content)) for content, where in pairs]


def checked_size(path: Path, max_bytes: int, gzipped: bool = False) -> int:
    """Return the size of a file in bytes; raises as `unpickle`."""
    head = first_bytes(path, str(path), "a pickle is needed")
    size = path.stat().st_size
    if gzipped and not head.startswith(GZIP):
        raise DataError("not a gzip file", where=str(path), hint="get it again")
    if size > max_bytes and not gzipped:
        raise UnsafeError(f"the pickle has more than {max_bytes} bytes", where=str(path))
    return size


def read_stream(stream: IO[bytes], where: str, limit: int, compressed: bool = False) -> Any:
    """Return the object of the pickle at a buffered stream's position, which moves past it. Raises as `unpickle`.

    A pickle of more than `limit` bytes is refused. `compressed`: whether the stream may have more bytes than its file.
    """
    try:
        value = run(stream, limit, where, compressed)
        _check_result(value, {}, set())
        stream.read(1)  # at its end a compressed stream compares its checksum
    except (UnsafeError, DataError) as error:
        if error.where:
            raise
        raise type(error)(error.what, where=where, hint=error.hint or _HINT) from error
    except _DAMAGE as error:
        what = "is cut off" if isinstance(error, EOFError) else f"is a damaged pickle ({type(error).__name__})"
        raise DataError(what, where=where, hint="get the file again") from error
    return value


def _check_result(value: Any, finished: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """Refuse values that nobody could traverse: those that contain themselves, or are huge since they share their parts.

    Returns the size and depth of this value. `finished` has those of other values by id; `above` has the ids of the values
    that contain this one.
    """
    if id(value) in finished:
        return finished[id(value)]
    if id(value) in above or len(above) > _MAX_DEPTH:
        raise UnsafeError(_ENDLESS)
    inside: Any = ()
    if isinstance(value, np.ndarray):
        inside = value.ravel() if value.dtype.kind == "O" else ()
    elif type(value) is dict:
        inside = value.values()  # keys are plain
    elif type(value) in (list, tuple):
        inside = value
    elif not isinstance(value, PLAIN):
        raise UnsafeError(f"the pickle leaves {getattr(value, 'name', type(value).__name__)} as a value")
    size, depth = 1 + len(inside), 1
    above.add(id(value))
    for item in inside:
        if not isinstance(item, PLAIN):
            more, below = _check_result(item, finished, above)
            size, depth = size + more, max(depth, below + 1)
            if size > _MAX_VALUES or depth > _MAX_DEPTH:
                raise UnsafeError(_ENDLESS)
    above.discard(id(value))
    finished[id(value)] = size, depth
    return size, depth
