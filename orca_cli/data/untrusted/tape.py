"""TAPE's files of remote homology (Rao et al. 2019), which a task and a source read: LMDB databases of pickled dictionaries.

The library `lmdb` runs in the worker: a damaged file can crash the process that maps it.
"""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.pickle import unpickle_bytes, unpickle_each
from orca_cli.exceptions import DataError, UnavailableError, UnsafeError

NUM_FOLDS = 1195
HINT = "unpack TAPE's remote_homology.tar.gz there again"
# Where a file may be in the folder of the data set: there, or as the archive has it; {} is its name.
FORMS = ("{}.lmdb", "remote_homology/{}.lmdb")
_SEQUENCE = re.compile(r"[A-Za-z]{1,100000}")
_MAX_VALUE = 2**22
_BATCH = 64  # values fetched at once


def proteins(place: Path) -> Iterator[tuple[str, int]]:
    """Yield sequence (`primary`) and fold (`fold_label`, 0..1194) of each protein of a folder .lmdb.

    DataError where they have another form; other errors as those of `values`.
    """
    (count,) = values(place, ["num_examples"])
    total = None if count is None else unpickle_bytes(count, f"{place}[num_examples]")
    if not _is_number(total) or total < 0:
        raise DataError(f"'num_examples' is {str(total)[:20]}, not a count", where=str(place), hint=HINT)

    def contents() -> Iterator[tuple[bytes, str]]:
        for index, content in enumerate(values(place, map(str, range(total)))):
            if content is None:
                raise DataError(f"has no protein {index} of {total}", where=str(place), hint=HINT)
            yield content, f"{place}[{index}]"

    for number, record in enumerate(unpickle_each(contents())):
        where, content = f"{place}[{number}]", record if isinstance(record, dict) else {}
        sequence, fold = content.get("primary"), content.get("fold_label")
        if not isinstance(sequence, str) or not _SEQUENCE.fullmatch(sequence):
            raise DataError("'primary' is not a sequence of letters", where=where, hint=HINT)
        if not _is_number(fold) or not 0 <= fold < NUM_FOLDS:
            what = f"'fold_label' is {str(fold)[:20]}; allowed: 0..{NUM_FOLDS - 1}"
            raise DataError(what, where=where, hint=HINT)
        yield sequence, int(fold)


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def values(path: Path, keys: Iterable[str], max_value: int = _MAX_VALUE) -> Iterator[bytes | None]:
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
        yield from isolation.read(values_here, where, size, path=where, keys=batch, max_value=max_value)


def values_here(path: str, keys: list[str], max_value: int) -> list[bytes | None]:
    """Return what `values` does, read in this process; errors as there."""
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
        found: list[bytes | None] = []
        for key in keys:
            value = transaction.get(key.encode())
            if value is not None and len(value) > max_value:
                raise UnsafeError(f"a value has {len(value):,} bytes, at most {max_value:,} are read", where=path)
            found.append(None if value is None else bytes(value))
        return found
