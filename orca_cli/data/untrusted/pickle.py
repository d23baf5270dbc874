"""Read pickles of unknown origin, in files and in memory, without running anything.

The worker reads them, with the machine of `pickle_machine`.
"""

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
    """Return the object of a pickle file, or of a file that np.save wrote.

    Strings of Python 2 are decoded as Latin-1. Where np.save wrote a single object, such as a dict,
    the object itself is returned, else an array. Arrays may be read-only. This process and the
    worker each need about as much memory as the content has bytes.

    Args:
        path: the file.
        max_bytes: that the uncompressed content may have.
        gzipped: whether it is a gzip file of a pickle.

    Raises:
        UnsafeError: it names anything but NumPy's arrays and scalars, uses instructions that data
            do not need, or would grow beyond its size; nothing of it was run.
        DataError: it is missing, not a pickle, or damaged.
        MemoryExhaustedError: a value is larger than the free memory.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, "a pickle is needed")
    file_size = path.stat().st_size
    return isolation.read(
        read_here, where, file_size, path=where, max_bytes=max_bytes, gzipped=gzipped
    )


def unpickle_bytes(content: bytes, where: str) -> Any:
    """Return the object of a pickle in memory, which `where` names; raises as `unpickle`."""
    return isolation.read(read_bytes_here, where, len(content), content=content, name=where)


def read_here(path: str, max_bytes: int = _MAX_BYTES, gzipped: bool = False) -> Any:
    """Return the object of a file as `unpickle` does, but read in this process."""
    file_size = Path(path).stat().st_size
    stream: Any
    if gzipped:
        # No gzip file of this size can hold more.
        max_read = min(max_bytes, file_size * MAX_DEFLATE)
        with gzip.open(path) as stream:
            return pickle_machine.read(stream, path, max_read, compressed=True)
    if file_size > max_bytes:
        raise UnsafeError(f"the pickle has more than {max_bytes} bytes", where=path)
    with open(path, "rb", buffering=2**16) as stream:
        head = stream.peek(len(NPY))
        if not head.startswith(NPY):
            return pickle_machine.read(stream, path, file_size)
        # A file that np.save wrote: a header, then numbers, or a pickle of objects.
        header = read_header(stream, file_size, path, objects=True)
        if not header.dtype.hasobject:
            stored_array = read_npy(Path(path))
            # Copied, since the worker's answer cannot contain a memory map.
            return np.array(stored_array.read())
        # `read_header` reads beyond the header.
        stream.seek(header.offset)
        array = pickle_machine.read(stream, path, file_size - header.offset)
    # The header and the pickle both have the shape; a damaged file may contradict itself.
    is_of_objects = isinstance(array, np.ndarray) and array.dtype == object
    if not is_of_objects or array.shape != header.shape:
        raise DataError(
            f"does not hold the objects {header.shape} that its header declares", where=path
        )
    if array.shape == ():
        return array[()]
    return array


def read_bytes_here(content: bytes, name: str) -> Any:
    """Return the object of a pickle as `unpickle_bytes` does, but read in this process."""
    return pickle_machine.read(io.BytesIO(content), name, len(content))
