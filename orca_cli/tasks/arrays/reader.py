"""Your own data without code: arrays in .npz or .npy files.

Inputs of another shape or dtype than the training inputs', NaN and infinity raise DataError.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from torch import Tensor

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, NewData, Reporter, TaskData
from orca_cli.ranges import Fraction, Seed
from orca_cli.tasks.arrays.layout import locate
from orca_cli.tasks.arrays.new_data import locate_new
from orca_cli.tasks.shared.own_data import check_enough, check_missing_targets, counted
from orca_cli.tasks.shared.samples import ArraySamples, ChannelScale, as_inputs, blocks, channel_scale, constant_note
from orca_cli.tasks.shared.splits import check_fractions, draw
from orca_cli.tasks.shared.targets import TargetForm, check_finite, fit_targets, own_task, plain_labels
from orca_cli.untrusted.arrays import StoredArray


@dataclass(frozen=True)
class ArrayPreprocessing:
    """What the training arrays say about the inputs and targets of all splits; without scale, inputs stay as they are.

    A sample has `stored_shape` in the files: (L), (C, L) or (C, H, W); with channels last, (L), (L, C) or (H, W, C).
    """

    stored_shape: tuple[int, ...]
    channels_last: bool
    targets: TargetForm
    scale: ChannelScale | None
    names: tuple[str, str] = ("x", "y")  # of inputs and targets in .npz files

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *E)."""
        return _oriented_shape(self.stored_shape, self.channels_last)

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Check shape and dtype of inputs, which may be in a file still."""
        _check_dtype(x.dtype, where)
        if x.shape[1:] != self.stored_shape:
            what = f"samples have shape {x.shape[1:]}, those of the training set {self.stored_shape}"
            hint = f"the model takes {_described(self.input_shape)} a sample"
            raise DataError(what, where=where, hint=hint)

    def oriented(self, x: np.ndarray, where: str) -> np.ndarray:
        """Return inputs as [n, C, *E], without copying."""
        self.check(x, where)
        if x.ndim == 2:
            x = x[:, None]
        elif self.channels_last:
            x = np.moveaxis(x, -1, 1)
        done = 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, offset=done)
            done += len(block)
        return x

    def inputs(self, raw: np.ndarray, where: str = "inputs") -> tuple[Tensor, None]:
        """Return inputs as Batch.x, from an array [B, ...] as in the files."""
        return as_inputs(self.oriented(raw, where), self.scale), None

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz file, with targets where it has them, or of an .npy file of inputs."""
        found = locate_new(path, where, self.names, part)
        self.check(found.x, found.x.where)
        return found.samples(self.targets)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] as in the files."""
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise DataError(f"samples of different shapes: {error}", where=where, hint="give one array") from error
        self.check(array, where)
        return NewData(len(array), lambda start, stop: array[start:stop], lambda: None, where)


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
    shape, shape_note = _input_shape(base.x, channels_last)
    raw, place = base.y.read(), base.y.where
    classes = plain_labels(raw, place)[train_rows] if kind == "classes" else None
    fractions = {"validation": validation_fraction, "test": test_fraction}
    drawn, drawn_note = draw(len(train_rows), {*rows, *others}, fractions, split_seed, classes)
    rows |= {part: train_rows[chosen] for part, chosen in drawn.items()}
    own, missing = rows["train"], missing_targets
    targets = fit_targets(
        kind, raw, own, place, shape[1:], num_classes=num_classes, channels_last=channels_last, missing=missing
    )
    unscaled = ArrayPreprocessing(base.x.shape[1:], channels_last, targets, None, (x, y))
    base_x, base_y = unscaled.oriented(base.x.read(), base.x.where), targets.encode(raw, place)
    scale, constant = channel_scale(base_x, own)
    preprocessing = replace(unscaled, scale=scale) if normalize else unscaled
    for pair in others.values():
        preprocessing.check(pair.x, pair.x.where)

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(base_x, base_y, rows=rows[part], scale=preprocessing.scale)
        pair = others[part]
        own_x = preprocessing.oriented(pair.x.read(), pair.x.where)
        return ArraySamples(own_x, targets.encode(pair.y.read(), pair.y.where), scale=preprocessing.scale)

    learn, choose = samples("train"), samples("validation")
    num_test = len(rows["test"]) if "test" in rows else others["test"].x.shape[0]
    counts = f"{len(learn)} training, {len(choose)} validation and {num_test} test samples"
    notes = [counts, *drawn_note, shape_note, targets.note(), *constant_note(constant)]
    return own_task(kind, shape, targets, preprocessing, (learn, choose), samples, notes, "arrays", reporter)


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


def _check_dtype(dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "fiub":
        raise DataError(f"inputs have dtype {dtype}", where=where, hint="allowed: real numbers, such as float32")


def _oriented_shape(sample: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    if len(sample) == 1:
        return (1, *sample)
    return (sample[-1], *sample[:-1]) if channels_last else sample


def _input_shape(x: StoredArray, channels_last: bool) -> tuple[tuple[int, ...], str]:
    """Return the shape (C, *E) of training inputs in a file, and a note on it; DataError for other shapes and dtypes."""
    _check_dtype(x.dtype, x.where)
    shape = x.shape
    if not 2 <= len(shape) <= 4 or 0 in shape:
        hint = "allowed: (n, L), (n, C, L) and (n, C, H, W); with task.channels_last=true (n, L, C) and (n, H, W, C)"
        raise DataError(f"inputs have shape {shape}", where=x.where, hint=hint)
    sample = _oriented_shape(shape[1:], channels_last)
    note = f"inputs {shape} read as {_described(sample)}"
    if len(shape) == 3 and not channels_last and sample[0] > 4 and abs(sample[0] - sample[1]) <= sample[1] // 2:
        note += " (images of one channel are n x 1 x H x W)"
    return sample, note


def _described(sample: tuple[int, ...]) -> str:
    return f"{counted(sample[0], 'channel')} of {' x '.join(map(str, sample[1:]))}"
