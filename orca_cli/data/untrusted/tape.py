"""TAPE's files of remote homology (Rao et al. 2019), which a task and a source read.

They are LMDB databases of pickled dictionaries. The library `lmdb` runs in the worker, because a
damaged file can crash the process that maps it.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.published import fault
from orca_cli.data.untrusted import isolation, pickle_machine
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.exceptions import DataError, UnsafeError, need

NUM_FOLDS = 1195
# Paths of a file in the folder of the data set, with {} instead of the split. The archive unpacks
# to the second path.
FORMS = ("remote_homology_{}.lmdb", "remote_homology/remote_homology_{}.lmdb")
_SEQUENCE = re.compile(r"[A-Za-z]{1,100000}")
_MAX_VALUE = 2**22
# Number of values that are fetched at once.
_BATCH = 64


def proteins(path: Path) -> Iterator[tuple[str, int]]:
    """Yield sequence (`primary`) and fold (`fold_label`, 0..1194) of each protein in a database.

    Raises:
        DataError: a value has an unexpected form.
        UnsafeError, UnavailableError, WorkerError: as in `values`.
    """
    (num_proteins,) = values(path, ["num_examples"], reader=objects_here)
    # `isinstance` would accept True.
    if type(num_proteins) is not int or num_proteins < 0:
        raise fault(f"entry 'num_examples' must be a count, got {str(num_proteins)[:20]}", path)
    records = values(path, map(str, range(num_proteins)), reader=objects_here)
    for protein_number, record in enumerate(records):
        where = f"{path}[{protein_number}]"
        if not isinstance(record, dict):
            raise fault(
                f"the protein is missing, although the database declares {num_proteins} proteins",
                where,
            )
        sequence = record.get("primary")
        fold = record.get("fold_label")
        # Checked now, because wrong values would otherwise fail only when they are encoded.
        if not isinstance(sequence, str) or not _SEQUENCE.fullmatch(sequence):
            raise fault("the protein's entry 'primary' must consist of letters", where)
        if not isinstance(fold, int | np.integer) or not 0 <= fold < NUM_FOLDS:
            raise fault(
                f"the protein's entry 'fold_label' must be in 0..{NUM_FOLDS - 1}, "
                f"got {str(fold)[:20]}",
                where,
            )
        yield sequence, int(fold)


def values_here(path: str, keys: list[str], max_value: int) -> list[bytes | None]:
    """Return values as `values` does, but read in this process, which a damaged file may crash."""
    import lmdb

    with (
        damage(path, "LMDB database"),
        lmdb.open(path, subdir=False, readonly=True, lock=False, create=False) as database,
        database.begin(buffers=True) as transaction,
    ):
        # Reading a page beyond the end of a map would crash the process.
        num_pages = database.info()["last_pgno"] + 1
        needed_bytes = num_pages * database.stat()["psize"]
        file_size = Path(path).stat().st_size
        if needed_bytes > file_size:
            raise DataError(
                f"is cut off: it has {file_size:,} of {needed_bytes:,} bytes",
                where=path,
                hint="get the file again",
            )
        contents: list[bytes | None] = []
        for key in keys:
            content = transaction.get(key.encode())
            if content is None:
                contents.append(None)
                continue
            # Checked before it is copied.
            if len(content) > max_value:
                raise UnsafeError(
                    f"has a value of {len(content):,} bytes, more than the limit of {max_value:,}; "
                    "get the file from a source that you trust",
                    where=path,
                )
            # Copied, because the view of the map is valid only within the transaction.
            contents.append(bytes(content))
        return contents


def objects_here(path: str, keys: list[str], max_value: int) -> list[Any]:
    """Return the objects of the pickles that `values_here` returns; None for a missing key.

    Raises the errors of `unpickle` too.
    """
    objects: list[Any] = []
    for key, content in zip(keys, values_here(path, keys, max_value), strict=True):
        if content is None:
            objects.append(None)
            continue
        where = f"{path}[{key}]"
        objects.append(pickle_machine.read(io.BytesIO(content), where, len(content)))
    return objects


def values(
    path: Path,
    keys: Iterable[str],
    max_value: int = _MAX_VALUE,
    reader: Callable[..., list[Any]] = values_here,
) -> Iterator[Any]:
    """Yield the value of each key in the main database; None for a missing key.

    No file is written, not even a lock file.

    Args:
        path: the folder of data.mdb, or the file itself.
        keys: names of values.
        max_value: largest allowed size of a value in bytes.
        reader: function that is called in the worker; `values_here` returns bytes, `objects_here`
            unpickled objects.

    Raises:
        DataError: the file is missing, cut off, damaged, or not an LMDB database.
        UnsafeError: a value has more than `max_value` bytes.
        UnavailableError: the package lmdb is not installed.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    file = path
    if path.is_dir():
        file = path / "data.mdb"
    where = str(file)
    first_bytes(file, where, "provide the file data.mdb of an LMDB database")
    need("lmdb", where)
    file_size = file.stat().st_size
    remaining_keys = iter(keys)
    while True:
        # Several values are fetched at once, because each call opens the database again.
        key_batch = list(islice(remaining_keys, _BATCH))
        if not key_batch:
            return
        yield from isolation.read(
            reader, where, file_size, path=where, keys=key_batch, max_value=max_value
        )
