"""DeepSEA (Zhou and Troyanskaya 2015) as NAS-Bench-360 cuts it: chromatin features of 1000 bases of DNA; 36 labels.

One file, deepsea_filtered.npz: x_{train,val,test} (N, 1000, 4) of 0 and 1, a base in each row, all zero where it is
unknown (N), and y_{train,val,test} (N, 36) of 0 and 1. The file's own validation split is kept apart.

Shapes: N sequences of a split, L bases, K labels.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import signals
from orca_cli.data.fraction import Joined
from orca_cli.data.published import check_array, find, note, overlap_warning
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import arrays
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter, TaskData

_BASES = 4
_BLOCK_BYTES = 2**22  # checked at once
_AGAIN = "`orca data get deepsea` fetches it again"


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["labels"] = "labels",
    path: str | None = None,
    train_on_validation: bool = False,
) -> TaskData:
    """Return one-hot DNA [n, 4, L] (0 in all four channels at unknown bases) and labels [n, K] of 0 and 1.

    The arrays are unpacked once into the cache folder, byte for byte, and mapped from there; batches are transposed and
    converted to float32 one by one, so memory does not grow with the file.
    """
    (file,) = find(data_folder, "deepsea", ["deepsea_filtered.npz"], path)
    train = _read(file, "train", cache_folder, reporter)
    first = train.batch(np.arange(1))
    length, num_labels = first.x.shape[2], first.y.shape[1]
    validation = _read(file, "val", cache_folder, reporter, length, num_labels)
    return TaskData(
        kind="labels",
        input_shape=(_BASES, length),
        num_outputs=num_labels,
        train=Joined([train, validation]) if train_on_validation else train,
        validation=validation,
        open_test=lambda: _read(file, "test", cache_folder, reporter, length, num_labels),
        note=note(
            f"DeepSEA: {len(train)} training and {len(validation)} validation sequences (the file's own splits)",
            overlap_warning(train_on_validation, f"{len(validation)} validation sequences"),
        ),
    )


def _read(
    file: Path, part: str, cache_folder: Path, reporter: Reporter, length: int | str = "length", labels: int | str = "K"
) -> ArraySamples:
    """Return the sequences of one split."""
    names = [f"x_{part}", f"y_{part}"]
    stored = arrays.mapped(file, names, cache_folder, reporter)
    x = check_array(stored[names[0]], ("N", length, _BASES), f"{file}[{names[0]}]", _AGAIN)
    y = np.array(check_array(stored[names[1]], (len(x), labels), f"{file}[{names[1]}]", _AGAIN), np.float32)
    if not np.isin(y, (0, 1)).all():
        raise DataError("holds labels other than 0 and 1", where=f"{file}[{names[1]}]", hint=_AGAIN)
    step = max(1, _BLOCK_BYTES // x[0].nbytes)
    for start in range(0, len(x), step):
        signals.check()
        block = x[start : start + step]
        if not np.isin(block, (0, 1)).all() or (np.count_nonzero(block, axis=2) > 1).any():
            what = f"has a row that is neither one-hot nor zero, in sequences {start}..{start + len(block) - 1}"
            raise DataError(what, where=f"{file}[{names[0]}]", hint=_AGAIN)
        release_pages(x)
    return ArraySamples(x.transpose(0, 2, 1), y)
