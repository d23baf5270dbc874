"""scikit-learn's 1,797 handwritten digits (8 x 8 pixels, UCI), as sequences or as images."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Seed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import split
from orca_cli.interfaces import TaskData


def load(
    train_size: Count | None = 200,
    validation_size: Count = 300,
    test_size: Count = 497,
    split_seed: Seed = 0,
    layout: Literal["sequence", "image"] = "sequence",
) -> TaskData:
    """Return the digits with values in 0..1 and ten classes.

    As sequences [n, 8, 8], columns of an image are channels and rows are steps.
    """
    package: Any = importlib.util.find_spec("sklearn")
    # 64 pixels and the class of every image, [n, 65], from scikit-learn's own file; importing it takes a second.
    digits = np.loadtxt(
        Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
    # [n, rows, columns]; pixels are integers in 0..16
    images = (digits[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32)
    x = images[:, None] if layout == "image" else images.transpose(0, 2, 1)
    y = digits[:, -1].astype(np.int64)
    parts = split(
        len(y),
        train=train_size,
        validation=validation_size,
        test=test_size,
        seed=split_seed,
        classes=y,
    )
    return TaskData(
        kind="classes",
        input_shape=tuple(x.shape[1:]),
        num_outputs=10,
        train=ArraySamples(x[parts.train], y[parts.train]),
        validation=ArraySamples(x[parts.validation], y[parts.validation]),
        open_test=lambda: ArraySamples(x[parts.test], y[parts.test]),
        class_names=tuple("0123456789"),
        note=f"scikit-learn's digits as {layout}: {len(parts.train)} of {len(y)} samples for training",
        validation_drawn=train_size is None,
    )
