"""Satellite image time series (Petitjean et al. 2012), as in NAS-Bench-360: 24 land covers.

A sample is one pixel on 46 dates. The files satellite_train.npy and satellite_test.npy each contain
a dict, saved by np.save, with data (N, 46) and label (N,) in 1..24.

Shapes: N series of a file.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

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
_CLASSES = 24
_DATES = 46
# Limit on the size of a file, which is read into memory; the training file has 322 MiB.
_MAX_BYTES = 2**31
_BLOCK = 2**16  # number of series that are normalised at once
_VERSION = 1  # of the files in the cache
# A series whose deviation is below this fraction of its largest value is constant up to rounding.
_EPSILON = 1e-6


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with satellite_train.npy and satellite_test.npy; "
        "null: folder satellite of the data folder (paths.data)",
    ] = None,
    normalize: Annotated[
        Literal["series", "none"],
        "series: each series is scaled by its own mean and standard deviation over time; "
        "none: raw values (published code)",
    ] = "series",
    validation_size: Annotated[
        Count | Fraction,
        "validation series to draw from the training file: a fraction (below 1) or a number (1 or "
        "more)",
    ] = 0.1,
    train_size: Annotated[
        Count | None,
        "number of training series, stratified by class: 1 or more; null: all series that are not "
        "in the validation split",
    ] = None,
    train_on_validation: Annotated[
        bool, "true: train on the validation series as well; if so, also set train.select=last"
    ] = False,
    split_seed: Annotated[
        Seed,
        "seed of the draw of validation and training series, 0..2147483647; "
        "not the seed of the run",
    ] = 0,
) -> TaskData:
    """Return series [n, 1, 46] with classes 0..23, which are the files' labels minus one.

    Each file is written once to the cache, as float32 arrays (166 MB for training), and mapped from
    the cache. Normalised as in NAS-Bench-360, a series loses its level and keeps its shape over
    time; a constant series becomes zeros.
    """
    train_file, test_file = find(data_folder, "satellite", _FILES, path)
    x, y = _read(train_file, normalize, cache_folder, reporter)  # [N, 1, 46], [N]
    train_rows, validation_rows = hold_out(
        y,
        validation_size=validation_size,
        train_size=train_size,
        train_on_validation=train_on_validation,
        split_seed=split_seed,
    )
    return TaskData(
        kind="classes",
        input_shape=(1, _DATES),
        num_outputs=_CLASSES,
        train=ArraySamples(x, y, rows=train_rows),
        validation=ArraySamples(x, y, rows=validation_rows),
        open_test=lambda: ArraySamples(*_read(test_file, normalize, cache_folder, reporter)),
        class_names=tuple(map(str, range(1, _CLASSES + 1))),
        validation_drawn=train_size is None and not train_on_validation,
    )


def _read(
    file: Path, normalize: str, cache_folder: Path, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """Return x [N, 1, 46] float32, a read-only memory map, and y [N] int64 in 0..23."""
    folder = folder_of(
        cache_folder,
        file.stem,
        parameters={"version": _VERSION, **file_identity(file), "normalize": normalize},
        make=partial(_unpack, file, normalize),
        reporter=reporter,
    )
    (x,) = load_arrays(folder, ["x"], mapped=True)
    (y,) = load_arrays(folder, ["y"])
    return x, y


def _unpack(file: Path, normalize: str, folder: Path) -> None:
    """Write x.npy [N, 1, 46] float32, normalised, and y.npy [N] int64 of a file."""
    where = str(file)
    series, labels = entries(unpickle(file, max_bytes=_MAX_BYTES), ("data", "label"), where)
    check_array(series, ("N", _DATES), where, "data")
    y = class_numbers(labels, len(series), _CLASSES, where, first=1)
    x = np.empty((len(series), 1, _DATES), np.float32)  # one channel of 46 dates
    # One block at a time, since all series in float64 would take another copy of the file.
    for start in range(0, len(series), _BLOCK):
        signals.check()
        stretch = slice(start, start + _BLOCK)
        # No warnings about NaN, infinity and overflow of float32, since the check below refuses
        # such values.
        with np.errstate(all="ignore"):
            if normalize == "series":
                x[stretch, 0] = _normalised(series[stretch])
            else:
                x[stretch, 0] = series[stretch]
    check_array(x, x.shape, where, "data", holds="finite")
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)


def _normalised(series: np.ndarray) -> np.ndarray:
    """Return series [n, 46] in float64, with mean 0 and deviation 1; constant series become 0."""
    values = series.astype(np.float64)  # [n, 46]; the statistics are [n, 1]
    mean = values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    largest = np.abs(values).max(axis=1, keepdims=True)
    # The tiny number prevents a division by 0 for a series of zeros.
    smallest_deviation = _EPSILON * largest + np.finfo(np.float64).tiny
    return (values - mean) / np.maximum(deviation, smallest_deviation)
