"""Read pickles of unknown origin, in files and in memory, without running anything; the machine does so in the worker."""

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.untrusted import isolation, pickle_machine
from orca_cli.data.untrusted.archives import MAX_DEFLATE
from orca_cli.data.untrusted.arrays import read_header, read_npy
from orca_cli.data.untrusted.first_bytes import NPY, first_bytes
from orca_cli.exceptions import DataError, UnsafeError

_MAX_BYTES = 2**31


def unpickle(path: Path, max_bytes: int = _MAX_BYTES, gzipped: bool = False) -> Any:
    """Return the object of a pickle file, of a gzip file of one, or of what np.save wrote, Python objects or not.

    Strings of Python 2 are decoded as Latin-1. Of one object that np.save wrote, such as a dict, this is the object itself,
    else an array. Arrays may be read-only. About as much memory as the content is needed, here and in the worker.
    `max_bytes` is the limit of the uncompressed content.

    Raises:
        UnsafeError: it names anything but NumPy's arrays and scalars, uses instructions that data do not need, or would
            grow beyond its size; nothing of it was run.
        DataError: it is missing, not a pickle, or damaged.
        MemoryExhaustedError: a value is larger than the free memory.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, "a pickle is needed")
    return isolation.read(
        read_here, where, path.stat().st_size, path=where, max_bytes=max_bytes, gzipped=gzipped
    )


def unpickle_bytes(content: bytes, where: str) -> Any:
    """Return the object of a pickle in memory; `where` names it in messages. Raises as `unpickle`."""
    return isolation.read(read_bytes_here, where, len(content), content=content, name=where)


def read_here(path: str, max_bytes: int = _MAX_BYTES, gzipped: bool = False) -> Any:
    """Return what `unpickle` does, read in this process; errors as there."""
    size = Path(path).stat().st_size
    if size > max_bytes and not gzipped:
        raise UnsafeError(f"the pickle has more than {max_bytes} bytes", where=path)
    with gzip.open(path) if gzipped else open(path, "rb", buffering=2**16) as file:
        stream: Any = file
        if gzipped:
            return pickle_machine.read(
                stream, path, min(max_bytes, size * MAX_DEFLATE), compressed=True
            )
        if not stream.peek(len(NPY)).startswith(NPY):
            return pickle_machine.read(stream, path, size)
        header = read_header(stream, size, path, objects=True)
        if not header.dtype.hasobject:
            return np.array(read_npy(Path(path)).read())
        stream.seek(header.offset)
        value = pickle_machine.read(stream, path, size - header.offset)
    if not isinstance(value, np.ndarray) or value.dtype != object or value.shape != header.shape:
        raise DataError(
            f"does not hold the objects {header.shape} that its header declares", where=path
        )
    return value[()] if value.shape == () else value


def read_bytes_here(content: bytes, name: str) -> Any:
    """Return what `unpickle_bytes` does, read in this process; errors as there."""
    return pickle_machine.read(io.BytesIO(content), name, len(content))
