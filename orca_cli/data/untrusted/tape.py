"""TAPE's files of remote homology (Rao et al. 2019), which a task and a source read: LMDB databases of pickled dictionaries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from orca_cli.data.untrusted import lmdb
from orca_cli.data.untrusted.pickle import unpickle_bytes, unpickle_each
from orca_cli.exceptions import DataError

NUM_FOLDS = 1195
HINT = "unpack TAPE's remote_homology.tar.gz there again"
# Where a file may be in the folder of the data set: there, or as the archive has it; {} is its name.
FORMS = ("{}.lmdb", "remote_homology/{}.lmdb")
_SEQUENCE = re.compile(r"[A-Za-z]{1,100000}")


def proteins(place: Path) -> Iterator[tuple[str, int]]:
    """Yield sequence (`primary`) and fold (`fold_label`, 0..1194) of each protein of a folder .lmdb.

    Raises:
        DataError, UnsafeError: the file is damaged, or has another form.
        UnavailableError: the package lmdb is not installed.
    """
    (count,) = lmdb.read(place, ["num_examples"])
    total = None if count is None else unpickle_bytes(count, f"{place}[num_examples]")
    if not _is_number(total) or total < 0:
        raise DataError(f"'num_examples' is {str(total)[:20]}, not a count", where=str(place), hint=HINT)

    def contents() -> Iterator[tuple[bytes, str]]:
        for index, content in enumerate(lmdb.read(place, map(str, range(total)))):
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
