"""Your own data without code: arrays in .npz or .npy files.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import KINDS, Kind, Reporter, Scale, TaskData
from orca_cli.tasks.arrays.form import Form, infer_form
from orca_cli.tasks.arrays.layout import Layout, Pair, locate
from orca_cli.tasks.shared.samples import ArraySamples, blocks
from orca_cli.tasks.shared.splits import check_fractions, check_seed, split
from orca_cli.tasks.shared.targets import check_finite, plain_labels

_MIN_SAMPLES = 10
_SHOWN = 10  # channels named in a note


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Kind | None = None,
    train: str | None = None,
    labels: str | None = None,
    validation: str | None = None,
    validation_labels: str | None = None,
    test: str | None = None,
    test_labels: str | None = None,
    x: str = "x",
    y: str = "y",
    split_seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    normalize: bool = True,
    num_classes: int | None = None,
    channels_last: bool = False,
    missing_targets: bool = False,
) -> TaskData:
    """Return a task over arrays in files; shapes and classes are inferred and said.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2); or x_train, y_train,
    x_val, ... . An .npy file holds x, and the file `labels` holds y. Splits that no file gives are drawn from the training
    file. Inputs [n, L] become [n, 1, L].

    Args:
        data_folder: relative file names that do not exist in the working folder are looked for here.
        reporter: is told what was inferred.
        kind: classes: y [n] integers or strings. labels: y [n, K] of 0 and 1. dense: y [n, *E] or [n, K, *E] floats, or
            [n, *E] integers, a class at every position.
        train: file of the training set, and of the splits that have no file.
        labels: .npy file of its targets, where `train` is an .npy file.
        validation: file of the validation set.
        validation_labels: as `labels`.
        test: file of the test set; its content is read at the end of a run only.
        test_labels: as `labels`.
        x: name of the inputs in .npz files.
        y: name of the targets in .npz files.
        split_seed: seed of the splits that are drawn.
        validation_fraction: part of the training file that is drawn for validation, above 0 and below 1.
        test_fraction: the same for test.
        normalize: whether to subtract each channel's mean over the training set and divide by its deviation.
        num_classes: K for integer classes; inferred where None.
        channels_last: whether x is [n, *E, C], and y of kind dense [n, *E, K].
        missing_targets: whether NaN targets are allowed (kinds labels and dense); they count in no loss and no error.

    Raises:
        ConfigError: a setting is missing or out of range.
        DataError: missing files, wrong shapes or dtypes, NaN or infinity, labels out of range, classes without training
            sample, one class only, or fewer than 10 samples.
        UnsafeError: arrays of Python objects.
        MemoryExhaustedError: an array does not fit into memory.
    """
    check_settings(
        kind,
        train,
        validation,
        validation_labels,
        test,
        test_labels,
        split_seed,
        validation_fraction,
        test_fraction,
        num_classes,
        missing_targets,
    )
    assert kind is not None
    assert train is not None
    files = {
        "train": (train, labels),
        "validation": (validation, validation_labels),
        "test": (test, test_labels),
    }
    layout = locate(files, (x, y), data_folder)
    rows, drawn = _draw(layout, kind, {"validation": validation_fraction, "test": test_fraction}, split_seed)
    form = infer_form(layout.base, rows["train"], kind, num_classes, channels_last, missing_targets)
    whole_x, whole_y = _read(layout.base, form)
    mean, std, constant = _statistics(whole_x, rows["train"])
    scales = {"mean": mean, "std": std} if normalize else {}
    for pair in layout.others.values():
        form.check_inputs(pair.x)

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(whole_x, whole_y, rows=rows[part], **scales)
        own_x, own_y = _read(layout.others[part], form)
        return ArraySamples(own_x, own_y, **scales)

    train_samples, validation_samples = samples("train"), samples("validation")
    num_test = len(rows["test"]) if "test" in rows else layout.others["test"].x.shape[0]
    counts = f"{len(train_samples)} training, {len(validation_samples)} validation and {num_test} test samples"
    note = "; ".join([counts, *drawn, *form.notes, *_constant_note(constant), *form.warnings(train_samples.targets())])
    reporter.say(f"arrays: {note}")
    return TaskData(
        kind=kind,
        input_shape=form.input_shape,
        num_outputs=form.num_outputs,
        train=train_samples,
        validation=validation_samples,
        open_test=lambda: samples("test"),
        target_scale=_scale(train_samples.targets()) if form.targets == "maps" else None,
        class_names=form.vocabulary.names() if form.vocabulary else (),
        note=note,
    )


def check_settings(
    kind: str | None,
    train: str | None,
    validation: str | None,
    validation_labels: str | None,
    test: str | None,
    test_labels: str | None,
    split_seed: int,
    validation_fraction: float,
    test_fraction: float,
    num_classes: int | None,
    missing_targets: bool,
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: a setting is missing or out of range, or two contradict each other.
    """
    if kind not in KINDS:
        what = "a value is needed" if kind is None else f"'{kind}' is not allowed"
        raise ConfigError(what, where="task.kind", hint=suggest(str(kind), KINDS))
    if train is None:
        raise ConfigError("a value is needed", where="task.train", hint="give task.train=FILE.npz")
    for part, file, labels in (("validation", validation, validation_labels), ("test", test, test_labels)):
        if file is None and labels is not None:
            where, hint = f"task.{part}_labels", f"give task.{part}=FILE.npy"
            raise ConfigError("is given without its inputs", where=where, hint=hint)
    check_seed(split_seed)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)
    if num_classes is not None and not (isinstance(num_classes, int) and num_classes >= 2):
        raise ConfigError(f"{num_classes!r} is out of range", where="task.num_classes", hint="allowed: 2 or more")
    if num_classes is not None and kind == "labels":
        raise ConfigError("is not for task.kind=labels", where="task.num_classes", hint="leave it out: y says it")
    if missing_targets and kind == "classes":
        hint = "leave it out, and the samples without a class"
        raise ConfigError("is not for task.kind=classes", where="task.missing_targets", hint=hint)


def _draw(
    layout: Layout, kind: Kind, fractions: dict[str, float], seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of the base arrays that each split takes, and what was drawn, in words."""
    rows = layout.rows
    total = len(rows["train"])
    if total < _MIN_SAMPLES:
        raise DataError(
            f"{total} samples are too few", where=layout.base.x.where, hint=f"give {_MIN_SAMPLES} or more for training"
        )
    needed = {part: part not in rows and part not in layout.others for part in fractions}
    sizes = {part: float(fraction) if needed[part] else 0.0 for part, fraction in fractions.items()}
    if not any(sizes.values()):
        return rows, []
    classes = None
    if kind == "classes":
        labels = plain_labels(layout.base.y.read(), layout.base.y.where)[rows["train"]]
        classes = np.unique(labels, return_inverse=True)[1]
    keys = ("task.train", "task.validation_fraction", "task.test_fraction")
    parts = split(total, validation=sizes["validation"], test=sizes["test"], seed=seed, classes=classes, keys=keys)
    taken = {part: rows["train"][getattr(parts, part)] for part in ("train", "validation", "test")}
    missing = [part for part in sizes if sizes[part]]
    how = "stratified, " if kind == "classes" else ""
    note = f"{' and '.join(missing)} drawn from the training file ({how}split_seed={seed})"
    return rows | {"train": taken["train"]} | {part: taken[part] for part in missing}, [note]


def _read(pair: Pair, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs [n, C, *E], checked, and targets as Batch.y."""
    form.check_inputs(pair.x)
    x = form.orient(pair.x.read())
    done = 0
    for block in blocks(x, np.arange(len(x))):
        check_finite(block, pair.x.where, offset=done)
        done += len(block)
    return x, form.encode(pair.y.read(), pair.y.where)


def _statistics(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return each channel's mean [C] and deviation [C] over rows and extent, and the channels that are constant."""
    axes = (0, *range(2, x.ndim))
    count = len(rows) * int(np.prod(x.shape[2:], dtype=np.int64))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in blocks(x, rows):
        mean += block.sum(axis=axes, dtype=np.float64) / count
    centre = mean.reshape(-1, *(1,) * (x.ndim - 2))
    for block in blocks(x, rows):
        squares += ((block - centre) ** 2).sum(axis=axes)
    std = np.sqrt(squares / count)
    # Sums of many equal numbers are off by rounding; what is left then is no variation of the data.
    constant = std <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, 1.0, std), [int(i) for i in np.flatnonzero(constant)]


def _constant_note(channels: list[int]) -> list[str]:
    if not channels:
        return []
    shown = ", ".join(map(str, channels[:_SHOWN])) + (", ..." if len(channels) > _SHOWN else "")
    return [f"warning: channel {shown} is constant in the training set and carries no information"]


def _scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...] over the training targets that are not missing."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    mean = np.nanmean(columns, axis=1, dtype=np.float64)
    std = np.nanstd(columns, axis=1, dtype=np.float64)
    std = np.where(std <= 1e-7 * np.abs(mean), 1.0, std)
    shape = (-1, *(1,) * (y.ndim - 2))
    return Scale(torch.from_numpy(mean.reshape(shape)).float(), torch.from_numpy(std.reshape(shape)).float())
