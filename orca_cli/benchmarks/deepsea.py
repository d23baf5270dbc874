"""DeepSEA (Zhou and Troyanskaya 2015) as NAS-Bench-360 cuts it: chromatin features of 1000 bases of DNA; 36 labels.

One file, deepsea_filtered.npz: x_{train,val,test} (N, 1000, 4) of 0 and 1, a base in each row, all zero where it is
unknown (N), and y_{train,val,test} (N, 36) of 0 and 1. The file's own validation split is kept apart.
"""

from pathlib import Path

import numpy as np

from orca_cli.data.fraction import Joined
from orca_cli.data.generated import folder_of
from orca_cli.data.published import AGAIN, check_array, entries, file_identity, find, load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.interfaces import Reporter, TaskData

_BASES, _LENGTH, _LABELS = 4, 1000, 36
_VERSION = 1


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    train_on_validation: bool = False,
) -> TaskData:
    """Return one-hot DNA [n, 4, 1000] (0 in all four channels at unknown bases) and labels [n, 36] of 0 and 1.

    The arrays of a split are read once, into the cache folder (300 MB for training, 600 MB for test), and mapped from there;
    batches are transposed and converted to float32 one by one.
    """
    (file,) = find(data_folder, "deepsea", ["deepsea_filtered.npz"], path)
    train, validation = (_read(file, part, cache_folder, reporter) for part in ("train", "val"))
    return TaskData(
        kind="labels",
        input_shape=(_BASES, _LENGTH),
        num_outputs=_LABELS,
        train=Joined([train, validation]) if train_on_validation else train,
        validation=validation,
        open_test=lambda: _read(file, "test", cache_folder, reporter),
    )


def _read(file: Path, part: str, cache_folder: Path, reporter: Reporter) -> ArraySamples:
    """Return the sequences of one split."""

    def make(folder: Path) -> None:
        stored = entries(open_arrays(file, str(file), AGAIN), [f"x_{part}", f"y_{part}"], str(file))
        x, y = (one.read() for one in stored)
        np.save(folder / "x.npy", check_array(x, ("N", _LENGTH, _BASES), f"{file}[x_{part}]"))
        np.save(
            folder / "y.npy", check_array(y, (len(x), _LABELS), f"{file}[y_{part}]", holds="binary")
        )

    folder = folder_of(
        cache_folder,
        f"deepsea-{part}",
        {"version": _VERSION, **file_identity(file)},
        make,
        reporter,
    )
    (x,), (y,) = load_arrays(folder, ["x"], mapped=True), load_arrays(folder, ["y"])
    return ArraySamples(x.transpose(0, 2, 1), y.astype(np.float32))
