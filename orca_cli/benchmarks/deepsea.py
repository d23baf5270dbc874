"""DeepSEA (Zhou and Troyanskaya 2015), as the subset of NAS-Bench-360: chromatin features of DNA.

A sample has 1000 bases and 36 labels. The file deepsea_filtered.npz has two kinds of arrays.
x_{train,val,test} (N, 1000, 4) of 0 and 1 has one base in each row; a row is all zero if the base
is unknown (letter N). y_{train,val,test} (N, 36) of 0 and 1 has the labels. The validation split of
the file stays separate.

Shapes: N sequences of a split.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from orca_cli.data.fraction import Joined
from orca_cli.data.generated import folder_of
from orca_cli.data.published import AGAIN, check_array, entries, file_identity, find, load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.interfaces import Reporter, Samples, TaskData

_BASES = 4
_LENGTH = 1000
_LABELS = 36
_VERSION = 1  # of the files in the cache


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with deepsea_filtered.npz; null: folder deepsea of the data folder (paths.data)",
    ] = None,
    train_on_validation: Annotated[
        bool, "true: train on the validation sequences as well; if so, also set train.select=last"
    ] = False,
) -> TaskData:
    """Return one-hot DNA [n, 4, 1000] (0 in all four channels at unknown bases) and 36 labels.

    Labels are [n, 36] of 0 and 1. The arrays of a split are unpacked once into the cache folder
    (300 MB for training, 600 MB for test) and mapped from the cache. Each batch is transposed and
    converted to float32 when it is read.
    """
    (file,) = find(data_folder, "deepsea", ["deepsea_filtered.npz"], path)
    train: Samples = _read(file, "train", cache_folder, reporter)
    validation = _read(file, "val", cache_folder, reporter)
    if train_on_validation:
        train = Joined([train, validation])
    return TaskData(
        kind="labels",
        input_shape=(_BASES, _LENGTH),
        num_outputs=_LABELS,
        train=train,
        validation=validation,
        # A function, so that the test sequences are read only when the test split is opened.
        open_test=lambda: _read(file, "test", cache_folder, reporter),
    )


def _read(file: Path, split: str, cache_folder: Path, reporter: Reporter) -> ArraySamples:
    """Return the sequences of one split: train, val or test."""
    folder = folder_of(
        cache_folder,
        f"deepsea-{split}",
        parameters={"version": _VERSION, **file_identity(file)},
        make=partial(_unpack, file, split),
        reporter=reporter,
    )
    (x,) = load_arrays(folder, ["x"], mapped=True)  # [N, 1000, 4]
    (y,) = load_arrays(folder, ["y"])  # [N, 36]
    # The transposed inputs [N, 4, 1000] are a view of the file and take no memory.
    return ArraySamples(x.transpose(0, 2, 1), y.astype(np.float32))


def _unpack(file: Path, split: str, folder: Path) -> None:
    """Check x [N, 1000, 4] and y [N, 36] of one split and write them to x.npy and y.npy."""
    # This call reads only the header of each array.
    stored = open_arrays(file, str(file), AGAIN)
    stored_x, stored_y = entries(stored, [f"x_{split}", f"y_{split}"], str(file))
    x = stored_x.read()
    y = stored_y.read()
    check_array(x, ("N", _LENGTH, _BASES), f"{file}[x_{split}]")
    check_array(y, (len(x), _LABELS), f"{file}[y_{split}]", holds="binary")
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
