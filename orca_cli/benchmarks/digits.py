"""scikit-learn's 1,797 handwritten digits (8 x 8 pixels, UCI), as sequences or as images."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Seed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import split
from orca_cli.interfaces import TaskData


def load(
    train_size: Count | None = 200,
    validation_size: Annotated[Count, "number of validation samples: 1 or more"] = 300,
    test_size: Annotated[
        Count, "number of test samples: 1 or more; task.split_seed decides which samples"
    ] = 497,
    split_seed: Annotated[Seed, "seed of the split, 0..2147483647; not the seed of the run"] = 0,
    layout: Annotated[
        Literal["sequence", "image"], "sequence: 8 channels of 8 steps; image: 8 x 8 pixels"
    ] = "sequence",
) -> TaskData:
    """Return the digits with values in 0..1 and ten classes.

    As sequences [n, 8, 8], columns of an image are channels and rows are steps.
    """
    images, classes = _read_digits()
    if layout == "image":
        x = images[:, None]  # [N, 1, 8, 8]
    else:
        x = images.transpose(0, 2, 1)  # [N, columns, rows]
    rows = split(
        len(classes),
        train=train_size,
        validation=validation_size,
        test=test_size,
        seed=split_seed,
        classes=classes,
    )

    def samples(chosen: np.ndarray) -> ArraySamples:
        return ArraySamples(x[chosen], classes[chosen])

    return TaskData(
        kind="classes",
        input_shape=tuple(x.shape[1:]),
        num_outputs=10,
        train=samples(rows.train),
        validation=samples(rows.validation),
        # A function, so that the test split stays closed until the end of a run.
        open_test=lambda: samples(rows.test),
        class_names=tuple("0123456789"),
        note=f"scikit-learn's digits as {layout}: "
        f"{len(rows.train)} of {len(classes)} samples for training",
        validation_drawn=train_size is None,
    )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images [1797, rows, columns] float32 in 0..1 and their classes [1797] int64."""
    # The file is found without an import of scikit-learn, which would take a second.
    package: Any = importlib.util.find_spec("sklearn")
    datasets_folder = Path(package.origin).with_name("datasets")
    file = datasets_folder / "data" / "digits.csv.gz"
    # [1797, 65]: the 64 pixels of an image, integers in 0..16, followed by its class
    table = np.loadtxt(file, delimiter=",")
    pixels = table[:, :-1]
    classes = table[:, -1]
    images = pixels.reshape(-1, 8, 8) / 16
    return images.astype(np.float32), classes.astype(np.int64)
