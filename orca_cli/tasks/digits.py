"""scikit-learn's 1,797 handwritten digits (8 x 8 pixels, UCI), as sequences or as images."""

from __future__ import annotations

import numpy as np

from orca_cli.exceptions import ConfigError, suggest
from orca_cli.interfaces import Kind, TaskData
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.tasks.shared.splits import check_seed, check_train, split

_LAYOUTS = ("sequence", "image")
_LARGEST = 16  # pixels are integers in 0..16


def load(
    kind: Kind = "classes",
    train_size: int | None = 200,
    validation_size: int = 300,
    test_size: int = 497,
    split_seed: int = 0,
    layout: str = "sequence",
) -> TaskData:
    """Return the digits with values in 0..1 and ten classes.

    Args:
        kind: "classes", nothing else.
        train_size: training samples, stratified; None takes all that the other splits leave.
        validation_size: validation samples.
        test_size: test samples; which ones depends on `split_seed` alone.
        split_seed: seed of the split.
        layout: "sequence" gives [n, 8, 8] with the columns of an image as channels and its rows as steps; "image" gives
            [n, 1, 8, 8].

    Raises:
        ConfigError: unknown layout, another kind, or a size out of range.
        DataError: the sizes add up to more than 1,797.
    """
    check_settings(kind, train_size, validation_size, test_size, split_seed, layout)
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / _LARGEST).astype(np.float32)  # [n, rows, columns]
    x = images[:, None] if layout == "image" else images.transpose(0, 2, 1)
    y = digits.target.astype(np.int64)
    parts = split(len(y), train=train_size, validation=validation_size, test=test_size, seed=split_seed, classes=y)
    return TaskData(
        kind="classes",
        input_shape=tuple(x.shape[1:]),
        num_outputs=10,
        train=ArraySamples(x[parts.train], y[parts.train]),
        validation=ArraySamples(x[parts.validation], y[parts.validation]),
        open_test=lambda: ArraySamples(x[parts.test], y[parts.test]),
        class_names=tuple("0123456789"),
        note=f"scikit-learn's digits as {layout}: {len(parts.train)} of {len(y)} samples for training",
    )


def check_settings(
    kind: str, train_size: int | None, validation_size: int, test_size: int, split_seed: int, layout: str
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: unknown layout, another kind, or a size out of range.
    """
    if kind != "classes":
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint="the digits have kind=classes")
    if layout not in _LAYOUTS:
        raise ConfigError(f"'{layout}' is not allowed", where="task.layout", hint=suggest(str(layout), _LAYOUTS))
    check_train(train_size)
    for key, size in (("task.validation_size", validation_size), ("task.test_size", test_size)):
        if size < 1:
            raise ConfigError(f"{size} is out of range", where=key, hint="allowed: 1 or more")
    check_seed(split_seed)
