"""Your own data without code: arrays in .npz or .npy files.

Inputs of another shape or dtype than the training inputs', and infinity raise DataError.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.tasks.arrays.layout import Names, Pair, StoredRows, locate, read_groups
from orca_cli.tasks.arrays.preprocessing import (
    LENGTHS,
    NOT_PADDED,
    ArrayPreprocessing,
    Marks,
    Padding,
    Values,
    check_dtype,
    oriented_shape,
    sequence_ends,
    time_axis,
)
from orca_cli.tasks.shared.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.tasks.shared.contents import hashes_of_rows
from orca_cli.tasks.shared.gaps import Gaps, How, count_missing, ending_note, fit_gaps
from orca_cli.tasks.shared.own_data import check_missing_targets, counted, cut_notes, described
from orca_cli.tasks.shared.samples import ArraySamples, channel_scale
from orca_cli.tasks.shared.splits import check_fractions
from orca_cli.tasks.shared.targets import fit_targets, plain_labels
from orca_cli.untrusted.arrays import StoredArray

_BY_FAR = 4  # times as many channels as positions look like channels in the last place ...
_MANY_STEPS = 16  # ... if they are this many
_OF_IMAGES = (1, 3, 4)  # channels: grey, colour, with transparency


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
    lengths: str | None = None,
    padding: Marks | None = None,
    length: Count | None = None,
    group: str | None = None,
    gaps: How = "mean",
    gap_indicator: bool = False,
) -> TaskData:
    """Return a task over arrays in files.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2); or x_train, y_train,
    x_val, ... . An .npy file holds x, and another one y. Inputs [n, L] become [n, 1, L]. See shared.assemble.

    Args:
        kind: classes: y [n] integers or strings. labels: y [n, K] of 0 and 1. values: y [n] or [n, K], real numbers. dense:
            y [n, *E] or [n, K, *E] floats, or [n, *E] integers, a class at every position.
        train: file of the training split, and of the splits that have no file; or a folder of .npy files, a sequence each.
        labels: as validation_labels and test_labels the .npy file of the targets, where inputs are in an .npy file; of a
            folder the table with a row for each file and its target, by default the only one in it.
        test: its content is read at the end of a run only.
        x: name of the inputs in .npz files, or of the column of files.
        y: name of the targets in .npz files, or of the column of targets.
        num_classes: K for integer classes; None infers it.
        channels_last: whether x is [n, *E, C], and y of kind dense [n, *E, K].
        lengths: name of the steps of each sequence [n] in .npz files, whose inputs hold anything after that; None uses
            `lengths` where it is there.
        padding: nan: sequences end where nothing but NaN follows. none: all steps are data. None: as the lengths say.
        length: L for sequences of different lengths; longer ones are cut at the end. None takes the longest of training.
        group: name of the group of each sample [n] in .npz files, such as a patient; no two splits share one of its values.
        gaps: what takes the place of NaN in inputs: the channel's training mean; linear: what lies between the known values
            in time, for sequences.
        gap_indicator: whether a channel with NaN in training gets another one that is 1 where a value was missing, else 0.

    Raises:
        ConfigError: settings contradict each other or the files.
        MemoryExhaustedError: an array does not fit into memory.
    """
    files = {"train": (train, labels), "validation": (validation, validation_labels), "test": (test, test_labels)}
    names = Names(x, y, None if padding else lengths or LENGTHS, lengths is not None, group)
    base, rows, others = locate(files, names, data_folder, kind, missing_targets)
    where, place, train_rows = base.x.where, base.y.where, rows["train"]
    check_enough(len(train_rows), "samples", where)
    sample = _input_sample(base.x, channels_last)
    (values, ends), raw = _read(base, padding, channels_last), base.y.read()
    classes = plain_labels(raw, place)[train_rows] if kind == "classes" else None
    groups, records = read_groups(base, rows, others)
    axis = time_axis(base.x.shape[1:], channels_last)
    pool = Pool(
        "samples", rows, others, classes, records.get("train"),
        lambda: hashes_of_rows(values, train_rows, ends, axis),
    )  # fmt: skip

    def fit(rows: dict[str, np.ndarray]) -> Fitted:
        learn, longest, padded, missing, labelled = rows["train"], length, None, missing_targets, raw
        stored = base.x.shape[1:]
        if ends is not None:
            longest = length or int(ends[learn].max())
            padded = Padding("nan" if padding else "lengths", longest, missing_targets, lengths or LENGTHS)
            stored = (*stored[:axis], longest, *stored[axis + 1 :])
            if kind == "dense":
                labelled, missing = padded.targets(raw, ends, channels_last, place), True
        elif length is not None:
            hint = "give an array of lengths, or task.padding=nan"
            raise ConfigError("applies to sequences of different lengths", where="task.length", hint=hint)
        extent, outputs = oriented_shape(stored, channels_last)[1:], base.outputs
        targets = fit_targets(
            kind, labelled, learn, place, extent, outputs,
            num_classes=num_classes, channels_last=channels_last, missing=missing,
        )  # fmt: skip
        no_means = Gaps(gaps, np.zeros(sample[0]))
        unscaled = ArrayPreprocessing(stored, channels_last, targets, None, (x, y), padded, no_means)
        base_x, base_y = unscaled.oriented((values, ends), where), targets.encode(labelled, place)
        has_gaps = count_missing(base_x).any()
        scale, unknown, constants = channel_scale(base_x, learn, has_gaps)
        filling, gap_notes = fit_gaps(unknown, extent, gaps, gap_indicator, scale.mean, where)
        gap_notes += ending_note(base_x, learn) if has_gaps else []
        preprocessing = replace(unscaled, gaps=filling, scale=scale if normalize else None)
        for pair in others.values():
            preprocessing.check(pair.x, pair.x.where)

        def samples(part: str) -> ArraySamples:
            if part in rows:
                read, encoded, part_rows, record_of_row = base_x, base_y, rows[part], groups
                unknown = count_missing(read, part_rows) if has_gaps and part != "train" else None
                fills = has_gaps  # what has no gaps keeps its digest
            else:
                pair, part_rows, record_of_row = others[part], None, records.get(part)
                stored_x, part_ends = _read(pair, padding, channels_last)
                read = preprocessing.oriented((stored_x, part_ends), pair.x.where)
                for cut in cut_notes(part_ends, longest):
                    reporter.say(f"{part} split: {cut}")
                encoded = preprocessing.encoded_targets(pair.y.read(), pair.y.where, part_ends)
                unknown = count_missing(read)
                fills = bool(filling.flagged) or unknown.any()
            if unknown is not None and (note := filling.note(unknown)):
                reporter.say(f"{part} split: {note}")
            scaled, filled = preprocessing.scale, filling if fills else None
            return ArraySamples(read, encoded, None, part_rows, scaled, record_of_row, filled)

        notes = [_shape_note(base.x, sample, ends, learn), *cut_notes(ends, longest)]
        notes += [*([base.note] if base.note else []), *gap_notes, targets.note(), *constants]
        num_test = len(rows["test"]) if "test" in rows else others["test"].x.shape[0]
        return Fitted(preprocessing, preprocessing.input_shape, targets, samples, notes, num_test)

    return assemble("arrays", reporter, kind, pool, (validation_fraction, test_fraction), split_seed, fit)


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
    lengths: str | None,
    padding: Marks | None,
    group: str | None,
    x: str,
    y: str,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    for part, file, labels in (("validation", validation, validation_labels), ("test", test, test_labels)):
        if file is None and labels is not None:
            hint = f"give task.{part}=FILE.npy"
            raise ConfigError("given without its inputs", where=f"task.{part}_labels", hint=hint)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)
    if num_classes is not None and kind in ("labels", "values"):
        hint = "remove it: y has one column per output"
        raise ConfigError(f"does not apply to task.kind={kind}", where="task.num_classes", hint=hint)
    if lengths is not None and padding is not None:
        hint = "remove one of them"
        raise ConfigError(f"does not go with task.padding={padding}", where="task.lengths", hint=hint)
    if group is not None and group in (x, y):
        what = f"'{group}' is the array of {'inputs' if group == x else 'targets'}"
        raise ConfigError(what, where="task.group", hint="name the array that says which samples belong together")
    check_missing_targets(kind, missing_targets)


def _input_sample(x: StoredArray | StoredRows, channels_last: bool) -> tuple[int, ...]:
    """Return the shape (C, *E) of training inputs in a file; DataError for other shapes and dtypes."""
    check_dtype(x.dtype, x.where)
    if not 2 <= len(x.shape) <= 5 or 0 in x.shape:
        hint = "allowed: (n, L), (n, C, L), (n, C, H, W) and (n, C, D, H, W); with task.channels_last=true (n, L, C) and so on"
        raise DataError(f"inputs have shape {x.shape}", where=x.where, hint=hint)
    return oriented_shape(x.shape[1:], channels_last)


def _read(pair: Pair, padding: Marks | None, channels_last: bool) -> tuple[Values, np.ndarray | None]:
    """Return inputs as in the file, and the lengths [n] of sequences that have some."""
    x = pair.x.read()
    if isinstance(x, np.ndarray) and pair.lengths is None and padding != "nan":
        return x, None
    sample = oriented_shape(pair.x.shape[1:], channels_last)
    if len(sample) != 2:
        what = f"inputs of {' x '.join(map(str, sample))} are not sequences, so they cannot have lengths"
        raise DataError(what, where=pair.x.where, hint=NOT_PADDED)
    if pair.lengths is not None:
        return x, sequence_ends(x, pair.lengths.read(), "lengths", channels_last, pair.lengths.where)
    if padding == "nan" and x.dtype.kind != "f":
        what = f"inputs have dtype {x.dtype}, which has no NaN"
        raise DataError(what, where=pair.x.where, hint="remove task.padding=nan")
    return x, sequence_ends(x, None, padding or "lengths", channels_last, pair.x.where)


def _shape_note(x: StoredArray | StoredRows, sample: tuple[int, ...], ends: np.ndarray | None, rows: np.ndarray) -> str:
    """Return a note on the form of training inputs."""
    note = f"inputs {x.shape} read as "
    if ends is not None:
        shortest, longest = int(ends[rows].min()), int(ends[rows].max())
        length = f"{longest} steps each" if shortest == longest else f"{shortest} to {longest} steps"
        return f"{note}{counted(sample[0], 'channel')} of {length}"
    note += described(sample)
    # The last axis looks like channels where it is short, beside a square or long ones.
    is_image = len(sample) == 3 and sample[-1] in _OF_IMAGES and sample[0] == sample[1] > sample[-1]
    is_long = len(sample) > 1 and min(sample[:-1]) >= max(_MANY_STEPS, _BY_FAR * sample[-1])
    if x.shape[1:] == sample and (is_image or is_long):
        return f"{note}; warning: task.channels_last=true would read {described((sample[-1], *sample[:-1]))}"
    if x.shape[1:] == sample and sample[0] > 4 and abs(sample[0] - sample[1]) <= sample[1] // 2:
        alike = {2: "images of one channel are n x 1 x H x W", 3: "volumes of one channel are n x 1 x D x H x W"}
        note += f" ({alike[len(sample)]})" if len(sample) in alike else ""
    return note
