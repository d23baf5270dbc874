"""TAPE's files of remote homology (Rao et al. 2019), which a task and a source read: LMDB of pickled dictionaries, or JSON.

Both hold dictionaries with `primary`, the sequence, and `fold_label`, 0..1194.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.untrusted import lmdb
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.data.untrusted.pickle import unpickle_bytes, unpickle_each
from orca_cli.exceptions import DataError

NUM_FOLDS = 1195
HINT = "unpack TAPE's remote_homology.tar.gz there again"
# Where a file may be in the folder of the data set, as the archive and the raw data have it; {} is its name.
FORMS = tuple(str(Path(folder, f"{{}}.{ending}")) for ending in ("lmdb", "json") for folder in ("", "remote_homology"))
_SEQUENCE = re.compile(r"[A-Za-z]+")
_MAX_JSON_BYTES = 2**30  # the largest real file has about 100 MB
_MAX_RESIDUES = 100_000
_MAX_VALUE = 2**22  # bytes of a record


def proteins(place: Path) -> Iterator[tuple[str, int]]:
    """Yield sequence and fold of each protein of a file, a folder .lmdb or a .json.

    Raises:
        DataError, UnsafeError: the file is damaged, or has another form.
        UnavailableError: the package lmdb is not installed.
    """
    records = _lmdb_records(place) if place.suffix == ".lmdb" else _json_records(place)
    for number, record in enumerate(records):
        where = f"{place}[{number}]"
        content = record if isinstance(record, dict) else {}
        sequence, fold = content.get("primary"), content.get("fold_label")
        if not isinstance(sequence, str) or not _SEQUENCE.fullmatch(sequence) or len(sequence) > _MAX_RESIDUES:
            raise DataError("'primary' is not a sequence of letters", where=where, hint=HINT)
        if isinstance(fold, bool) or not isinstance(fold, (int, np.integer)) or not 0 <= fold < NUM_FOLDS:
            what = f"'fold_label' is {str(fold)[:20]}; allowed: 0..{NUM_FOLDS - 1}"
            raise DataError(what, where=where, hint=HINT)
        yield sequence, int(fold)


def _lmdb_records(place: Path) -> Iterator[Any]:
    """Yield the unpickled records of a database, unchecked."""
    (count,) = lmdb.read(place, ["num_examples"])
    total = None if count is None else unpickle_bytes(count, f"{place}[num_examples]")
    if isinstance(total, bool) or not isinstance(total, (int, np.integer)) or total < 0:
        raise DataError(f"'num_examples' is {str(total)[:20]}, not a count", where=str(place), hint=HINT)

    def contents() -> Iterator[tuple[bytes, str]]:
        for index, content in enumerate(lmdb.read(place, map(str, range(total)), _MAX_VALUE)):
            if content is None:
                raise DataError(f"has no protein {index} of {total}", where=str(place), hint=HINT)
            yield content, f"{place}[{index}]"

    yield from unpickle_each(contents())


def _json_records(place: Path) -> list[Any]:
    """Return the records of a list in a JSON file, unchecked."""
    try:
        content = json.loads(read_text(place, _MAX_JSON_BYTES, HINT))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=str(place), hint=HINT) from error
    if not isinstance(content, list):
        raise DataError("is not a list of proteins", where=str(place), hint=HINT)
    return content
