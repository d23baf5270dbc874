"""Targets of own data: their form is learned from the training rows, and all splits must have it.

Targets of another form raise DataError, with their number and the first of them; `where` is the
file and array. The shapes in files are, by kind:

* classes: [n] or [n, 1],
* labels and values: [n, K], or [n] if K is 1,
* real-valued maps: [n, K, *E], [n, *E, K] with channels last, or [n, *E] if K is 1,
* class maps, with a class at every position: [n, *E] integers.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orca_cli.data.own_data import described_extent, listed
from orca_cli.data.samples import rounding, target_scale
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import IGNORED_CLASS, Kind, Scale
from orca_cli.terminal import counted

_LARGEST = 2**53  # largest class number


@dataclass(frozen=True)
class TargetForm:
    """The form that the targets of every split have.

    `fit_targets` learns it, and it is saved with the run.
    """

    # Maps are real-valued; class_maps have a class at every position.
    kind: Literal["classes", "labels", "values", "maps", "class_maps"]
    num_outputs: int = 0  # K; 0 while it is not known
    names: tuple[str, ...] = ()  # K names of classes, labels or values; or empty
    # Class i as it appears in the files, ascending; all integers, or all strings. Empty if the
    # files number the classes from 0.
    classes: tuple[int | str, ...] = ()
    extent: tuple[int, ...] = ()  # *E of maps
    channels_last: bool = False  # whether maps are (n, *E, K)
    missing: bool = False  # whether labels and real-valued targets may be NaN
    scale: Scale | None = None  # scale of real-valued targets

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y.

        DataError for a wrong shape or type; for a class that training lacks or that is not in
        0..K-1; for a label other than 0 and 1; for a number that is infinite in float32; and for
        NaN if targets may not be missing.
        """
        if self.classes:
            return self._positions(y, where)
        if self.kind in ("classes", "class_maps"):
            return self._integers(y, where)
        numbers = self.numbers(y, where)
        if self.scale is None:
            return numbers.astype(np.float32)
        # The scale is float64 only if float32 is too coarse for the targets.
        return numbers.astype(self.scale.mean.dtype)

    def _positions(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return the position [n] int64 of each label among the classes."""
        labels = plain_labels(y, where)
        classes = np.array(self.classes)
        # A label beyond the last class is compared with that class, and differs from it.
        positions = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        is_new = classes[positions] != labels
        num_new = is_new.sum()
        if num_new > 0:
            raise DataError(
                f"contains labels that do not occur in training: {num_new} in total,"
                f" {first_of(is_new, labels)}",
                where=where,
                hint=f"correct the labels (training has {self.classes[0]!r}, for example),"
                " add training samples with these labels, or remove these samples",
            )
        return positions

    def _integers(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return classes in 0..K-1 [n, *E] as int64; in maps, -100 marks ignored positions.

        If K is 0, every class from 0 on is accepted.
        """
        # Integers with a missing number among them are stored as floats, which are refused.
        if y.shape[1:] != self.extent or y.dtype.kind not in "iub":
            expected_shape = f"(n{self._sizes()})"
            raise DataError(
                f"classes have shape {y.shape} and dtype {y.dtype},"
                f" expected integers of shape {expected_shape}",
                where=where,
                hint="if the targets are real numbers, store them as float32",
            )
        integers = y.astype(np.int64)
        # While K is unknown, every class number passes that float64 can represent exactly.
        highest = _LARGEST
        if self.num_outputs:
            highest = self.num_outputs - 1
        is_wrong = (integers < 0) | (integers > highest)
        if self.kind == "class_maps":
            is_wrong &= integers != IGNORED_CLASS
        num_wrong = is_wrong.sum()
        if num_wrong > 0:
            raise DataError(
                f"contains class numbers outside 0..{highest}: {num_wrong} in total,"
                f" {first_of(is_wrong, integers)}",
                where=where,
                hint=f"correct them; mark ignored positions of dense targets with {IGNORED_CLASS}"
                "; -1 often means that the organisers of a competition hide the targets",
            )
        return integers

    def numbers(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return labels or numbers as [n, K, *E] in the dtype of the file.

        Missing targets are NaN if targets may be missing. Raises the errors of `encode`.
        """
        has_output_axis = y.ndim == len(self.extent) + 2
        if has_output_axis and self.channels_last:
            y = np.moveaxis(y, -1, 1)  # [n, *E, K] -> [n, K, *E]
        if y.shape[1:] == self.extent:
            y = y[:, None]  # one output
        num_outputs = self.num_outputs
        if num_outputs == 0 and y.ndim > 1:
            num_outputs = y.shape[1]  # K is not known yet, so these targets decide it
        has_shape = y.shape[1:] == (num_outputs, *self.extent)
        if not has_shape or num_outputs == 0 or y.dtype.kind not in "fiub":
            raise DataError(
                f"{self.kind} have shape {y.shape} and dtype {y.dtype}, {self._expected()}",
                where=where,
                hint="store dense targets for every position of the inputs,"
                " and values or labels with one column for each output",
            )
        check_finite(y, where, allow_nan=self.missing)
        if self.kind == "labels":
            # NaN passes, because `check_finite` refuses it unless targets may be missing.
            is_wrong = ~(np.isin(y, (0, 1)) | np.isnan(y))
            num_wrong = is_wrong.sum()
            if num_wrong > 0:
                raise DataError(
                    f"contains labels that are neither 0 nor 1: {num_wrong} in total,"
                    f" {first_of(is_wrong, y)}",
                    where=where,
                    hint="if each sample has one class, use task.kind=classes",
                )
        return y

    def _expected(self) -> str:
        """Return the shapes that `numbers` accepts, as text."""
        sizes = self._sizes()
        single_output = f"(n{sizes or ','})"
        return (
            f"expected real numbers of shape {single_output}"
            f" or (n, {self.num_outputs or 'K'}{sizes})"
        )

    def _sizes(self) -> str:
        """Return the extent as the end of a shape's text, such as ", 8, 8"."""
        return "".join(f", {size}" for size in self.extent)

    def note(self) -> str:
        """Return a description of the targets."""
        num_outputs = self.num_outputs
        if self.kind == "maps":
            description = f"real-valued targets of {num_outputs} x {described_extent(self.extent)}"
        elif self.kind == "class_maps":
            description = f"targets with one of {num_outputs} classes at every position"
        elif self.kind == "values":
            description = f"{counted(num_outputs, 'number')} per sample"
        else:
            description = f"{num_outputs} {self.kind}"
        # The names 0..K-1 would say nothing more than K.
        if not self.names or self.classes == tuple(range(num_outputs)):
            return description
        return f"{description} ({listed(self.names)})"

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return warnings about labels that are never 1, or never 0, in training."""
        if self.kind != "labels":
            return []
        warnings = []
        label_names = self.names or range(self.num_outputs)
        for number, adjective in ((1, "positive"), (0, "negative")):
            # NaN equals neither number, so missing labels do not count.
            is_present = (train_targets == number).any(axis=0)
            absent_labels = np.flatnonzero(~is_present)
            if len(absent_labels) > 0:
                absent_names = listed(label_names[label] for label in absent_labels)
                warnings.append(
                    f"warning: labels without a {adjective} training sample: {absent_names}"
                )
        return warnings


def fit_targets(
    kind: Kind,
    y: np.ndarray,
    rows: np.ndarray,
    where: str,
    extent: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    *,
    num_classes: int | None = None,
    channels_last: bool = False,
    missing: bool = False,
) -> TargetForm:
    """Return the form of targets [N, ...] of a kind, learned from the training rows.

    `names` are names of labels, of values, or of classes that the files number from 0.
    `num_classes` is K for classes. ConfigError for arguments that do not apply to the kind.
    DataError if nothing can be learned: for a single class, for equal numbers, and for an output or
    a class of class maps that has no training target.
    """
    # Dense targets stored as integers are classes; all other dense targets are real numbers.
    has_class_maps = kind == "dense" and y.dtype.kind in "iub"
    if kind == "classes" and missing:
        raise ConfigError(
            "does not apply to task.kind=classes", where="task.missing_targets", hint="remove it"
        )
    if num_classes is not None and kind != "classes" and not has_class_maps:
        raise ConfigError(
            "applies only to classes, and to dense targets that are integers",
            where="task.num_classes",
            hint=f"remove it, because '{where}' determines the number of outputs",
        )
    # The files number these classes, so nothing has to be learned.
    if kind == "classes" and names:
        return TargetForm(kind="classes", num_outputs=len(names), names=names)
    if kind == "classes":
        return _fit_classes(y, rows, where, num_classes)
    if has_class_maps:
        class_maps = TargetForm(kind="class_maps", num_outputs=num_classes or 0, extent=extent)
        return _fit_class_maps(class_maps, y, rows, where)
    if kind == "dense":
        form = TargetForm(kind="maps", extent=extent, channels_last=channels_last, missing=missing)
    else:
        form = TargetForm(kind=kind, names=names, missing=missing)
    return _fit_numbers(form, y, rows, where)


def _fit_classes(
    y: np.ndarray, training_rows: np.ndarray, where: str, num_classes: int | None
) -> TargetForm:
    """Return the form of class labels [N]; the classes are those that occur in training rows."""
    labels = plain_labels(y, where)[training_rows]
    classes, label_counts = np.unique(labels, return_counts=True)  # classes ascend
    num_present = len(classes)
    lowest = classes[0]
    highest = classes[-1]
    # Only numbers are checked; classes may also be texts.
    are_from_0 = classes.dtype.kind == "U" or (lowest, highest) == (0, num_present - 1)
    if num_classes is not None and (num_present != num_classes or not are_from_0):
        raise DataError(
            f"has {num_present} different training labels from {lowest} to {highest},"
            f" expected task.num_classes={num_classes} classes numbered from 0",
            where=where,
            hint="correct the labels, or remove task.num_classes to accept any labels as classes",
        )
    num_labels = len(labels)
    if num_present < 2:
        raise _equal_targets(num_labels, classes, where)
    # If most of many labels occur once, they are probably numbers to be predicted.
    are_mostly_single = 2 * np.sum(label_counts == 1) > num_present
    if are_mostly_single and 2 * num_present > num_labels > 20:
        raise DataError(
            f"has {num_present} different labels in {num_labels} training samples,"
            " too many for classes",
            where=where,
            hint="check that these are the labels; to predict numbers, use task.kind=values",
        )
    class_labels = tuple(classes.tolist())
    return TargetForm(
        kind="classes",
        num_outputs=num_present,
        names=tuple(map(str, class_labels)),
        classes=class_labels,
    )


def _fit_class_maps(
    form: TargetForm, y: np.ndarray, training_rows: np.ndarray, where: str
) -> TargetForm:
    """Return the form with its number of classes, which is learned if it is not set."""
    training_maps = form.encode(y, where)[training_rows]
    present = np.unique(training_maps[training_maps != IGNORED_CLASS])  # ascending
    num_present = len(present)
    if num_present < 2:
        raise _equal_targets(training_maps.size, present, where)
    highest = int(present[-1])
    num_classes = form.num_outputs or highest + 1
    if num_present < num_classes:
        absent = f"{num_classes - num_present} of the classes 0..{num_classes - 1}"
        raise DataError(
            f"{absent} do not occur in the training split",
            where=where,
            hint="number the classes from 0 without gaps; task.num_classes must be the number"
            " of classes, or null",
        )
    return replace(form, num_outputs=num_classes)


def _fit_numbers(
    form: TargetForm, y: np.ndarray, training_rows: np.ndarray, where: str
) -> TargetForm:
    """Return the form with K, and for values and maps with their scale."""
    numbers = form.numbers(y, where)  # [N, K, *E]
    form = replace(form, num_outputs=numbers.shape[1])
    if form.kind == "labels":
        return form
    targets = numbers[training_rows]
    if targets.dtype.kind != "f":
        targets = targets.astype(np.float64)
    other_axes = (0, *range(2, targets.ndim))
    is_unknown = np.isnan(targets).all(axis=other_axes)  # [K]
    if is_unknown.any():
        raise DataError(
            f"output {is_unknown.argmax()} has no training target",
            where=where,
            hint="remove this output",
        )
    # A channel of maps may be constant; values that are all equal are most likely a mistake.
    if form.kind == "values":
        lowest = np.nanmin(targets, axis=0)
        highest = np.nanmax(targets, axis=0)
        are_equal = highest - lowest <= rounding(targets.dtype) * np.abs(highest)
        if are_equal.all():
            raise _equal_targets(len(targets), targets[0], where)
    return replace(form, scale=target_scale(targets))


def _equal_targets(num_targets: int, targets: np.ndarray, where: str) -> DataError:
    """Return the error for training targets that are all equal.

    `targets` are the equal targets; empty if all positions are ignored.
    """
    target_texts = map(str, targets.tolist())
    shown = ", ".join(target_texts) or "ignored"
    return DataError(
        f"all {num_targets} training targets are {shown}",
        where=where,
        hint="provide at least two classes, or numbers that differ by more than rounding",
    )


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels [n] or [n, 1] as [n] int64 or strings.

    Integers stored as floats become int64. DataError for other shapes, for numbers that are not
    integers or are beyond 2^53, and for -100, which marks ignored positions.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "fiubSU":
        raise DataError(
            f"class labels have shape {labels.shape} and dtype {labels.dtype},"
            " expected integers or strings of shape (n,)",
            where=where,
            hint="if each row is one-hot, store the position of its 1 instead; if a sample does not"
            " have exactly one class, use task.kind=labels, values or dense",
        )
    if labels.dtype.kind in "SU":
        return as_text(labels, where)
    # Integers beyond 2**53 are not exact as floats, and real class numbers are smaller.
    with np.errstate(invalid="ignore"):
        numbers = labels.astype(np.float64)
        is_whole = numbers % 1 == 0
        is_class = is_whole & (numbers != IGNORED_CLASS) & (np.abs(numbers) <= _LARGEST)
    is_wrong = ~is_class
    num_wrong = is_wrong.sum()
    if num_wrong > 0:
        raise DataError(
            f"contains labels that cannot name a class: {num_wrong} in total,"
            f" {first_of(is_wrong, labels)}",
            where=where,
            hint=f"use strings, or integers up to 2**53 except {IGNORED_CLASS},"
            " which marks ignored positions; to predict numbers, use task.kind=values",
        )
    return labels.astype(np.int64)


def as_text(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as strings; bytes are decoded as UTF-8."""
    if values.dtype.kind != "S":
        return values.astype(str)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"contains bytes that are not UTF-8 text: {error}",
            where=where,
            hint="store UTF-8 strings",
        ) from error


def check_finite(
    values: np.ndarray, where: str, *, allow_nan: bool = False, offset: int = 0
) -> None:
    """Raise DataError if numbers [n, ...] are infinite in float32, or NaN unless `allow_nan`.

    `offset` is the index of values[0] in the complete array, for messages.
    """
    if values.dtype.kind in "iub":
        return
    # Numbers beyond the range of float32 become infinite.
    with np.errstate(over="ignore"):
        in_float32 = values.astype(np.float32)
    if allow_nan:
        is_wrong = np.isinf(in_float32)
        problem = "infinite values"
    else:
        is_wrong = ~np.isfinite(in_float32)
        problem = "NaN or infinite values"
    num_wrong = is_wrong.sum()
    if num_wrong == 0:
        return
    raise DataError(
        f"contains {problem}: {num_wrong} in total, {first_of(is_wrong, values, offset)}",
        where=where,
        hint="replace them, or remove these samples",
    )


def first_of(is_wrong: np.ndarray, values: np.ndarray, offset: int = 0) -> str:
    """Return a text with the first wrong value of `values` [n, ...], and its index.

    `offset` is added to the index along the first axis.
    """
    first_index = np.unravel_index(is_wrong.argmax(), is_wrong.shape)
    sample, *position = map(int, first_index)
    sample += offset
    shown_index = (sample, *position) if position else sample
    return f"the first is {values[first_index]} at index {shown_index}"
