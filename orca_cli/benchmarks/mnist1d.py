"""MNIST-1D (Greydanus and Kobak, 2024): curves of ten digits, scaled, shifted and noisy.

The package `mnist1d` generates the data set. As published, it has 4,000 training samples and 1,000
test samples, which are two sections of one generated sequence.
"""

import importlib
from pathlib import Path
from typing import Annotated

import numpy as np

from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.published import load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.isolation import isolated
from orca_cli.exceptions import need
from orca_cli.interfaces import Reporter, TaskData

_NAMES = ("x", "y", "x_test", "y_test")
# A change makes the copy in the cache a miss.
_VERSION = 1
# Limits in seconds, on computing time and on the wait for the result; generation takes two seconds.
_SECONDS = 120
_WAIT_S = 600.0


def load(
    cache_folder: Path,
    reporter: Reporter,
    train_size: Annotated[
        Count | None,
        "number of training samples; null: all samples that are not in the validation split",
    ] = 1000,
    validation_size: Annotated[Count, "number of validation samples: 1 or more"] = 300,
    split_seed: Annotated[Seed, "seed of the split, 0..2147483647; not the seed of the run"] = 0,
) -> TaskData:
    """Return series [n, 1, 40], with mean 0 and variance 1 over the data set, and ten classes.

    The test split is the one of the package.
    """
    need("mnist1d", "task=mnist1d", "offline")
    folder = folder_of(
        cache_folder,
        "mnist1d",
        parameters={"version": _VERSION},
        make=_generate,
        reporter=reporter,
    )
    x, y, test_x, test_y = load_arrays(folder, _NAMES)
    train_rows, validation_rows = hold_out(
        y,
        validation_size=validation_size,
        train_size=train_size,
        split_seed=split_seed,
    )
    return TaskData(
        kind="classes",
        input_shape=x.shape[1:],
        num_outputs=10,
        train=ArraySamples(x[train_rows], y[train_rows]),
        validation=ArraySamples(x[validation_rows], y[validation_rows]),
        # A function, so that the test split stays closed until the end of a run.
        open_test=lambda: ArraySamples(test_x, test_y),
        class_names=tuple("0123456789"),
        synthetic=True,
        validation_drawn=train_size is None,
    )


def _generate(folder: Path) -> None:
    """Write x [4000, 1, 40] float32 and y [4000] int64 for training, and x_test and y_test."""
    # In a separate process, since the package reseeds NumPy's and Python's global generators.
    arrays = isolated(generate, "mnist1d", seconds=_SECONDS, wait_s=_WAIT_S)
    for name in _NAMES:
        np.save(folder / f"{name}.npy", arrays[name])


def generate() -> dict[str, np.ndarray]:
    """Return name -> array of the published data set. This call reseeds the global generators."""
    package = importlib.import_module("mnist1d.data")
    dataset = package.make_dataset()
    arrays = {}
    for name in _NAMES:
        array = dataset[name]
        if name.startswith("x"):
            arrays[name] = array[:, None].astype(np.float32)  # [n, 1, 40]
        else:
            arrays[name] = array.astype(np.int64)
    return arrays
