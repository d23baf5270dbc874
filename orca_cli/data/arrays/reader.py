"""Your own data without code: arrays in .npz or .npy files.

Shapes: n samples, N those of the training file.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.arrays.preprocessing import (
    LENGTHS,
    ArrayPreprocessing,
    Arrays,
    Padding,
    locate,
    with_steps,
)
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.contents import hashes_of_rows
from orca_cli.data.own_data import check_labels, check_rules, described, refuse_if
from orca_cli.data.samples import ArraySamples, Gaps, How, count_missing, fit_inputs, remarks
from orca_cli.data.splits import group_rows
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

_MOST_CHANNELS, _LEAST_SIDE = 4, 8  # of inputs that look as if their channels came last


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
    channels_last: bool | None = None,
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
    test in particular, only headers and groups are read before it is opened. MemoryExhaustedError: an array does not fit.
    """
    role = f"'{group}' is the array of {'inputs' if group == x else 'targets'}"
    check_rules(
        (
            None not in (lengths, padding),
            "lengths",
            f"does not go with task.padding={padding}",
            "remove one of them",
        ),
        (group in (x, y), "group", role, "name the array that says which samples belong together"),
    )
    files = {
        "train": train,
        "labels": labels,
        "validation": validation,
        "validation_labels": validation_labels,
    }
    files |= {"test": test, "test_labels": test_labels}
    named = {"x": x, "y": y, "lengths": None if padding else lengths or LENGTHS, "group": group}
    names = {role: name for role, name in named.items() if name is not None}
    parts, rows = locate(files, names, ("lengths",) if lengths is None else (), data_folder)
    ends = Padding(
        "nan" if padding == "nan" else "lengths", length or 0, missing_targets, lengths or LENGTHS
    )
    has_ends, hint = (
        padding == "nan" or "lengths" in parts["train"],
        "give an array of lengths, or task.padding=nan",
    )
    check_rules(
        (
            not has_ends and length is not None,
            "length",
            "applies to sequences of different lengths",
            hint,
        )
    )
    if channels_last is None:
        _check_layout(parts["train"]["x"])
    shape, padded = parts["train"]["x"].shape[1:], ends if has_ends else None
    unknown = TargetForm("values", 0), None, (x, y), padded, Gaps(gaps, np.zeros(0))
    form = ArrayPreprocessing(shape, bool(channels_last), *unknown)
    targets = {
        "num_classes": num_classes,
        "channels_last": bool(channels_last),
        "missing": missing_targets,
    }
    held = _Held(parts, rows, reporter, kind, form, targets, gaps, gap_indicator, normalize)
    return assemble(
        "arrays",
        reporter,
        kind,
        held.pool,
        (validation_fraction, test_fraction),
        split_seed,
        held.fit,
    )


def _check_layout(x: StoredArray) -> None:
    """Raise DataError for inputs that look like (n, *E, C): a last axis of 4 or less behind one or more of 8 or more.

    Channels first is what they would be read as, and no setting has said so.
    """
    if len(x.shape) < 3:
        return
    *others, last = x.shape[1:]
    if last > _MOST_CHANNELS or min(others) < _LEAST_SIDE:
        return
    what = f"inputs {x.shape} would be read as {described((*others, last))}"
    other = described((last, *others))
    hint = f"task.channels_last=true reads {other}, task.channels_last=false keeps the first"
    raise DataError(what, where=x.where, hint=hint)


@dataclass
class _Held:
    """What `locate` returns, of which the training file is read at once and others when they are opened, as samples.

    Of `form`, targets, scale, means of gaps and length are open; `targets` are arguments of `fit_targets`.
    """

    parts: dict[str, Arrays]
    rows: dict[str, np.ndarray]
    reporter: Reporter
    kind: Kind
    form: ArrayPreprocessing
    targets: dict[str, Any]
    gaps: How
    gap_indicator: bool
    normalize: bool

    def __post_init__(self) -> None:
        x, y, form = self.parts["train"]["x"], self.parts["train"]["y"], self.form
        hint = "allowed: (n, L), (n, C, L), (n, C, H, W), (n, C, D, H, W); with task.channels_last=true channels last"
        refuse_if(
            not 2 <= len(x.shape) <= 5 or 0 in x.shape,
            f"inputs have shape {x.shape}",
            x.where,
            hint,
        )
        for arrays in self.parts.values():
            form.check(arrays["x"], arrays["x"].where)
        (self._x, self._ends), self._y = self._read("train"), y.read()
        named = {part: arrays["group"] for part, arrays in self.parts.items() if "group" in arrays}
        self._groups = group_rows(
            {part: (array.read(), array.where) for part, array in named.items()}, self.rows
        )
        classes = plain_labels(self._y, y.where) if self.kind == "classes" else None
        if classes is not None and classes.dtype.kind == "U":
            check_labels(classes, y.where)
        if form.padding is not None:
            form = replace(form, padding=replace(form.padding, length=form.file_shape[1]))
        contents = partial(hashes_of_rows, form.assembled((self._x, self._ends), x.where))
        self.pool = Pool(
            "samples", x.where, self.rows, self.parts, classes, self._groups.get("train"), contents
        )

    def _read(self, part: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs as in the file, and the lengths [n] of sequences that have some."""
        x, lengths = self.parts[part]["x"], self.parts[part].get("lengths")
        values, (steps, where) = (
            x.read(),
            (None, x.where) if lengths is None else (lengths.read(), lengths.where),
        )
        return values, self.form.ends((values, steps), where)

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how arrays become samples; see `assemble`."""
        form, targets, y, learn, ends = self.form, self.targets, self._y, rows["train"], self._ends
        where, y_where = self.parts["train"]["x"].where, self.parts["train"]["y"].where
        sample = described(form.file_shape)
        if form.padding is not None and ends is not None:
            padding = replace(form.padding, length=form.padding.length or int(ends[learn].max()))
            shape = with_steps(form.stored_shape, padding.length, form.channels_last)
            form = replace(form, padding=padding, stored_shape=shape)
            sample = f"{counted(form.file_shape[0], 'channel')} of {ends[learn].min()} to {ends[learn].max()} steps"
            if self.kind == "dense":
                y, targets = (
                    padding.targets(y, ends, form.channels_last, y_where),
                    targets | {"missing": True},
                )
        form = replace(
            form, targets=fit_targets(self.kind, y, learn, y_where, form.file_shape[1:], **targets)
        )
        x, encoded = form.oriented((self._x, ends), where), form.targets.encode(y, y_where)
        has_gaps = count_missing(x) > 0
        scale, filling, constants, filled = fit_inputs(
            x, learn, has_gaps, self.gaps, self.gap_indicator, where
        )
        form = replace(form, gaps=filling, scale=scale if self.normalize else None)

        def samples(part: str) -> ArraySamples:
            if part in rows:  # what has no gaps keeps its digest
                used = filling if has_gaps else None
                return ArraySamples(
                    x, encoded, None, rows[part], form.scale, self._groups.get("train"), used
                )
            arrays, (stored, ends) = self.parts[part], self._read(part)
            for note in _cuts(form, ends):
                self.reporter.say(f"{part} split: {note}")
            read = form.oriented((stored, ends), arrays["x"].where)
            y = form.encoded_targets(arrays["y"].read(), arrays["y"].where, ends)
            used = filling if filling.flagged or count_missing(read) else None
            return ArraySamples(read, y, None, None, form.scale, self._groups.get(part), used)

        seen = f"inputs {self._x.shape} read as {sample}"
        notes = [seen, *_cuts(form, ends), *filled, form.targets.note(), *constants]
        return Fitted(form, form.input_shape, form.targets, samples, notes)


def _cuts(form: ArrayPreprocessing, ends: np.ndarray | None) -> list[str]:
    counts = {} if form.padding is None else remarks(ends, form.padding.length)
    return [f"{counted(count, 'sample')} {what}" for what, count in counts.items()]
