"""Read pickles of unknown origin, in files and in memory, without running anything; the machine does so in the worker."""

import gzip
import io
from pathlib import Path
from typing import Any

from orca_cli.data.untrusted import isolation, pickle_machine
from orca_cli.data.untrusted.archives import MAX_DEFLATE
from orca_cli.data.untrusted.first_bytes import GZIP, first_bytes
from orca_cli.exceptions import DataError, UnsafeError

MAX_BYTES = 2**31


def unpickle(path: Path, max_bytes: int = MAX_BYTES, gzipped: bool = False) -> Any:
    """Return the object of a pickle file, or of a gzip file of one; strings of Python 2 are decoded as Latin-1.

    Arrays may be read-only. About as much memory as the content is needed, here and in the worker. `max_bytes` is the limit
    of the uncompressed content.

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
    return isolation.read(read_bytes_here, where, len(content), content=content, name=where)


def read_here(path: str, max_bytes: int = MAX_BYTES, gzipped: bool = False) -> Any:
    """Return what `unpickle` does, read in this process; errors as there."""
    size = checked_size(Path(path), max_bytes, gzipped)
    limit = min(max_bytes, size * MAX_DEFLATE) if gzipped else size
    with gzip.open(path) if gzipped else open(path, "rb", buffering=2**16) as file:
        stream: Any = file
        return pickle_machine.read(stream, path, limit, compressed=gzipped)


def read_bytes_here(content: bytes, name: str) -> Any:
    """Return what `unpickle_bytes` does, read in this process; errors as there."""
    return pickle_machine.read(io.BytesIO(content), name, len(content))


def checked_size(path: Path, max_bytes: int, gzipped: bool = False) -> int:
    """Return the size of a file in bytes; raises as `unpickle`."""
    head = first_bytes(path, str(path), "a pickle is needed")
    size = path.stat().st_size
    if gzipped and not head.startswith(GZIP):
        raise DataError("not a gzip file", where=str(path), hint="get it again")
    if size > max_bytes and not gzipped:
        raise UnsafeError(f"the pickle has more than {max_bytes} bytes", where=str(path))
    return size
