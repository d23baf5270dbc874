"""Your own data without code: arrays in .npz or .npy files.

Inputs of another shape or dtype than the training inputs', and infinity raise DataError.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.arrays.layout import Names, Pair, StoredRows, locate, read_groups
from orca_cli.data.arrays.preprocessing import (
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
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.contents import hashes_of_rows
from orca_cli.data.gaps import Gaps, How, count_missing, ending_note, fit_gaps
from orca_cli.data.own_data import counted, cut_notes, described
from orca_cli.data.samples import ArraySamples, channel_scale
from orca_cli.data.settings import check_rules, fractions_rule, missing_targets_rule
from orca_cli.data.targets import fit_targets, plain_labels
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, Reporter, TaskData

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
    """Return a task over arrays in files; conf/task/arrays.yaml explains the settings. See shared.assemble.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2); or x_train, y_train,
    x_val, ... . An .npy file holds x, and another one y. A folder holds .npy files, a sequence each, and a table with a row
    for each file. Inputs [n, L] become [n, 1, L]. Of a split with a file of its own, test in particular, only headers and
    groups are read before it is opened.

    Raises:
        MemoryExhaustedError: an array does not fit into memory.
    """
    files = {"train": (train, labels), "validation": (validation, validation_labels), "test": (test, test_labels)}
    names = Names(x, y, None if padding else lengths or LENGTHS, lengths is not None, group)
    base, rows, others = locate(files, names, data_folder, kind, missing_targets)
    check_enough(len(rows["train"]), "samples", base.x.where)
    settings = _Settings(
        kind, (x, y), num_classes, channels_last, missing_targets, padding, lengths or LENGTHS, length,
        gaps, gap_indicator, normalize,
    )  # fmt: skip
    arrays = _Arrays(settings, base, rows, others, reporter)
    return assemble("arrays", reporter, kind, arrays.pool, (validation_fraction, test_fraction), split_seed, arrays.fit)


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
    labelled = {"validation": (validation, validation_labels), "test": (test, test_labels)}
    array = f"'{group}' is the array of {'inputs' if group == x else 'targets'}"
    is_counted = num_classes is not None and kind in ("labels", "values")
    what, columns = f"does not apply to task.kind={kind}", "remove it: y has one column per output"
    check_rules(
        *(
            (
                file is None and labels is not None,
                f"{part}_labels",
                "given without its inputs",
                f"give task.{part}=FILE.npy",
            )
            for part, (file, labels) in labelled.items()
        ),
        fractions_rule(validation_fraction, test_fraction, (validation, test)),
        (is_counted, "num_classes", what, columns),
        (None not in (lengths, padding), "lengths", f"does not go with task.padding={padding}", "remove one of them"),
        (group in (x, y), "group", array, "name the array that says which samples belong together"),
        missing_targets_rule(kind, missing_targets),
    )


@dataclass(frozen=True)
class _Settings:
    """The arguments of `load` that say how arrays become inputs and targets."""

    kind: Kind
    names: tuple[str, str]  # of inputs and targets in .npz files
    num_classes: int | None
    channels_last: bool
    missing_targets: bool
    padding: Marks | None
    lengths: str
    length: int | None
    gaps: How
    gap_indicator: bool
    normalize: bool


class _Arrays:
    """What `locate` returns, of which the training file is read at once and others when they are opened, as samples."""

    def __init__(
        self, settings: _Settings, base: Pair, rows: dict[str, np.ndarray], others: dict[str, Pair], reporter: Reporter
    ) -> None:
        self._settings, self._base, self._others, self._reporter = settings, base, others, reporter
        self._sample, learn = _input_sample(base.x, settings.channels_last), rows["train"]
        (values, ends), y = _read(base, settings.padding, settings.channels_last), base.y.read()
        classes = plain_labels(y, base.y.where)[learn] if settings.kind == "classes" else None
        self._values, self._ends, self._y = values, ends, y
        self._groups, self._records = read_groups(base, rows, others)
        axis = time_axis(base.x.shape[1:], settings.channels_last)
        self.pool = Pool(
            "samples", rows, others, classes, self._records.get("train"),
            lambda: hashes_of_rows(values, learn, ends, axis),
        )  # fmt: skip

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how arrays become samples; see `assemble`."""
        settings, base, learn = self._settings, self._base, rows["train"]
        form, labels = self._form(learn)
        x, y = form.oriented((self._values, self._ends), base.x.where), form.targets.encode(labels, base.y.where)
        has_gaps = count_missing(x).any()
        scale, unknown, constants = channel_scale(x, learn, has_gaps)
        extent, indicator = form.file_shape[1:], settings.gap_indicator
        filling, gap_notes = fit_gaps(unknown, extent, settings.gaps, indicator, scale.mean, base.x.where)
        gap_notes += ending_note(x, learn) if has_gaps else []
        preprocessing = replace(form, gaps=filling, scale=scale if settings.normalize else None)
        for pair in self._others.values():
            preprocessing.check(pair.x, pair.x.where)

        def samples(part: str) -> ArraySamples:
            if part not in rows:
                return self._open(part, preprocessing, filling)
            if has_gaps and part != "train":
                self._say(part, [filling.note(count_missing(x, rows[part]))])
            # What has no gaps keeps its digest.
            return ArraySamples(
                x, y, None, rows[part], preprocessing.scale, self._groups, filling if has_gaps else None
            )

        length = None if form.padding is None else form.padding.length
        notes = [_shape_note(base.x, self._sample, self._ends, learn), *cut_notes(self._ends, length)]
        notes += [*([base.note] if base.note else []), *gap_notes, form.targets.note(), *constants]
        num_test = len(rows["test"]) if "test" in rows else self._others["test"].x.shape[0]
        return Fitted(preprocessing, preprocessing.input_shape, form.targets, samples, notes, num_test)

    def _form(self, learn: np.ndarray) -> tuple[ArrayPreprocessing, np.ndarray]:
        """Return the preprocessing but for scale and means of gaps, and all targets, of the inputs' steps where dense."""
        settings, where, ends, y = self._settings, self._base.y.where, self._ends, self._y
        stored, padding, missing = self._base.x.shape[1:], None, settings.missing_targets
        if ends is not None:
            length = settings.length or int(ends[learn].max())
            padding = Padding("nan" if settings.padding else "lengths", length, missing, settings.lengths)
            axis = time_axis(stored, settings.channels_last)
            stored = (*stored[:axis], length, *stored[axis + 1 :])
            if settings.kind == "dense":
                y, missing = padding.targets(y, ends, settings.channels_last, where), True
        elif settings.length is not None:
            hint = "give an array of lengths, or task.padding=nan"
            raise ConfigError("applies to sequences of different lengths", where="task.length", hint=hint)
        channels, *extent = oriented_shape(stored, settings.channels_last)
        targets = fit_targets(
            settings.kind, y, learn, where, tuple(extent), self._base.outputs,
            num_classes=settings.num_classes, channels_last=settings.channels_last, missing=missing,
        )  # fmt: skip
        no_means = Gaps(settings.gaps, np.zeros(channels))
        return ArrayPreprocessing(stored, settings.channels_last, targets, None, settings.names, padding, no_means), y

    def _open(self, part: str, preprocessing: ArrayPreprocessing, filling: Gaps) -> ArraySamples:
        """Read a split that has a file of its own, and report what does not fit the training samples."""
        pair, padding = self._others[part], preprocessing.padding
        stored, ends = _read(pair, self._settings.padding, self._settings.channels_last)
        x = preprocessing.oriented((stored, ends), pair.x.where)
        self._say(part, cut_notes(ends, None if padding is None else padding.length))
        y = preprocessing.encoded_targets(pair.y.read(), pair.y.where, ends)
        unknown = count_missing(x)
        self._say(part, [filling.note(unknown)])
        used = filling if filling.flagged or unknown.any() else None
        return ArraySamples(x, y, None, None, preprocessing.scale, self._records.get(part), used)

    def _say(self, part: str, notes: list[str]) -> None:
        for note in filter(None, notes):
            self._reporter.say(f"{part} split: {note}")


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
