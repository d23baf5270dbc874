"""A data set of the Hugging Face hub, or a folder in its formats, without code.

Shapes: n rows, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import KINDS, Kind, Reporter, Scale, TaskData
from orca_cli.tasks.hub.inputs import HubSamples, Inputs, open_image, statistics
from orca_cli.tasks.hub.opening import Opened, open_dataset
from orca_cli.tasks.hub.targets import fit_targets
from orca_cli.tasks.shared.splits import check_fractions, check_seed
from orca_cli.tasks.table.splits import draw_rows, group_rows

if TYPE_CHECKING:
    from datasets import Dataset

_OTHER_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_MIN_ROWS = 10
_SHOWN = 20  # names listed in a message


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Kind = "classes",
    dataset: str | None = None,
    x: str | None = None,
    y: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    group: str | None = None,
    length: int | None = None,
    image_size: int | None = None,
    channels_last: bool = False,
    split_seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    normalize: bool = True,
    missing_targets: bool = False,
) -> TaskData:
    """Return a task over two columns of a data set; what is inferred is said.

    Inputs are a column of lists (L), nested lists (C, L) or (C, H, W), or images, which become 1 or 3 channels in 0..1.
    They are read from the mapped file batch by batch.

    Args:
        data_folder: a relative folder that is not in the working folder is looked for here.
        cache_folder: fetched and prepared files lie below it.
        reporter: is told what was inferred.
        kind: classes: y are class labels, integers or text. labels: lists of K times 0 or 1, or lists of the classes that
            are present. dense: lists of the extent of x, of floats, or of integers for a class at every position.
        dataset: hub id, or folder of .parquet files or of what save_to_disk writes.
        x: column of inputs.
        y: column of targets.
        config: one of the data set's configurations, where it has several.
        revision: commit, tag or branch on the hub; None takes the newest.
        train_split: split with the training rows, and those of the splits that there are not.
        validation_split: None takes validation, valid, val or dev, or else draws from the training rows.
        test_split: None takes test, or else draws.
        group: column that says which rows belong together; no two drawn splits share one of its values.
        length: steps that sequences are padded with 0 or cut to, 1 or more; None asks for one length of all.
        image_size: side in pixels that images are resized to, 1 or more; None asks for one size of all.
        channels_last: whether lists are (L, C) or (H, W, C), and dense targets (*E, K).
        split_seed: seed of the splits that are drawn.
        validation_fraction: part of the training rows (of their groups, where there are) that is drawn.
        test_fraction: the same for test.
        normalize: whether each channel's mean over the training rows is subtracted and its deviation divided by.
        missing_targets: whether NaN targets are allowed (kinds labels and dense); they count in no loss and no error.

    Raises:
        ConfigError: a setting is missing, unknown or out of range.
        DataError: unknown columns or splits, rows of several shapes, missing values, unsuitable targets.
        NetworkError: the hub cannot be reached and its cache does not have the data set.
        UnavailableError: the package `datasets` is not installed.
    """
    check_settings(
        kind, dataset, x, y, length, image_size, split_seed, validation_fraction, test_fraction, missing_targets
    )
    dataset, x, y = str(dataset), str(x), str(y)
    opened = open_dataset(dataset, config, revision, data_folder, cache_folder)
    parts = _parts(opened, {"train": train_split, "validation": validation_split, "test": test_split})
    for part, rows in parts.items():
        for key, column in (("x", x), ("y", y), ("group", group)):
            _check_column(column, rows, f"task.{key}", f"{opened.origin}[{part}]")
    base = parts["train"]
    if len(base) < _MIN_ROWS:
        raise DataError(
            f"{len(base)} rows are too few", where=opened.origin, hint=f"give {_MIN_ROWS} or more for training"
        )
    where = {part: f"{opened.origin}[{part}]" for part in parts}
    inputs = _infer_inputs(base, x, f"{where['train']}[{x}]", length, image_size, channels_last)
    records: dict[str, np.ndarray] = {}
    if group is not None:
        columns = {part: np.array(rows[group]) for part, rows in parts.items()}
        records = group_rows(columns, {part: f"{place}[{group}]" for part, place in where.items()})
    labels = {"y": np.array(base[y])} if kind == "classes" else {"y": np.empty(len(base))}
    fractions = {"validation": validation_fraction, "test": test_fraction}
    chosen, drawn = draw_rows(
        labels, "y" if kind == "classes" else None, records.get("train"), parts, fractions, split_seed
    )
    goal = fit_targets(kind, base, y, chosen["train"], inputs.shape[1:], channels_last, missing_targets, where["train"])
    base_y = goal.encode(base, where["train"])
    mean, std = None, None
    constant: list[int] = []
    if normalize:
        with reporter.track("reading training inputs", len(chosen["train"])) as advance:
            mean, std, constant = statistics(base, inputs, chosen["train"], f"{where['train']}[{x}]", advance)

    def samples(part: str) -> HubSamples:
        owner = "train" if part in chosen else part
        rows, place = parts[owner], where[owner]
        targets = base_y if owner == "train" else goal.encode(rows, place)
        own = chosen.get(part, np.arange(len(rows)))
        return HubSamples(rows, inputs, targets, own, f"{place}[{x}]", records.get(owner), mean, std)

    train, validation = samples("train"), samples("validation")
    shown = f"{inputs.shape[0]} channel{'s' if inputs.shape[0] > 1 else ''} of {' x '.join(map(str, inputs.shape[1:]))}"
    counts = f"{len(train)} training and {len(validation)} validation rows"
    warnings = [f"warning: channel {i} is constant in the training set" for i in constant[:_SHOWN]]
    note = "; ".join([opened.origin, counts, *drawn, shown, goal.note, *warnings])
    reporter.say(f"hub: {note}")
    return TaskData(
        kind=kind,
        input_shape=inputs.shape,
        num_outputs=goal.num_outputs,
        train=train,
        validation=validation,
        open_test=lambda: samples("test"),
        target_scale=_scale(train.targets()) if goal.form == "maps" else None,
        class_names=goal.names,
        note=note,
    )


def check_settings(
    kind: str,
    dataset: str | None,
    x: str | None,
    y: str | None,
    length: int | None,
    image_size: int | None,
    split_seed: int,
    validation_fraction: float,
    test_fraction: float,
    missing_targets: bool,
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: a setting is missing, unknown or out of range, or two contradict each other.
    """
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint=suggest(str(kind), KINDS))
    for key, value in {"dataset": dataset, "x": x, "y": y}.items():
        if not value:
            raise ConfigError("a value is needed", where=f"task.{key}", hint=f"give task.{key}=...")
    for key, size in {"length": length, "image_size": image_size}.items():
        if size is not None and size < 1:
            raise ConfigError(f"{size} is out of range", where=f"task.{key}", hint="allowed: 1 or more")
    if length is not None and image_size is not None:
        raise ConfigError(
            "is for sequences, and task.image_size for images", where="task.length", hint="give one of them"
        )
    if missing_targets and kind == "classes":
        raise ConfigError(
            "is not for task.kind=classes", where="task.missing_targets", hint="leave it out, and rows without a class"
        )
    check_seed(split_seed)
    check_fractions(validation_fraction, test_fraction)


def _parts(opened: Opened, wanted: dict[str, str | None]) -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    taken: dict[str, str] = {}
    for part, name in wanted.items():
        if name is None:
            free = [word for word in _OTHER_NAMES[part] if word in opened.splits and word not in wanted.values()]
            name = free[0] if free else None
        elif name not in opened.splits:
            raise DataError(
                f"{opened.origin} has no split '{name}'", where=f"task.{part}_split", hint=suggest(name, opened.splits)
            )
        if name is None or not len(opened.splits[name]):
            continue
        if name in taken:
            raise ConfigError(
                f"'{name}' is task.{taken[name]}_split too; its rows would be in both",
                where=f"task.{part}_split",
                hint="leave it out and the split is drawn from the training rows",
            )
        taken[name], found[part] = part, opened.splits[name]
    if "train" not in found:
        raise DataError("holds no rows", where=opened.origin, hint="give a data set with training rows")
    return found


def _check_column(column: str | None, rows: Dataset, key: str, where: str) -> None:
    names = rows.column_names
    if column is not None and column not in names:
        close = suggest(column, names)
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        hint = close if close.startswith("did you mean") else f"it has {shown}"
        raise DataError(f"{where} has no column '{column}'", where=key, hint=hint)


def _infer_inputs(
    rows: Dataset, x: str, where: str, length: int | None, image_size: int | None, channels_last: bool
) -> Inputs:
    """Return how a column becomes inputs, from its type and the first training row."""
    import datasets

    if isinstance(rows.features[x], datasets.Image):
        if length is not None:
            raise ConfigError("is for sequences", where="task.length", hint="give task.image_size=")
        first = open_image(rows.cast_column(x, datasets.Image(decode=False))[0][x], f"{where}, row 0")
        mode = "L" if first.mode in ("1", "L", "LA") else "RGB"
        size = (image_size, image_size) if image_size else None
        extent = size or (first.height, first.width)
        return Inputs(x, (1 if mode == "L" else 3, *extent), mode, size)
    if image_size is not None:
        raise ConfigError("is for images", where="task.image_size", hint=f"column '{x}' holds {rows.features[x]}")
    value: Any = rows.select_columns([x]).with_format("numpy", dtype=np.float64)[0][x]
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size:
        raise DataError(
            f"holds {rows.features[x]}, the first row of shape {array.shape}",
            where=where,
            hint="allowed: lists of numbers (L), (C, L) or (C, H, W), and images; for one number a column use task=table",
        )
    shape = Inputs(x, (), channels_last=channels_last).oriented_shape(array.shape)
    if length is not None:
        if len(shape) != 2:
            raise ConfigError("is for sequences", where="task.length", hint=f"rows have shape {array.shape}")
        shape = (*shape[:-1], length)
    return Inputs(x, shape, padded=length is not None, channels_last=channels_last)


def _scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...] over the training targets that are not missing."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    mean = np.nanmean(columns, axis=1, dtype=np.float64)
    std = np.nanstd(columns, axis=1, dtype=np.float64)
    std = np.where(std <= 1e-7 * np.abs(mean), 1.0, std)
    shape = (-1, *(1,) * (y.ndim - 2))
    return Scale(torch.from_numpy(mean.reshape(shape)).float(), torch.from_numpy(std.reshape(shape)).float())
