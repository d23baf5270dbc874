"""Read pickles of unknown origin, in files and in memory, without running their code.

The worker reads them with the machine of `pickle_machine`.
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

    Strings of Python 2 are decoded as Latin-1. If np.save wrote a single object, such as a dict,
    the object itself is returned, else an array. Arrays may be read-only. This process and the
    worker each need about as much memory as the size of the content.

    Args:
        path: path of the file.
        max_bytes: largest allowed size of the uncompressed content, in bytes.
        gzipped: whether the file is a pickle compressed with gzip.

    Raises:
        UnsafeError: the pickle names anything except NumPy's arrays and scalars, uses instructions
            that data do not need, or would grow beyond its size; no code of it was run.
        DataError: the file is missing, not a pickle, or damaged.
        MemoryExhaustedError: a value is larger than the free memory.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, "provide a valid pickle file")
    file_size = path.stat().st_size
    return isolation.read(
        read_here, where, file_size, path=where, max_bytes=max_bytes, gzipped=gzipped
    )


def unpickle_bytes(content: bytes, where: str) -> Any:
    """Return the object of a pickle in memory; raises the errors of `unpickle`.

    `where` names the pickle in messages.
    """
    return isolation.read(read_bytes_here, where, len(content), content=content, name=where)


def read_here(path: str, max_bytes: int = _MAX_BYTES, gzipped: bool = False) -> Any:
    """Return the object of a file as `unpickle` does, but read in this process."""
    file_size = Path(path).stat().st_size
    stream: Any
    if gzipped:
        # A gzip file of this size cannot contain more bytes.
        max_read = min(max_bytes, file_size * MAX_DEFLATE)
        with gzip.open(path) as stream:
            return pickle_machine.read(stream, path, max_read, compressed=True)
    if file_size > max_bytes:
        raise UnsafeError(
            f"the pickle has more bytes than the limit of {max_bytes}",
            where=path,
        )
    with open(path, "rb", buffering=2**16) as stream:
        head = stream.peek(len(NPY))
        if not head.startswith(NPY):
            return pickle_machine.read(stream, path, file_size)
        # A file that np.save wrote has a header, then either numbers or a pickle of objects.
        header = read_header(stream, file_size, path, objects=True)
        if not header.dtype.hasobject:
            stored_array = read_npy(Path(path))
            # Copied, because the worker's answer cannot contain a memory map.
            return np.array(stored_array.read())
        # Needed because `read_header` reads beyond the header.
        stream.seek(header.offset)
        array = pickle_machine.read(stream, path, file_size - header.offset)
    # The shape is in the header and in the pickle; in a damaged file they may differ.
    is_of_objects = isinstance(array, np.ndarray) and array.dtype == object
    if not is_of_objects or array.shape != header.shape:
        raise DataError(
            f"does not contain the object array of shape {header.shape} that its header declares; "
            "get the file again",
            where=path,
        )
    if array.shape == ():
        return array[()]
    return array


def read_bytes_here(content: bytes, name: str) -> Any:
    """Return the object of a pickle as `unpickle_bytes` does, but read in this process."""
    return pickle_machine.read(io.BytesIO(content), name, len(content))
