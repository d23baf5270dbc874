"""Targets of own data: their form, learned from the training rows, and how those of every split are checked and encoded.

Targets of another form raise DataError with their number, and the first of them; `where` is the file and array. Targets stand
in files as [n] or [n, 1] for classes; [n, K], or [n] where K is 1, for labels and values; [n, K, *E], [n, *E, K] with channels
last, or [n, *E] where K is 1, for maps; and [n, *E] integers for a class at every position.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orca_cli.data.own_data import check_rules, listed, refuse_if
from orca_cli.data.samples import rounding, target_dtype, target_scale
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Scale
from orca_cli.terminal import counted

_LARGEST = 2**53  # of class numbers


@dataclass(frozen=True)
class TargetForm:
    """The form that the targets of every split have; learned by `fit_targets`, and kept with the run."""

    kind: Literal[
        "classes", "labels", "values", "maps", "class_maps"
    ]  # maps are real-valued, class_maps a class everywhere
    num_outputs: int  # K; 0 while it is not known
    names: tuple[str, ...] = ()  # of classes, labels or values; K or none
    # Class i as it stands in the files, ascending; all integers, or all strings. Empty where the data number them.
    classes: tuple[int | str, ...] = ()
    extent: tuple[int, ...] = ()  # *E of maps
    channels_last: bool = False  # whether maps are (n, *E, K)
    missing: bool = False  # whether labels and real-valued targets may be NaN
    scale: Scale | None = None  # of real-valued targets

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y.

        DataError for another shape or type; a class that training lacks, or that is not in 0..K-1; a label other than 0 and 1;
        a number that is infinite in float32, or NaN where none may be missing.
        """
        if self.classes:
            labels, values = plain_labels(y, where), np.array(self.classes)
            place = np.searchsorted(values, labels).clip(max=len(values) - 1)
            hint = f"give labels as in training, such as {self.classes[0]!r}, add training samples, or remove these samples"
            refuse(values[place] != labels, labels, "labels have no training sample", where, hint)
            return place.astype(np.int64)
        if self.kind in ("classes", "class_maps"):
            return self._integers(y, where)
        dtype = np.float32 if self.scale is None else self.scale.mean.numpy().dtype
        return self.numbers(y, where).astype(dtype)

    def _integers(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return classes in 0..K-1 [n, *E] as int64, in maps -100 where ignored; K of 0 accepts every class from 0 on."""
        is_wrong = (
            y.shape[1:] != self.extent or y.dtype.kind not in "iub"
        )  # a missing number makes all floats
        sizes = ", ".join(map(str, ("n", *self.extent)))
        what = f"classes have shape {y.shape} and dtype {y.dtype}, expected integers ({sizes})"
        refuse_if(is_wrong, what, where, "store real-valued targets as float32")
        integers, most = y.astype(np.int64), self.num_outputs - 1 if self.num_outputs else _LARGEST
        wrong = (integers < 0) | (integers > most)
        if self.kind == "class_maps":
            wrong &= integers != IGNORED_CLASS
        hint = f"in maps {IGNORED_CLASS} marks positions to ignore; -1 often marks the hidden targets of a competition"
        refuse(wrong, integers, f"classes are not in 0..{most}", where, hint)
        return integers

    def numbers(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return labels or numbers as [n, K, *E] in the dtype of the file, NaN where a target may be missing and is.

        Raises as `encode`.
        """
        extent = self.extent
        if self.channels_last and y.ndim == len(extent) + 2:
            y = np.moveaxis(y, -1, 1)
        if y.shape[1:] == extent:
            y = y[:, None]
        k = self.num_outputs or (y.shape[1] if y.ndim > 1 else 0)
        sizes, columns = "".join(f", {size}" for size in extent), self.num_outputs or "K"
        expected = f"expected (n{sizes or ','}) or (n, {columns}{sizes}) of real numbers"
        is_wrong = y.shape[1:] != (k, *extent) or not k or y.dtype.kind not in "fiub"
        hint = (
            "dense targets have the extent of the inputs, values and labels one column per output"
        )
        refuse_if(
            is_wrong, f"{self.kind} have shape {y.shape}, {expected}, not {y.dtype}", where, hint
        )
        check_finite(y, where, allow_nan=self.missing)
        if self.kind == "labels":
            wrong = ~((y == 0) | (y == 1) | np.isnan(y.astype(np.float64)))
            refuse(
                wrong,
                y,
                "entries are neither 0 nor 1",
                where,
                "for one class per sample use kind=classes",
            )
        return y

    def note(self) -> str:
        """Return a description of the targets."""
        k, named = self.num_outputs, self.names and self.classes != tuple(range(self.num_outputs))
        notes = {
            "maps": f"real-valued targets of {k} x {' x '.join(map(str, self.extent))}",
            "class_maps": f"{k} classes at every position",
            "values": f"{counted(k, 'number')} a sample",
        }
        return notes.get(self.kind, f"{k} {self.kind}") + (
            f" ({listed(self.names)})" if named else ""
        )

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return warnings about labels that are never or always set in training."""
        warnings = []
        for value, word in ((1, "positive"), (0, "negative")) if self.kind == "labels" else ():
            if len(empty := np.flatnonzero(~(train_targets == value).any(axis=0))):
                shown = listed([self.names[i] if self.names else i for i in empty])
                warnings.append(f"warning: label {shown} has no {word} training sample")
        return warnings


def fit_targets(
    kind: str,
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
    """Return the form of targets [N, ...] of a kind, from the training rows; ConfigError for arguments that the kind excludes.

    `names` are those of labels, of values, or of classes that the data number by themselves; `num_classes` is K, of classes.
    DataError where nothing can be learned: one class, equal numbers, an output or a class of maps without a training target.
    """
    is_dense, is_integer = kind == "dense", y.dtype.kind in "iub"
    are_numbers = kind != "classes" and not (is_dense and is_integer)
    hint = f"remove it: {where} says how many outputs there are"
    check_rules(
        (
            kind == "classes" and missing,
            "missing_targets",
            "does not apply to task.kind=classes",
            "remove it",
        ),
        (are_numbers and num_classes is not None, "num_classes", "applies only to classes", hint),
    )
    if kind == "classes" and names:
        return TargetForm("classes", len(names), names)
    if kind == "classes":
        labels = plain_labels(y, where)[rows]
        values, counts = np.unique(labels, return_counts=True)
        is_whole = values.dtype.kind == "U" or (values[0], values[-1]) == (0, len(values) - 1)
        what = f"{len(values)} training labels, {values[0]} to {values[-1]}, are not {num_classes} classes from 0 on"
        hint = "correct the labels, or leave task.num_classes out: any labels are classes then"
        refuse_if(
            num_classes is not None and (len(values) != num_classes or not is_whole),
            what,
            where,
            hint,
        )
        _refuse_equal(len(values) < 2, len(labels), values, where)
        look_like_numbers = (
            2 * np.sum(counts == 1) > len(counts) and 2 * len(counts) > len(labels) > 20
        )
        what = f"{len(values)} different labels in {len(labels)} training samples do not look like classes"
        refuse_if(
            look_like_numbers,
            what,
            where,
            "to predict numbers use kind=values; is this the array of labels?",
        )
        return TargetForm(
            "classes", len(values), tuple(map(str, values.tolist())), tuple(values.tolist())
        )
    if not are_numbers:
        form = TargetForm("class_maps", num_classes or 0, extent=extent)
        train = form.encode(y, where)[rows]
        present = np.unique(train[train != IGNORED_CLASS])
        _refuse_equal(len(present) < 2, train.size, present, where)
        k = num_classes or int(present[-1]) + 1
        what = f"{k - len(present)} of the classes 0..{k - 1} have no position in the training set"
        refuse_if(
            len(present) < k,
            what,
            where,
            "number the classes without gaps; task.num_classes, if given, is K",
        )
        return replace(form, num_outputs=k)
    if is_dense:
        form = TargetForm("maps", 0, extent=extent, channels_last=channels_last, missing=missing)
    else:
        form = TargetForm("labels" if kind == "labels" else "values", 0, names, missing=missing)
    numbers = form.numbers(y, where)
    form = replace(form, num_outputs=numbers.shape[1])
    if kind == "labels":
        return form
    values = numbers[rows]
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    unknown = np.isnan(values).all(axis=(0, *range(2, values.ndim)))
    refuse_if(
        unknown.any(), f"output {int(unknown.argmax())} has no training target", where, "remove it"
    )
    if not is_dense:
        lowest, highest = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        are_equal = highest - lowest <= rounding(values.dtype) * np.abs(highest)
        _refuse_equal(bool(are_equal.all()), len(values), values[0], where)
    return replace(form, scale=target_scale(values.astype(target_dtype(values))))


def _refuse_equal(are_equal: bool, count: int, values: np.ndarray, where: str) -> None:
    what = f"all {count} training targets are {', '.join(map(str, values.tolist())) or 'ignored'}"
    refuse_if(
        are_equal,
        what,
        where,
        "provide two classes or more, or numbers that differ by more than their rounding",
    )


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels [n] or [n, 1] as [n] int64 or strings; whole numbers stored as floats become integers.

    DataError for other shapes, for numbers that are not whole or beyond 2^53, and for -100, which marks ignored positions.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    what = f"class labels have shape {labels.shape} and dtype {labels.dtype}, expected integers or strings (n,)"
    hint = "of one-hot rows store the position of the 1, or use kind=labels, values or dense"
    refuse_if(labels.ndim != 1 or labels.dtype.kind not in "fiubSU", what, where, hint)
    if labels.dtype.kind in "SU":
        return as_text(labels, where)
    # Whole numbers beyond 2**53 are not exact as floats, and no class number is as large.
    with np.errstate(invalid="ignore"):
        wide = labels.astype(np.float64)
        wrong = ~((wide % 1 == 0) & (np.abs(wide) <= _LARGEST) & (wide != IGNORED_CLASS))
    what = f"labels are not whole numbers up to 2**53, or are {IGNORED_CLASS}, which marks ignored positions"
    refuse(
        wrong,
        labels,
        what,
        where,
        "class labels are integers or strings; to predict numbers use kind=values",
    )
    return labels.astype(np.int64)


def as_text(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as strings; bytes are read as UTF-8."""
    try:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(
            f"holds bytes that are not text: {error}", where=where, hint="store UTF-8 strings"
        ) from error


def check_finite(
    values: np.ndarray, where: str, *, allow_nan: bool = False, offset: int = 0
) -> None:
    """Raise DataError where numbers [n, ...] are infinite in float32, or NaN unless `allow_nan`.

    `offset` is added to the first index in messages, where the values are a later part of an array.
    """
    if values.dtype.kind in "iub":
        return
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = np.isinf(narrow) if allow_nan else ~np.isfinite(narrow)
    what = "values are infinite" if allow_nan else "values are NaN or infinite"
    refuse(wrong, values, what, where, "replace them or remove these samples", offset)


def refuse(
    wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str, offset: int = 0
) -> None:
    """Raise DataError with the number of wrong values, and the first of them with its index (from `offset` on)."""
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        place = (first[0] + offset, *first[1:])
        index = f"({', '.join(map(str, place))})" if len(place) > 1 else str(place[0])
        raise DataError(
            f"{wrong.sum()} {what}, the first is {values[first]} at index {index}",
            where=where,
            hint=hint,
        )
