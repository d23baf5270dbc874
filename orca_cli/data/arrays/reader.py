"""Your own data without code: arrays in .npz or .npy files.

Inputs of another shape or dtype than the training inputs', and infinity raise DataError.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.arrays.layout import Names, Pair, locate, read_groups
from orca_cli.data.arrays.preprocessing import (
    LENGTHS,
    NOT_PADDED,
    ArrayPreprocessing,
    Padding,
    check_dtype,
    oriented_shape,
    sequence_ends,
    time_axis,
)
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.contents import hashes_of_rows
from orca_cli.data.gaps import Gaps, How, fit_gaps, has_missing, remarks
from orca_cli.data.own_data import described
from orca_cli.data.samples import ArraySamples, channel_scale
from orca_cli.data.settings import check_rules
from orca_cli.data.targets import fit_targets, plain_labels
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted


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
    padding: Literal["nan", "none"] | None = None,
    length: Count | None = None,
    group: str | None = None,
    gaps: How = "mean",
    gap_indicator: bool = False,
) -> TaskData:
    """Return a task over arrays in files; conf/task/arrays.yaml explains the settings. See `assemble`.

    An .npz file holds arrays x and y, and possibly `split` [n] of train/validation/test (or 0/1/2); or x_train, y_train,
    x_val, ... . An .npy file holds x, and another one y. Inputs [n, L] become [n, 1, L]. Of a split with a file of its own,
    test in particular, only headers and groups are read before it is opened.

    Raises:
        MemoryExhaustedError: an array does not fit into memory.
    """
    array = f"'{group}' is the array of {'inputs' if group == x else 'targets'}"
    check_rules(
        (None not in (lengths, padding), "lengths", f"does not go with task.padding={padding}", "remove one of them"),
        (group in (x, y), "group", array, "name the array that says which samples belong together"),
    )
    files = {"train": (train, labels), "validation": (validation, validation_labels), "test": (test, test_labels)}
    names = Names(x, y, None if padding else lengths or LENGTHS, lengths is not None, group)
    base, rows, others = locate(files, names, data_folder)
    check_enough(len(rows["train"]), "samples", base.x.where)
    arrays = _Arrays(
        base, rows, others, reporter, kind, names, num_classes, channels_last, missing_targets, padding, length,
        gaps, gap_indicator, normalize,
    )  # fmt: skip
    return assemble("arrays", reporter, kind, arrays.pool, (validation_fraction, test_fraction), split_seed, arrays.fit)


@dataclass
class _Arrays:
    """What `locate` returns, of which the training file is read at once and others when they are opened, as samples.

    Beside it are the arguments of `load` that say how arrays become inputs and targets; `names` are those of `locate`.
    """

    base: Pair
    rows: dict[str, np.ndarray]
    others: dict[str, Pair]
    reporter: Reporter
    kind: Kind
    names: Names
    num_classes: int | None
    channels_last: bool
    missing_targets: bool
    padding: Literal["nan", "none"] | None
    length: int | None
    gaps: How
    gap_indicator: bool
    normalize: bool

    def __post_init__(self) -> None:
        base, learn = self.base, self.rows["train"]
        check_dtype(base.x.dtype, base.x.where)
        if not 2 <= len(base.x.shape) <= 5 or 0 in base.x.shape:
            hint = "allowed: (n, L), (n, C, L), (n, C, H, W) and (n, C, D, H, W); with task.channels_last=true channels last"
            raise DataError(f"inputs have shape {base.x.shape}", where=base.x.where, hint=hint)
        self._sample = oriented_shape(base.x.shape[1:], self.channels_last)
        (values, ends), self._y = self._read(base), base.y.read()
        self._values, self._ends = values, ends
        classes = plain_labels(self._y, base.y.where)[learn] if self.kind == "classes" else None
        self._groups, self._records = read_groups(base, self.rows, self.others)
        axis = time_axis(base.x.shape[1:], self.channels_last)
        self.pool = Pool(
            "samples", self.rows, self.others, classes, self._records.get("train"),
            lambda: hashes_of_rows(values, learn, ends, axis),
        )  # fmt: skip

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how arrays become samples; see `assemble`."""
        base, learn = self.base, rows["train"]
        form, labels = self._form(learn)
        x, y = form.oriented((self._values, self._ends), base.x.where), form.targets.encode(labels, base.y.where)
        has_gaps = has_missing(x)
        scale, unknown, constants = channel_scale(x, learn, has_gaps)
        extent = form.file_shape[1:]
        filling, gap_notes = fit_gaps(unknown, extent, self.gaps, self.gap_indicator, scale.mean, base.x.where)
        preprocessing = replace(form, gaps=filling, scale=scale if self.normalize else None)
        for pair in self.others.values():
            preprocessing.check(pair.x, pair.x.where)

        def samples(part: str) -> ArraySamples:
            if part not in rows:
                return self._open(part, preprocessing, filling)
            used = filling if has_gaps else None  # what has no gaps keeps its digest
            return ArraySamples(x, y, None, rows[part], preprocessing.scale, self._groups, used)

        notes = [self._shape_note(learn), *_cuts(form, self._ends), *gap_notes, form.targets.note(), *constants]
        return Fitted(preprocessing, preprocessing.input_shape, form.targets, samples, notes)

    def _form(self, learn: np.ndarray) -> tuple[ArrayPreprocessing, np.ndarray]:
        """Return the preprocessing but for scale and means of gaps, and all targets, of the inputs' steps where dense."""
        where, ends, y = self.base.y.where, self._ends, self._y
        stored, padding, missing = self.base.x.shape[1:], None, self.missing_targets
        if ends is not None:
            length = self.length or int(ends[learn].max())
            padding = Padding("nan" if self.padding else "lengths", length, missing, self.names.lengths or LENGTHS)
            axis = time_axis(stored, self.channels_last)
            stored = (*stored[:axis], length, *stored[axis + 1 :])
            if self.kind == "dense":
                y, missing = padding.targets(y, ends, self.channels_last, where), True
        elif self.length is not None:
            hint = "give an array of lengths, or task.padding=nan"
            raise ConfigError("applies to sequences of different lengths", where="task.length", hint=hint)
        channels, *extent = oriented_shape(stored, self.channels_last)
        targets = fit_targets(
            self.kind, y, learn, where, tuple(extent),
            num_classes=self.num_classes, channels_last=self.channels_last, missing=missing,
        )  # fmt: skip
        names, no_means = (self.names.x, self.names.y), Gaps(self.gaps, np.zeros(channels))
        return ArrayPreprocessing(stored, self.channels_last, targets, None, names, padding, no_means), y

    def _open(self, part: str, preprocessing: ArrayPreprocessing, filling: Gaps) -> ArraySamples:
        """Read a split that has a file of its own, and report which of its sequences are cut."""
        pair = self.others[part]
        stored, ends = self._read(pair)
        x = preprocessing.oriented((stored, ends), pair.x.where)
        for note in _cuts(preprocessing, ends):
            self.reporter.say(f"{part} split: {note}")
        y = preprocessing.encoded_targets(pair.y.read(), pair.y.where, ends)
        used = filling if filling.flagged or has_missing(x) else None
        return ArraySamples(x, y, None, None, preprocessing.scale, self._records.get(part), used)

    def _read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs as in the file, and the lengths [n] of sequences that have some."""
        x, channels_last = pair.x.read(), self.channels_last
        if pair.lengths is None and self.padding != "nan":
            return x, None
        sample = oriented_shape(x.shape[1:], channels_last)
        if len(sample) != 2:
            what = f"inputs of {' x '.join(map(str, sample))} are not sequences, so they cannot have lengths"
            raise DataError(what, where=pair.x.where, hint=NOT_PADDED)
        lengths, where = (None, pair.x.where) if pair.lengths is None else (pair.lengths.read(), pair.lengths.where)
        return x, sequence_ends(x, lengths, channels_last, where)

    def _shape_note(self, learn: np.ndarray) -> str:
        """Return a note on the form of training inputs."""
        note = f"inputs {self.base.x.shape} read as "
        if self._ends is None:
            return note + described(self._sample)
        shortest, longest = int(self._ends[learn].min()), int(self._ends[learn].max())
        length = f"{longest} steps each" if shortest == longest else f"{shortest} to {longest} steps"
        return f"{note}{counted(self._sample[0], 'channel')} of {length}"


def _cuts(form: ArrayPreprocessing, ends: np.ndarray | None) -> list[str]:
    counts = {} if form.padding is None else remarks(ends, form.padding.length)
    return [f"{counted(count, 'sample')} {what}" for what, count in counts.items()]
