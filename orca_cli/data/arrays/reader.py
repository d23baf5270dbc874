"""Your own data without code: arrays in .npz or .npy files.

`load` opens the files (`files.py`) and reads the arrays of the training file. `assemble` draws the
missing splits and calls `_fit` with the rows of each split. Other files are read when their split
is opened.

Shapes: n samples, N samples of the training file.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.arrays.files import Arrays, Roles, StoredSplits, locate
from orca_cli.data.arrays.preprocessing import (
    LENGTHS,
    ArrayPreprocessing,
    Padding,
    RawInputs,
    with_steps,
)
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.contents import hashes_of_rows
from orca_cli.data.own_data import check_labels, described
from orca_cli.data.samples import ArraySamples, Gaps, How, count_missing, fit_inputs, remarks
from orca_cli.data.splits import group_rows
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

# A last axis with length 4 or less, after axes of length 8 or more, looks like channels.
_MOST_CHANNELS = 4
_LEAST_SIDE = 8
# Targets stored as floats are classes if they have at most this number of different values, all of
# them integers.
_MOST_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class ArraySettings:
    """The settings of task=arrays; see `load`."""

    train: Annotated[str, ".npz file with arrays x and y, or .npy file with x only"]
    kind: Annotated[
        Kind | None, "classes, labels, values or dense; null: inferred from y, and reported"
    ] = None
    labels: Annotated[str | None, ".npy file with y, if task.train is an .npy file"] = None
    validation: Annotated[
        str | None, "file of the validation split; null: drawn from the training file"
    ] = None
    validation_labels: Annotated[str | None, ".npy file with y of the validation split"] = None
    test: Annotated[
        str | None,
        "file of the test split, read only at the end of a run; null: drawn from the training file",
    ] = None
    test_labels: Annotated[str | None, ".npy file with y of the test split"] = None
    x: Annotated[str, "name of the inputs in .npz files"] = "x"
    y: Annotated[str, "name of the targets in .npz files"] = "y"
    split_seed: Annotated[
        Seed, "seed for drawing the splits: 0 or more; the setting `seed` does not affect them"
    ] = 0
    validation_fraction: Annotated[
        Fraction,
        "fraction of the training file that is drawn for validation: above 0 and below 1",
    ] = 0.15
    test_fraction: Annotated[Fraction, "fraction of the training file drawn for the test"] = 0.15
    normalize: Annotated[
        bool,
        "true: subtract each channel's mean over the training split, then divide by its standard "
        "deviation",
    ] = True
    num_classes: Annotated[
        Annotated[int, Ge(2)] | None,
        "number K of classes 0..K-1: 2 or more; null: each "
        "different target in the training split is a class",
    ] = None
    channels_last: Annotated[
        bool | None,
        "Axis of the channels in x, and in y if y is dense. true: last axis, (n, L, C) or "
        "(n, H, W, C). false: second axis. null: second axis, but x is refused if its channels "
        "seem to be last, that is, if the last axis of a sample has at most 4 entries and each "
        "other axis at least 8",
    ] = None
    missing_targets: Annotated[
        bool, "true: NaN in y is a missing target, skipped in losses and errors; not for classes"
    ] = False
    lengths: Annotated[
        str | None,
        "array with the number of steps of each sequence; null: the array `lengths`, if it exists",
    ] = None
    padding: Annotated[
        Literal["nan", "none"] | None,
        "nan: a sequence ends where only NaN follows; none: all steps are data; null: the "
        "array of lengths gives the ends; if there is no such array, all steps are data",
    ] = None
    length: Annotated[
        Count | None,
        "number of steps of the input if lengths differ; longer sequences are cut; null: "
        "length of the longest training sequence",
    ] = None
    group: Annotated[
        str | None, "name of the array with each sample's group; a group is never in two splits"
    ] = None
    gaps: Annotated[
        How,
        "replacement of NaN in x; mean: the channel's training mean; linear: interpolation in time "
        "(sequences only)",
    ] = "mean"
    gap_indicator: Annotated[
        bool,
        "true: each channel with NaN in training gets one more channel: 1 at every NaN, else 0",
    ] = False


@dataclass(frozen=True)
class _Source:
    """The opened files, with the N rows of the training file, before anything is learned.

    In `form`, the targets, the scale, the means of gaps and the length of sequences are not known
    yet.
    """

    settings: ArraySettings
    splits: StoredSplits
    form: ArrayPreprocessing
    raw_inputs: RawInputs
    y: np.ndarray
    kind: Kind  # as set, or inferred from the targets
    where: str  # origin of the inputs
    y_where: str
    groups: dict[str, np.ndarray]  # split -> group of each row, for splits that have groups
    reporter: Reporter


def load(settings: ArraySettings, data_folder: Path, reporter: Reporter) -> TaskData:
    """Return a task over arrays in files (see `assemble`).

    An .npz file contains arrays x and y, and possibly `split` [n] of train/validation/test (or
    0/1/2); or it contains x_train, y_train, x_val, ... . An .npy file contains x, and another .npy
    file y. Inputs [n, L] become [n, 1, L]. From a separate file of a split, the test split in
    particular, only headers and groups are read until the split is opened. MemoryExhaustedError if
    an array does not fit into memory.
    """
    # Contradictions are refused before a file is opened.
    _check_settings(settings)
    source = _open(settings, data_folder, reporter)
    return assemble(
        "arrays",
        reporter,
        kind=source.kind,
        pool=_pool(source),
        fractions=(settings.validation_fraction, settings.test_fraction),
        split_seed=settings.split_seed,
        fit=partial(_fit, source),
    )


def _check_settings(settings: ArraySettings) -> None:
    """Raise ConfigError for settings that exclude each other, whatever the files contain."""
    # With `padding` set, no array of lengths is read.
    if settings.lengths is not None and settings.padding is not None:
        raise ConfigError(
            f"cannot be combined with task.padding={settings.padding}",
            where="task.lengths",
            hint="remove one of them",
        )
    if settings.group in (settings.x, settings.y):
        role = "inputs" if settings.group == settings.x else "targets"
        raise ConfigError(
            f"'{settings.group}' is the array of {role}",
            where="task.group",
            hint="name the array that has the group of each sample",
        )


def _open(settings: ArraySettings, data_folder: Path, reporter: Reporter) -> _Source:
    """Return the arrays of the training file, and the groups of all files.

    The headers of all inputs are checked.
    """
    splits = _locate(settings, data_folder)
    train_arrays = splits.arrays["train"]
    stored_inputs = train_arrays["x"]
    form = _unfitted(settings, train_arrays)
    shape = stored_inputs.shape
    num_axes = len(shape)
    if not 2 <= num_axes <= 5 or 0 in shape:
        raise DataError(
            f"has inputs of shape {shape},"
            " expected (n, L), (n, C, L), (n, C, H, W) or (n, C, D, H, W)",
            where=stored_inputs.where,
            hint="change the shape, or set task.channels_last=true if the channels come last",
        )
    # Headers of all files are checked: a test file with a wrong shape fails now, not at the end.
    for arrays in splits.arrays.values():
        form.check(arrays["x"], arrays["x"].where)
    raw_inputs = _read(train_arrays, form)
    y = train_arrays["y"].read()
    kind = settings.kind
    if kind is None:
        kind = _inferred_kind(y, form)
        reporter.say(f"arrays: y of shape {y.shape} is read as {kind} (task.kind={kind})")
    # Groups of every file are read, because a group in two splits must fail before training.
    group_columns = {}
    for split_name, arrays in splits.arrays.items():
        if "group" in arrays:
            stored_groups = arrays["group"]
            group_columns[split_name] = (stored_groups.read(), stored_groups.where)
    return _Source(
        settings=settings,
        splits=splits,
        form=form,
        raw_inputs=raw_inputs,
        y=y,
        kind=kind,
        where=stored_inputs.where,
        y_where=train_arrays["y"].where,
        # Groups of all files are numbered together, so that no group is in two splits.
        groups=group_rows(group_columns, splits.rows),
        reporter=reporter,
    )


def _inferred_kind(y: np.ndarray, form: ArrayPreprocessing) -> Kind:
    """Return the kind that targets appear to have.

    Dense targets have the extent of the inputs. Texts and integers are classes, and so are floats
    with at most 20 different values that are all integers. Rows of 0 and 1 are labels. All other
    targets are values.
    """
    extent = form.file_shape[1:]
    if y.ndim > 1 and extent in (y.shape[1:], y.shape[2:]):
        return "dense"
    if y.ndim == 1 and y.dtype.kind != "f":
        return "classes"
    if y.dtype.kind not in "fiub":
        # Refused later, with a message that lists the allowed types of classes.
        return "classes"
    known = np.unique(y[~np.isnan(y)]) if y.dtype.kind == "f" else np.unique(y)
    if y.ndim > 1:
        return "labels" if np.isin(known, (0, 1)).all() else "values"
    is_whole = (known == np.round(known)).all()
    return "classes" if is_whole and len(known) <= _MOST_CLASSES else "values"


def _locate(settings: ArraySettings, data_folder: Path) -> StoredSplits:
    """Return the arrays and rows of each split; only headers are read."""
    files = {
        "train": settings.train,
        "labels": settings.labels,
        "validation": settings.validation,
        "validation_labels": settings.validation_labels,
        "test": settings.test,
        "test_labels": settings.test_labels,
    }
    names = {"x": settings.x, "y": settings.y}
    # With `padding` set, lengths in the files are not used.
    if settings.padding is None:
        names["lengths"] = settings.lengths or LENGTHS
    if settings.group is not None:
        names["group"] = settings.group
    # An array of lengths is used if it exists, and required if a setting names it.
    optional = ("lengths",) if settings.lengths is None else ()
    return locate(files, Roles(names=names, optional=optional), data_folder)


def _unfitted(settings: ArraySettings, train_arrays: Arrays) -> ArrayPreprocessing:
    """Return the form of samples as far as settings and headers determine it; see `_Source`."""
    padding = _padding(settings, has_lengths="lengths" in train_arrays)
    stored_inputs = train_arrays["x"]
    if settings.channels_last is None:
        _check_layout(stored_inputs)
    return ArrayPreprocessing(
        stored_shape=stored_inputs.shape[1:],
        # Null becomes false, because the layout was checked above.
        channels_last=bool(settings.channels_last),
        # The targets, like the scale, are unknown until `_fit` learns both.
        targets=TargetForm(kind="values"),
        scale=None,
        names=(settings.x, settings.y),
        padding=padding,
        # Set already, because without gaps `oriented` would refuse NaN.
        gaps=Gaps(how=settings.gaps, fill=np.zeros(0)),
    )


def _padding(settings: ArraySettings, has_lengths: bool) -> Padding | None:
    """Return the padding that the settings describe; None if all samples have one shape.

    A length of 0 means that the length is not known until the training rows are.
    """
    if settings.padding == "nan" or has_lengths:
        return Padding(
            marked_by="nan" if settings.padding == "nan" else "lengths",
            length=settings.length or 0,
            missing_targets=settings.missing_targets,
            array=settings.lengths or LENGTHS,
        )
    if settings.length is not None:
        raise ConfigError(
            "applies only to sequences of different lengths",
            where="task.length",
            hint="add an array of lengths, set task.padding=nan, or remove task.length",
        )
    return None


def _check_layout(stored_inputs: StoredArray) -> None:
    """Raise DataError for inputs that appear to have channels last, (n, *E, C).

    Such inputs have a last axis of 4 or less after axes of 8 or more. Without a setting they would
    be read as (n, C, *E).
    """
    # Inputs (n, L) have no channel axis.
    if len(stored_inputs.shape) < 3:
        return
    *sides, last = stored_inputs.shape[1:]
    if last > _MOST_CHANNELS or min(sides) < _LEAST_SIDE:
        return
    as_channels_first = described((*sides, last))
    as_channels_last = described((last, *sides))
    raise DataError(
        f"has inputs of shape {stored_inputs.shape}, which may have channels first or last",
        where=stored_inputs.where,
        hint=f"set task.channels_last=true to read {as_channels_last},"
        f" or task.channels_last=false to read {as_channels_first}",
    )


def _read(arrays: Arrays, form: ArrayPreprocessing) -> RawInputs:
    """Return the inputs of a split as in the file, with lengths [n] of sequences after a check."""
    stored_inputs = arrays["x"]
    x = stored_inputs.read()
    if "lengths" in arrays:
        stored_lengths = arrays["lengths"]
        unchecked = RawInputs(x, stored_lengths.read())
        ends = form.ends(unchecked, stored_lengths.where)
    else:
        # Ends that NaN marks are found once, and stored as lengths.
        ends = form.ends(RawInputs(x), stored_inputs.where)
    return RawInputs(x, ends)


def _pool(source: _Source) -> Pool:
    """Return the training data in the form from which `assemble` draws splits."""
    form = source.form
    classes = None
    if source.kind == "classes":
        classes = plain_labels(source.y, source.y_where)
        # Only texts are checked, because `plain_labels` refuses NaN among numbers.
        if classes.dtype.kind == "U":
            check_labels(classes, source.y_where)
    if form.padding is not None:
        # Sequences are compared up to their ends, and none is cut before.
        form = replace(form, padding=replace(form.padding, length=form.file_shape[1]))
    return Pool(
        unit="samples",
        where=source.where,
        rows=source.splits.rows,
        # This includes train, which is never drawn.
        supplied=source.splits.arrays,
        classes=classes,
        groups=source.groups.get("train"),
        # Called only if a split is drawn, because it reads all inputs.
        contents=partial(hashes_of_rows, form.assembled(source.raw_inputs, source.where)),
    )


def _targets(source: _Source, form: ArrayPreprocessing) -> tuple[np.ndarray, bool]:
    """Return the targets of the training file, and whether some may be missing."""
    ends = source.raw_inputs.lengths
    if source.kind != "dense" or form.padding is None or ends is None:
        return source.y, source.settings.missing_targets
    # Dense targets end with their sequences; targets after the end count as missing.
    y = form.padding.targets(source.y, ends, form.channels_last, source.y_where)
    return y, True


def _fit(source: _Source, rows: dict[str, np.ndarray]) -> Fitted:
    """Learn from the training rows how arrays become samples; see `assemble`."""
    settings = source.settings
    training_rows = rows["train"]
    ends = source.raw_inputs.lengths
    # The length comes first, because inputs and targets are both cut to it.
    form = _with_length(source.form, ends, training_rows)
    y, may_miss = _targets(source, form)
    targets = fit_targets(
        source.kind,
        y,
        training_rows,
        source.y_where,
        extent=form.file_shape[1:],
        num_classes=settings.num_classes,
        channels_last=form.channels_last,
        missing=may_miss,
    )
    x = form.oriented(source.raw_inputs, source.where)
    # All rows are encoded, so that a class that only a drawn split has is refused before training.
    encoded_y = targets.encode(y, source.y_where)
    # Without gaps, digests must not depend on the way in which gaps would be filled.
    has_gaps = count_missing(x) > 0
    inputs = fit_inputs(
        x,
        training_rows,
        has_gaps=has_gaps,
        how=settings.gaps,
        indicator=settings.gap_indicator,
        where=source.where,
    )
    scale = inputs.scale if settings.normalize else None
    # The fill values are kept even if no input has gaps, because new data may have gaps.
    form = replace(form, targets=targets, scale=scale, gaps=inputs.gaps)

    # All splits in the training file share these arrays, but have different rows.
    def samples(split_name: str) -> ArraySamples:
        if split_name not in rows:
            return _open_split(source, form, split_name)
        return ArraySamples(
            x,
            encoded_y,
            rows=rows[split_name],
            scale=scale,
            groups=source.groups.get("train"),
            gaps=inputs.gaps if has_gaps else None,
        )

    notes = [
        _note_on_samples(source, form, training_rows),
        *_notes_on_cuts(form, ends),
        *inputs.notes,
        targets.note(),
        *inputs.warnings,
    ]
    return Fitted(
        preprocessing=form,
        input_shape=form.input_shape,
        targets=targets,
        samples=samples,
        notes=notes,
    )


def _with_length(
    form: ArrayPreprocessing, ends: np.ndarray | None, training_rows: np.ndarray
) -> ArrayPreprocessing:
    """Return the form with the length that is set, or that the longest training sequence has."""
    if form.padding is None or ends is None:
        return form
    length = form.padding.length
    if length == 0:
        # From training rows alone, because other splits must not affect the shape of the input.
        length = int(ends[training_rows].max())
    stored_shape = with_steps(form.stored_shape, length, form.channels_last)
    padding = replace(form.padding, length=length)
    return replace(form, stored_shape=stored_shape, padding=padding)


def _open_split(source: _Source, form: ArrayPreprocessing, split_name: str) -> ArraySamples:
    """Return the samples of a split that has separate arrays.

    The number of sequences that are cut is reported.
    """
    arrays = source.splits.arrays[split_name]
    raw_inputs = _read(arrays, form)
    for note in _notes_on_cuts(form, raw_inputs.lengths):
        source.reporter.say(f"{split_name} split: {note}")
    x = form.oriented(raw_inputs, arrays["x"].where)
    stored_targets = arrays["y"]
    y = form.encoded_targets(stored_targets.read(), stored_targets.where, raw_inputs.lengths)
    gaps = form.gaps
    if gaps is not None and not gaps.flagged and count_missing(x) == 0:
        gaps = None  # so the digest of a split without gaps does not depend on the fill values
    groups = source.groups.get(split_name)
    return ArraySamples(x, y, scale=form.scale, groups=groups, gaps=gaps)


def _note_on_samples(source: _Source, form: ArrayPreprocessing, training_rows: np.ndarray) -> str:
    """Return a note on the inputs in the training file, and the shape of training samples."""
    ends = source.raw_inputs.lengths
    sample = described(form.file_shape)
    if ends is not None:
        channels = counted(form.file_shape[0], "channel")
        training_ends = ends[training_rows]
        sample = f"{channels} of {training_ends.min()} to {training_ends.max()} steps"
    return f"inputs of shape {source.raw_inputs.x.shape} are read as {sample}"


def _notes_on_cuts(form: ArrayPreprocessing, ends: np.ndarray | None) -> list[str]:
    """Return a note on the sequences that are longer than the input; empty if all sequences fit."""
    if form.padding is None or ends is None:
        return []
    counts = remarks(ends, form.padding.length)
    return [f"{counted(count, 'sample')} {remark}" for remark, count in counts.items()]
