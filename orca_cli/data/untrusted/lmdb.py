"""Values of an LMDB database, read by the library `lmdb` in the worker: a damaged file can crash the process that maps it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.exceptions import DataError, UnavailableError, UnsafeError

_MAX_VALUE = 2**22
_BATCH = 64  # values fetched at once


def read(path: Path, keys: Iterable[str], max_value: int = _MAX_VALUE) -> Iterator[bytes | None]:
    """Yield the value of each key in the main database, or None where it has no such key.

    `path` is the folder of data.mdb, or the file itself; nothing is written there, no lock file either.

    Raises:
        DataError: missing, cut off, damaged, or not an LMDB database.
        UnsafeError: a value has more than `max_value` bytes.
        UnavailableError: the package lmdb is not installed.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    file = path / "data.mdb" if path.is_dir() else path
    where = str(file)
    first_bytes(file, where, "the data.mdb of an LMDB database is needed")
    if importlib.util.find_spec("lmdb") is None:
        what, hint = "reading LMDB needs the package lmdb", "pip install 'orca-transfer[lmdb]'"
        raise UnavailableError(what, where=where, hint=hint)
    size, ahead = file.stat().st_size, iter(keys)
    while batch := list(islice(ahead, _BATCH)):
        yield from isolation.read(read_here, where, size, path=where, keys=batch, max_value=max_value)


def read_here(path: str, keys: list[str], max_value: int) -> list[bytes | None]:
    """Return what `read` does, read in this process; errors as there."""
    import lmdb

    with (
        damage(path, "LMDB database"),
        lmdb.open(path, subdir=False, readonly=True, lock=False, create=False) as database,
        database.begin(buffers=True) as transaction,
    ):
        needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        held = Path(path).stat().st_size
        if needed > held:
            raise DataError(f"is cut off: {held:,} of {needed:,} bytes", where=path, hint="get the file again")
        values: list[bytes | None] = []
        for key in keys:
            value = transaction.get(key.encode())
            if value is not None and len(value) > max_value:
                raise UnsafeError(f"a value has {len(value):,} bytes, at most {max_value:,} are read", where=path)
            values.append(None if value is None else bytes(value))
        return values
