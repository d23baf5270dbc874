"""Your own data without code: arrays in .npz or .npy files.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.ranges import Fraction, Seed
from orca_cli.tasks.arrays.layout import Pair, locate
from orca_cli.tasks.arrays.preprocessing import ArrayPreprocessing
from orca_cli.tasks.shared.own_data import check_enough, check_missing_targets
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.tasks.shared.splits import check_fractions, draw
from orca_cli.tasks.shared.targets import plain_labels


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Kind,
    train: str,
    labels: str | None = None,
    validation: str | None = None,
    validation_labels: str | None = None,
    test: str | None = None,
    test_labels: str | None = None,
    x: str = "x",
    y: str = "y",
    split_seed: Seed = 0,
    validation_fraction: Fraction = 0.15,
    test_fraction: Fraction = 0.15,
    normalize: bool = True,
    num_classes: Annotated[int, Ge(2)] | None = None,
    channels_last: bool = False,
    missing_targets: bool = False,
) -> TaskData:
    """Return a task over arrays in files.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2); or x_train, y_train,
    x_val, ... . An .npy file holds x, and another one y. Inputs [n, L] become [n, 1, L]. See shared.own_data.

    Args:
        kind: classes: y [n] integers or strings. labels: y [n, K] of 0 and 1. dense: y [n, *E] or [n, K, *E] floats, or
            [n, *E] integers, a class at every position.
        train: file of the training split, and of the splits that have no file.
        labels: as validation_labels and test_labels the .npy file of the targets, where inputs are in an .npy file.
        test: its content is read at the end of a run only.
        x: name of the inputs in .npz files.
        y: name of the targets in .npz files.
        num_classes: K for integer classes; None infers it.
        channels_last: whether x is [n, *E, C], and y of kind dense [n, *E, K].

    Raises:
        ConfigError: settings contradict each other or the files.
        MemoryExhaustedError: an array does not fit into memory.
    """
    check_settings(
        kind,
        num_classes,
        missing_targets,
        validation,
        validation_labels,
        test,
        test_labels,
        validation_fraction,
        test_fraction,
    )
    files = {"train": (train, labels), "validation": (validation, validation_labels), "test": (test, test_labels)}
    base, rows, others = locate(files, (x, y), data_folder)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    rows, drawn = _draw(base, rows, {*rows, *others}, kind, fractions, split_seed)
    preprocessing, base_x, fitted = ArrayPreprocessing.fit(
        base,
        rows["train"],
        kind,
        normalize=normalize,
        num_classes=num_classes,
        channels_last=channels_last,
        missing_targets=missing_targets,
    )
    targets, scale = preprocessing.targets, preprocessing.scale
    base_y = _targets(base, preprocessing)
    for pair in others.values():
        preprocessing.check(pair.x, pair.x.where)

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(base_x, base_y, rows=rows[part], scale=scale)
        pair = others[part]
        own_x = preprocessing.oriented(pair.x.read(), pair.x.where)
        return ArraySamples(own_x, _targets(pair, preprocessing), scale=scale)

    train_samples, validation_samples = samples("train"), samples("validation")
    num_test = len(rows["test"]) if "test" in rows else others["test"].x.shape[0]
    counts = f"{len(train_samples)} training, {len(validation_samples)} validation and {num_test} test samples"
    note = "; ".join([counts, *drawn, *fitted, *targets.warnings(train_samples.targets())])
    reporter.say(f"arrays: {note}")
    return TaskData(
        kind=kind,
        input_shape=preprocessing.input_shape,
        num_outputs=targets.num_outputs,
        train=train_samples,
        validation=validation_samples,
        open_test=lambda: samples("test"),
        target_scale=targets.scale,
        class_names=targets.names,
        note=note,
        preprocessing=preprocessing,
    )


def check_settings(
    kind: str,
    num_classes: int | None,
    missing_targets: bool,
    validation: str | None,
    validation_labels: str | None,
    test: str | None,
    test_labels: str | None,
    validation_fraction: float,
    test_fraction: float,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    for part, file, labels in (("validation", validation, validation_labels), ("test", test, test_labels)):
        if file is None and labels is not None:
            what = "given without its inputs"
            raise ConfigError(what, where=f"task.{part}_labels", hint=f"give task.{part}=FILE.npy")
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)
    if num_classes is not None and kind == "labels":
        hint = "remove it: y has one column per label"
        raise ConfigError("does not apply to task.kind=labels", where="task.num_classes", hint=hint)
    check_missing_targets(kind, missing_targets)


def _draw(
    base: Pair, rows: dict[str, np.ndarray], given: set[str], kind: Kind, fractions: dict[str, float], seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of the base arrays that each split takes, and a note on what was drawn."""
    train = rows["train"]
    check_enough(len(train), "samples", base.x.where)
    classes = None
    if kind == "classes" and not given.issuperset(fractions):
        classes = plain_labels(base.y.read(), base.y.where)[train]
    drawn, note = draw(len(train), given, fractions, seed, classes)
    return rows | {part: train[chosen] for part, chosen in drawn.items()}, note


def _targets(pair: Pair, preprocessing: ArrayPreprocessing) -> np.ndarray:
    return preprocessing.targets.encode(pair.y.read(), pair.y.where)
