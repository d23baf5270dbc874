"""Satellite image time series (Petitjean et al. 2012) as NAS-Bench-360 has them: one pixel over 46 dates, 24 land covers.

Two files, satellite_train.npy and satellite_test.npy: each np.save of a dict with data (N, 46) and label (N,) in 1..24.

Shapes: N series of a file.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.published import (
    check_array,
    class_numbers,
    entries,
    file_identity,
    find,
    load_arrays,
)
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.interfaces import Reporter, TaskData

_FILES = ("satellite_train.npy", "satellite_test.npy")
_CLASSES, _DATES = 24, 46
_MAX_BYTES = 2 * 2**30  # of a file, which is held in memory once; the training file has 322 MiB
_BLOCK = 2**16  # series at once
_VERSION = 1
# A series whose deviation is below this fraction of its largest value is constant up to rounding.
_EPSILON = 1e-6


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    normalize: Literal["series", "none"] = "series",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
) -> TaskData:
    """Return series [n, 1, 46] with classes 0..23, the files' labels less one.

    Each file is read once, into float32 arrays in the cache (166 MB for training), and mapped from there. Normalised as in
    NAS-Bench-360, a pixel's level is lost and its shape over time is kept; constant series become zeros.
    """
    files = find(data_folder, "satellite", _FILES, path)
    x, y = _series(files[0], normalize, cache_folder, reporter)
    rows, held_out = hold_out(
        y, "stratified", validation_size, train_size, train_on_validation, split_seed
    )
    return TaskData(
        kind="classes",
        input_shape=(1, _DATES),
        num_outputs=_CLASSES,
        train=ArraySamples(x, y, rows=rows),
        validation=ArraySamples(x, y, rows=held_out),
        open_test=lambda: ArraySamples(*_series(files[1], normalize, cache_folder, reporter)),
        class_names=tuple(str(label) for label in range(1, _CLASSES + 1)),
        validation_drawn=train_size is None and not train_on_validation,
    )


def _series(
    file: Path, normalize: str, cache_folder: Path, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """Return x [N, 1, 46] float32, a read-only memory map, and y [N] int64 in 0..23."""
    parameters = {"version": _VERSION, **file_identity(file), "normalize": normalize}

    def make(folder: Path) -> None:
        where = str(file)
        data, labels = entries(unpickle(file, max_bytes=_MAX_BYTES), ("data", "label"), where)
        check_array(data, ("N", _DATES), where, "data")
        np.save(folder / "y.npy", class_numbers(labels, len(data), _CLASSES, where, first=1))
        x = np.empty((len(data), 1, _DATES), np.float32)
        for start in range(0, len(data), _BLOCK):
            signals.check()
            block = data[start : start + _BLOCK]
            with np.errstate(
                all="ignore"
            ):  # what is not finite, or beyond float32, is refused below
                if normalize == "series":
                    values = block.astype(np.float64)
                    least = (
                        _EPSILON * np.abs(values).max(axis=1, keepdims=True)
                        + np.finfo(np.float64).tiny
                    )
                    deviation = np.maximum(values.std(axis=1, keepdims=True), least)
                    block = (values - values.mean(axis=1, keepdims=True)) / deviation
                x[start : start + _BLOCK, 0] = block
        np.save(folder / "x.npy", check_array(x, x.shape, where, "data", holds="finite"))

    folder = folder_of(cache_folder, file.stem, parameters, make, reporter)
    return load_arrays(folder, ["x"], mapped=True)[0], load_arrays(folder, ["y"])[0]
