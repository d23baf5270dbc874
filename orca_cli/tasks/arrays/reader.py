"""Your own data without code: arrays in .npz or .npy files.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.ranges import Fraction, Seed
from orca_cli.tasks.arrays.layout import locate
from orca_cli.tasks.arrays.preprocessing import ArrayPreprocessing, input_shape
from orca_cli.tasks.shared.own_data import check_enough, check_missing_targets
from orca_cli.tasks.shared.samples import ArraySamples, channel_scale, constant_note
from orca_cli.tasks.shared.splits import check_fractions, draw
from orca_cli.tasks.shared.targets import fit_targets, own_task, plain_labels


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
    files = {"train": (train, labels), "validation": (validation, validation_labels), "test": (test, test_labels)}
    base, rows, others = locate(files, (x, y), data_folder)
    train_rows = rows["train"]
    check_enough(len(train_rows), "samples", base.x.where)
    shape, shape_note = input_shape(base.x, channels_last)
    raw, place = base.y.read(), base.y.where
    classes = plain_labels(raw, place)[train_rows] if kind == "classes" else None
    fractions = {"validation": validation_fraction, "test": test_fraction}
    drawn, drawn_note = draw(len(train_rows), {*rows, *others}, fractions, split_seed, classes)
    rows |= {part: train_rows[chosen] for part, chosen in drawn.items()}
    targets = fit_targets(
        kind,
        raw,
        rows["train"],
        place,
        shape[1:],
        num_classes=num_classes,
        channels_last=channels_last,
        missing=missing_targets,
    )
    unscaled = ArrayPreprocessing(base.x.shape[1:], channels_last, targets, None)
    base_x, base_y = unscaled.oriented(base.x.read(), base.x.where), targets.encode(raw, place)
    scale, constant = channel_scale(base_x, rows["train"])
    preprocessing = replace(unscaled, scale=scale) if normalize else unscaled
    for pair in others.values():
        preprocessing.check(pair.x, pair.x.where)

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(base_x, base_y, rows=rows[part], scale=preprocessing.scale)
        own = others[part]
        own_x = preprocessing.oriented(own.x.read(), own.x.where)
        return ArraySamples(own_x, targets.encode(own.y.read(), own.y.where), scale=preprocessing.scale)

    learn, choose = samples("train"), samples("validation")
    num_test = len(rows["test"]) if "test" in rows else others["test"].x.shape[0]
    counts = f"{len(learn)} training, {len(choose)} validation and {num_test} test samples"
    notes = [counts, *drawn_note, shape_note, targets.note(), *constant_note(constant)]
    return own_task(
        kind, shape, targets, preprocessing, (learn, choose), lambda: samples("test"), notes, "arrays", reporter
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
            hint = f"give task.{part}=FILE.npy"
            raise ConfigError("given without its inputs", where=f"task.{part}_labels", hint=hint)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)
    if num_classes is not None and kind == "labels":
        hint = "remove it: y has one column per label"
        raise ConfigError("does not apply to task.kind=labels", where="task.num_classes", hint=hint)
    check_missing_targets(kind, missing_targets)
