"""TAPE's files of remote homology (Rao et al. 2019), which a task and a source read: LMDB databases of pickled dictionaries.

The library `lmdb` runs in the worker: a damaged file can crash the process that maps it.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.published import fault, refuse
from orca_cli.data.untrusted import isolation, pickle_machine
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.exceptions import DataError, UnsafeError, need

NUM_FOLDS = 1195
# Where a file may be in the folder of the data set: there, or as the archive has it; {} is the split.
FORMS = ("remote_homology_{}.lmdb", "remote_homology/remote_homology_{}.lmdb")
_SEQUENCE = re.compile(r"[A-Za-z]{1,100000}")
_MAX_VALUE = 2**22
_BATCH = 64  # values fetched at once


def proteins(place: Path) -> Iterator[tuple[str, int]]:
    """Yield sequence (`primary`) and fold (`fold_label`, 0..1194) of each protein of a folder .lmdb.

    DataError where they have another form; other errors as those of `values`.
    """
    (total,) = values(place, ["num_examples"], reader=objects_here)
    refuse(
        type(total) is not int or total < 0,
        f"'num_examples' is {str(total)[:20]}, not a count",
        place,
    )
    for number, record in enumerate(values(place, map(str, range(total)), reader=objects_here)):
        where = f"{place}[{number}]"
        refuse(not isinstance(record, dict), f"has no protein {number} of {total}", where)
        sequence, fold = record.get("primary"), record.get("fold_label")
        if not isinstance(sequence, str) or not _SEQUENCE.fullmatch(sequence):
            raise fault("'primary' is not a sequence of letters", where)
        if not isinstance(fold, (int, np.integer)) or not 0 <= fold < NUM_FOLDS:
            raise fault(f"'fold_label' is {str(fold)[:20]}; allowed: 0..{NUM_FOLDS - 1}", where)
        yield sequence, int(fold)


def values_here(path: str, keys: list[str], max_value: int) -> list[bytes | None]:
    """Return what `values` yields, read in this process, which a damaged file can crash; errors as there."""
    import lmdb

    with (
        damage(path, "LMDB database"),
        lmdb.open(path, subdir=False, readonly=True, lock=False, create=False) as database,
        database.begin(buffers=True) as transaction,
    ):
        needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        held = Path(path).stat().st_size
        if needed > held:
            raise DataError(
                f"is cut off: {held:,} of {needed:,} bytes", where=path, hint="get the file again"
            )
        contents: list[bytes | None] = []
        for key in keys:
            value = transaction.get(key.encode())
            if value is not None and len(value) > max_value:
                raise UnsafeError(
                    f"a value has {len(value):,} bytes, at most {max_value:,} are read", where=path
                )
            contents.append(None if value is None else bytes(value))
        return contents


def objects_here(path: str, keys: list[str], max_value: int) -> list[Any]:
    """Return the objects of the pickles that `values_here` returns, None without such a key; raises as `unpickle` too."""
    pairs = zip(keys, values_here(path, keys, max_value), strict=True)
    return [
        None
        if value is None
        else pickle_machine.read(io.BytesIO(value), f"{path}[{key}]", len(value))
        for key, value in pairs
    ]


def values(
    path: Path,
    keys: Iterable[str],
    max_value: int = _MAX_VALUE,
    reader: Callable[..., list[Any]] = values_here,
) -> Iterator[Any]:
    """Yield the value of each key in the main database, as bytes or as what `reader` makes of it; None without such a key.

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
    need("lmdb", where)
    size, ahead = file.stat().st_size, iter(keys)
    while batch := list(islice(ahead, _BATCH)):
        yield from isolation.read(reader, where, size, path=where, keys=batch, max_value=max_value)
