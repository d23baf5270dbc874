"""Your own data without code: arrays in .npz or .npy files.

`load` opens the files (`files.py`), reads the arrays of the training file and leaves the draw of
splits to `assemble`, which calls `_fit` with the rows that are for training. Other files are read
when their split is opened.

Shapes: n samples, N those of the training file.
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

# A last axis of at most the first number, behind axes of at least the second, looks like channels.
_MOST_CHANNELS = 4
_LEAST_SIDE = 8
# Different whole numbers, stored as floats, up to which targets are classes.
_MOST_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class ArraySettings:
    """The settings of task=arrays; see `load`."""

    train: Annotated[str, ".npz with x and y, or .npy with x"]
    kind: Annotated[
        Kind | None, "classes, labels, values or dense; null: as y looks, and said so"
    ] = None
    labels: Annotated[str | None, ".npy with y, where train is an .npy"] = None
    validation: Annotated[
        str | None, "file of the validation split; null: drawn from the training file"
    ] = None
    validation_labels: Annotated[str | None, "as labels, of that split"] = None
    test: Annotated[
        str | None,
        "file of the test split, read at the end of a run only; null: drawn from the training file",
    ] = None
    test_labels: Annotated[str | None, "as labels, of that split"] = None
    x: Annotated[str, "name of the inputs in .npz files"] = "x"
    y: Annotated[str, "name of the targets in .npz files"] = "y"
    split_seed: Annotated[
        Seed, "seed of the splits that are drawn: 0 or more; not the seed of the run"
    ] = 0
    validation_fraction: Annotated[
        Fraction, "part of the training file that is drawn: above 0 and below 1"
    ] = 0.15
    test_fraction: Annotated[Fraction, "as validation_fraction"] = 0.15
    normalize: Annotated[
        bool, "subtract each channel's mean over the training split, divide by its deviation"
    ] = True
    num_classes: Annotated[
        Annotated[int, Ge(2)] | None,
        "classes 0..K-1: 2 or more; null: the labels that occur in the training split",
    ] = None
    channels_last: Annotated[
        bool | None,
        "true: x is (n, L, C) or (n, H, W, C), and dense y (n, *E, K); false: "
        "channels first; null: false, but x with a last axis of 4 or less "
        "behind axes of 8 or more is refused",
    ] = None
    missing_targets: Annotated[
        bool, "true: NaN in y (not classes) is a missing target, left out of losses and errors"
    ] = False
    lengths: Annotated[
        str | None,
        "array in .npz files with the steps of each sequence; null: `lengths` where there is one",
    ] = None
    padding: Annotated[
        Literal["nan", "none"] | None,
        "nan: sequences end where only NaN follows; none: all steps are data; null: as lengths say",
    ] = None
    length: Annotated[
        Count | None,
        "steps of the input where lengths differ; longer ones are cut; null: "
        "the longest of training",
    ] = None
    group: Annotated[str | None, "array of samples that belong together: never in two splits"] = (
        None
    )
    gaps: Annotated[
        How,
        "NaN in x becomes: mean: the channel's training mean; linear: what "
        "lies between in time (sequences)",
    ] = "mean"
    gap_indicator: Annotated[
        bool,
        "true: a channel with NaN in training gets another one that is 1 where a value was missing",
    ] = False


@dataclass(frozen=True)
class _Source:
    """What was opened and read before anything is learned: the arrays of the training file, N rows.

    Of `form`, targets, scale, means of gaps and the length of sequences are open.
    """

    settings: ArraySettings
    splits: StoredSplits
    form: ArrayPreprocessing
    raw_inputs: RawInputs
    y: np.ndarray
    kind: Kind  # as set, or as the targets look
    where: str  # the origin of the inputs
    y_where: str
    groups: dict[str, np.ndarray]  # the group of each row, of every split that has groups
    reporter: Reporter


def load(settings: ArraySettings, data_folder: Path, reporter: Reporter) -> TaskData:
    """Return a task over arrays in files. See `assemble`.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2);
    or x_train, y_train, x_val, ... . An .npy file holds x, and another one y. Inputs [n, L] become
    [n, 1, L]. Of a split with a file of its own, test in particular, only headers and groups are
    read before it is opened. MemoryExhaustedError: an array does not fit.
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
    """Raise ConfigError for settings that exclude each other, whatever the files hold."""
    # With `padding` set, no array of lengths is read.
    if settings.lengths is not None and settings.padding is not None:
        raise ConfigError(
            f"does not go with task.padding={settings.padding}",
            where="task.lengths",
            hint="remove one of them",
        )
    if settings.group in (settings.x, settings.y):
        role = "inputs" if settings.group == settings.x else "targets"
        raise ConfigError(
            f"'{settings.group}' is the array of {role}",
            where="task.group",
            hint="name the array that says which samples belong together",
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
            f"inputs have shape {shape}",
            where=stored_inputs.where,
            hint="allowed: (n, L), (n, C, L), (n, C, H, W), (n, C, D, H, W);"
            " with task.channels_last=true channels last",
        )
    # Headers of all files: a test file of another shape fails now, not at the end of a run.
    for arrays in splits.arrays.values():
        form.check(arrays["x"], arrays["x"].where)
    raw_inputs = _read(train_arrays, form)
    y = train_arrays["y"].read()
    kind = settings.kind
    if kind is None:
        kind = _inferred_kind(y, form)
        reporter.say(f"arrays: y {y.shape} read as {kind} (task.kind={kind})")
    # Groups of every file are read: a group in two splits must fail before training.
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
        # Groups of all files are numbered together, so that none is in two splits.
        groups=group_rows(group_columns, splits.rows),
        reporter=reporter,
    )


def _inferred_kind(y: np.ndarray, form: ArrayPreprocessing) -> Kind:
    """Return the kind that targets look like.

    Those of a map are as large as the input. Texts and integers are classes, and so are at most 20
    different whole numbers; rows of 0 and 1 are labels; others are numbers.
    """
    extent = form.file_shape[1:]
    if y.ndim > 1 and extent in (y.shape[1:], y.shape[2:]):
        return "dense"
    if y.ndim == 1 and y.dtype.kind != "f":
        return "classes"
    if y.dtype.kind not in "fiub":
        # Refused later, where the message says what classes may be.
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
    # Only then do lengths in the files count.
    if settings.padding is None:
        names["lengths"] = settings.lengths or LENGTHS
    if settings.group is not None:
        names["group"] = settings.group
    # An array of lengths is used where there is one, and needed where a setting names it.
    optional = ("lengths",) if settings.lengths is None else ()
    return locate(files, Roles(names=names, optional=optional), data_folder)


def _unfitted(settings: ArraySettings, train_arrays: Arrays) -> ArrayPreprocessing:
    """Return the form of samples as far as settings and headers say it; see `_Source`."""
    padding = _padding(settings, has_lengths="lengths" in train_arrays)
    stored_inputs = train_arrays["x"]
    if settings.channels_last is None:
        _check_layout(stored_inputs)
    return ArrayPreprocessing(
        stored_shape=stored_inputs.shape[1:],
        # Null is false from here on: the layout was checked above.
        channels_last=bool(settings.channels_last),
        # Unknown, like the scale, until `_fit` learns both.
        targets=TargetForm(kind="values"),
        scale=None,
        names=(settings.x, settings.y),
        padding=padding,
        # Set already: without gaps, `oriented` would refuse NaN.
        gaps=Gaps(how=settings.gaps, fill=np.zeros(0)),
    )


def _padding(settings: ArraySettings, has_lengths: bool) -> Padding | None:
    """Return how the ends of sequences are given; None where all samples have one shape.

    A length of 0 is open until the training rows are known.
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
            "applies to sequences of different lengths",
            where="task.length",
            hint="give an array of lengths, or task.padding=nan",
        )
    return None


def _check_layout(stored_inputs: StoredArray) -> None:
    """Raise DataError for inputs that look like (n, *E, C), as no setting says otherwise.

    They have a last axis of 4 or less behind axes of 8 or more, and would be read as (n, C, *E).
    """
    # Inputs (n, L) have no channels that could be last.
    if len(stored_inputs.shape) < 3:
        return
    *sides, last = stored_inputs.shape[1:]
    if last > _MOST_CHANNELS or min(sides) < _LEAST_SIDE:
        return
    as_channels_first = described((*sides, last))
    as_channels_last = described((last, *sides))
    raise DataError(
        f"inputs {stored_inputs.shape} would be read as {as_channels_first}",
        where=stored_inputs.where,
        hint=f"task.channels_last=true reads {as_channels_last},"
        " task.channels_last=false keeps the first",
    )


def _read(arrays: Arrays, form: ArrayPreprocessing) -> RawInputs:
    """Return the inputs of a split as in the file, with the checked lengths [n] of sequences."""
    stored_inputs = arrays["x"]
    x = stored_inputs.read()
    if "lengths" in arrays:
        stored_lengths = arrays["lengths"]
        unchecked = RawInputs(x, stored_lengths.read())
        ends = form.ends(unchecked, stored_lengths.where)
    else:
        # Ends that NaN marks are looked for once, and are lengths from here on.
        ends = form.ends(RawInputs(x), stored_inputs.where)
    return RawInputs(x, ends)


def _pool(source: _Source) -> Pool:
    """Return the training data as `assemble` draws splits from them."""
    form = source.form
    classes = None
    if source.kind == "classes":
        classes = plain_labels(source.y, source.y_where)
        # Numbers need no such check: `plain_labels` refuses NaN.
        if classes.dtype.kind == "U":
            check_labels(classes, source.y_where)
    if form.padding is not None:
        # Inputs are identical if they are so up to their ends; nothing is cut.
        form = replace(form, padding=replace(form.padding, length=form.file_shape[1]))
    return Pool(
        unit="samples",
        where=source.where,
        rows=source.splits.rows,
        # Train is among them, and is never drawn.
        supplied=source.splits.arrays,
        classes=classes,
        groups=source.groups.get("train"),
        # Called only where a split is drawn, since it reads all inputs.
        contents=partial(hashes_of_rows, form.assembled(source.raw_inputs, source.where)),
    )


def _targets(source: _Source, form: ArrayPreprocessing) -> tuple[np.ndarray, bool]:
    """Return the targets of the training file, and whether some may be missing."""
    ends = source.raw_inputs.lengths
    if source.kind != "dense" or form.padding is None or ends is None:
        return source.y, source.settings.missing_targets
    # Dense targets end where their sequences do: all that comes after is a missing target.
    y = form.padding.targets(source.y, ends, form.channels_last, source.y_where)
    return y, True


def _fit(source: _Source, rows: dict[str, np.ndarray]) -> Fitted:
    """Learn from the training rows how arrays become samples; see `assemble`."""
    settings = source.settings
    training_rows = rows["train"]
    ends = source.raw_inputs.lengths
    # The length comes first, since inputs and targets are both cut to it.
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
    # All rows, so that a class that only a drawn split has is refused before training.
    encoded_y = targets.encode(y, source.y_where)
    # Without gaps nothing is filled, and digests do not depend on how it would be.
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
    # The gaps are kept even where no input has any: new data may.
    form = replace(form, targets=targets, scale=scale, gaps=inputs.gaps)

    # All splits in the training file share these arrays, and differ in their rows.
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
    """Return the form with the length that is set, or that of the longest training sequence."""
    if form.padding is None or ends is None:
        return form
    length = form.padding.length
    if length == 0:
        # From training rows alone: other splits must not decide the shape of the input.
        length = int(ends[training_rows].max())
    stored_shape = with_steps(form.stored_shape, length, form.channels_last)
    padding = replace(form.padding, length=length)
    return replace(form, stored_shape=stored_shape, padding=padding)


def _open_split(source: _Source, form: ArrayPreprocessing, split_name: str) -> ArraySamples:
    """Return the samples of a split that has arrays of its own.

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
        gaps = None  # a split without gaps has the same digest whatever fills them
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
    return f"inputs {source.raw_inputs.x.shape} read as {sample}"


def _notes_on_cuts(form: ArrayPreprocessing, ends: np.ndarray | None) -> list[str]:
    """Return a note on the sequences that are longer than the input; empty where there are none."""
    if form.padding is None or ends is None:
        return []
    counts = remarks(ends, form.padding.length)
    return [f"{counted(count, 'sample')} {remark}" for remark, count in counts.items()]
