"""Targets as they come in files, checked and brought to the form of interfaces.Batch.y.

Targets of another form raise DataError with their number, and the first of them; `where` is the file and array.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS

_SHOWN = 8  # values named in a message


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a task, in order: class i is values[i].

    Args:
        values: K labels as they stand in the files, ascending; all integers, or all strings.
    """

    values: tuple[int | str, ...]

    def names(self) -> tuple[str, ...]:
        """Return K names, such as for a table of errors per class."""
        return tuple(map(str, self.values))

    def renamed(self) -> bool:
        """Return whether class numbers differ from the labels in the files."""
        return self.values != tuple(range(len(self.values)))

    def text(self) -> bool:
        """Return whether labels are strings."""
        return isinstance(self.values[0], str)


def class_vocabulary(labels: np.ndarray, where: str, num_classes: int | None = None) -> Vocabulary:
    """Return the classes that training labels [n] name: the labels that occur, or 0..K-1 where K is given."""
    clean = plain_labels(labels, where)
    values = np.unique(clean)
    if num_classes is not None:
        values = _declared(clean, values, where, num_classes)
    if len(values) < 2:
        hint = "provide data with two classes or more"
        raise DataError(f"all {len(clean)} training labels are {values[0]!s}", where=where, hint=hint)
    if 2 * len(values) > len(clean) and len(clean) > 20:
        what = f"{len(values)} different labels in {len(clean)} training samples do not look like classes"
        hint = "to predict numbers use kind=dense, and check that this is the array of labels"
        raise DataError(what, where=where, hint=hint)
    return Vocabulary(tuple(values.tolist()))


def _declared(clean: np.ndarray, values: np.ndarray, where: str, num_classes: int) -> np.ndarray:
    if values.dtype.kind not in "iu":
        if len(values) != num_classes:
            raise DataError(f"{len(values)} different labels, but num_classes is {num_classes}", where=where)
        return values
    outside = (clean < 0) | (clean >= num_classes)
    what = f"labels are not in 0..{num_classes - 1}"
    _refuse(outside, clean, what, where, "correct the labels or task.num_classes")
    _check_none_missing(values, num_classes, "training sample", where, "add samples, or lower task.num_classes")
    return np.arange(num_classes)


def _check_none_missing(present: np.ndarray, num_classes: int, of: str, where: str, hint: str) -> None:
    """Refuse classes 0..num_classes-1 of which some are not among `present` (distinct, in that range)."""
    # The first missing ones lie below len(present) + _SHOWN: a stray 10**12 must not ask for a list of as many classes.
    first = np.setdiff1d(np.arange(min(num_classes, len(present) + _SHOWN)), present)[:_SHOWN]
    count = num_classes - len(present)
    if count:
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise DataError(f"class {', '.join(map(str, first))}{more} has no {of}", where=where, hint=hint)


def encode_classes(labels: np.ndarray, vocabulary: Vocabulary, where: str) -> np.ndarray:
    """Return labels as [n] int64 in 0..K-1."""
    clean = plain_labels(labels, where)
    if (clean.dtype.kind == "U") != vocabulary.text():
        raise DataError("labels are strings in one split and numbers in another", where=where)
    values = np.array(vocabulary.values)
    place = np.searchsorted(values, clean).clip(max=len(values) - 1)
    hint = "add training samples of that class, or remove these samples"
    _refuse(values[place] != clean, clean, "labels have no training sample", where, hint)
    return place.astype(np.int64)


def encode_numbered_classes(labels: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Return labels that a data set numbers by itself as [n] int64 in 0..K-1."""
    if labels.dtype.kind not in "iu":  # a missing number turns all into floats
        raise DataError("classes are missing", where=where, hint="remove these samples")
    what = f"samples have no class in 0..{num_classes - 1}"
    hint = "-1 marks hidden targets, such as those of a competition's test set: name another split"
    _refuse((labels < 0) | (labels >= num_classes), labels, what, where, hint)
    return labels.astype(np.int64)


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as [n] int64 or strings; whole numbers stored as floats become integers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "of one-hot rows store the position of the 1, or use kind=labels or kind=dense"
        raise DataError(f"class labels have shape {labels.shape}, expected (n,)", where=where, hint=hint)
    if labels.dtype.kind in "SU":
        return as_text(labels, where)
    if labels.dtype.kind == "f":
        check_finite(labels, where)
        fractional = labels != np.round(labels)
        _refuse(fractional, labels, "labels are not whole numbers", where, "class labels are integers or strings")
    elif labels.dtype.kind not in "iub":
        raise DataError(f"labels have dtype {labels.dtype}", where=where, hint="allowed: integers or strings")
    integers = _as_int64(labels, where)
    ignored = integers == IGNORED_CLASS
    what = f"labels are {IGNORED_CLASS}, which marks ignored positions"
    _refuse(ignored, integers, what, where, "remove these samples")
    return integers


def as_text(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as strings; bytes are read as UTF-8."""
    try:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(f"holds bytes that are not text: {error}", where=where, hint="store UTF-8 strings") from error


def _as_int64(labels: np.ndarray, where: str) -> np.ndarray:
    limit = 2**53  # whole numbers beyond it are not exact as floats, and no class number is as large
    wrong = np.abs(labels.astype(np.float64)) > limit
    _refuse(wrong, labels, "labels are beyond 2**53", where, "number the classes from 0")
    return labels.astype(np.int64)


def encode_label_sets(labels: np.ndarray, where: str, *, allow_missing: bool = False) -> np.ndarray:
    """Return multi-label targets as [n, K] float32 of 0 and 1, and NaN where a label is missing and that is allowed."""
    if labels.ndim != 2 or labels.shape[1] < 1:
        hint = "one column of 0 and 1 per label; for one class per sample use kind=classes"
        raise DataError(f"label sets have shape {labels.shape}, expected (n, K)", where=where, hint=hint)
    _check_numeric(labels, where)
    check_finite(labels, where, allow_nan=allow_missing)
    wrong = ~((labels == 0) | (labels == 1) | np.isnan(labels.astype(np.float64)))
    _refuse(wrong, labels, "entries are neither 0 nor 1", where, "for one class per sample use kind=classes")
    return labels.astype(np.float32)


def encode_class_maps(labels: np.ndarray, extent: tuple[int, ...], where: str, num_classes: int | None) -> np.ndarray:
    """Return integers [n, *E] as int64, -100 where ignored; K None accepts every class from 0 on."""
    if labels.shape[1:] != extent:
        expected = f"(n, {', '.join(map(str, extent))})"
        what = f"integer targets have shape {labels.shape}, expected {expected}: a class at every position"
        raise DataError(what, where=where, hint="store real-valued targets as float32")
    integers = _as_int64(labels, where)
    wrong = (integers < 0) & (integers != IGNORED_CLASS)
    if num_classes is not None:
        wrong |= integers >= num_classes
    allowed = "0 or more" if num_classes is None else f"in 0..{num_classes - 1}"
    hint = f"{IGNORED_CLASS} marks positions to ignore; check task.num_classes"
    _refuse(wrong, integers, f"classes are not {allowed}", where, hint)
    return integers


def check_class_maps(labels: np.ndarray, where: str, num_classes: int) -> None:
    """Check that encoded training maps [n, *E] hold two classes or more, and each of the K."""
    present = np.unique(labels[labels != IGNORED_CLASS])
    if len(present) == 0:
        raise DataError("every position is ignored", where=where, hint=f"{IGNORED_CLASS} marks positions to ignore")
    if len(present) == 1:
        hint = "provide data with two classes or more"
        raise DataError(f"all positions have class {present[0]}", where=where, hint=hint)
    hint = "number the classes 0..K-1 without gaps, or set task.num_classes"
    _check_none_missing(present, num_classes, "position in the training set", where, hint)


def encode_maps(values: np.ndarray, extent: tuple[int, ...], where: str, *, allow_missing: bool = False) -> np.ndarray:
    """Return real-valued targets as [n, K, *E] float32; [n, *E] becomes one channel."""
    if values.shape[1:] == extent:
        values = values[:, None]
    elif values.shape[2:] != extent:
        shapes = f"(n, {', '.join(map(str, extent))}) or (n, K, {', '.join(map(str, extent))})"
        hint = "dense targets have the extent of the inputs; for one value per sample use kind=classes"
        raise DataError(f"dense targets have shape {values.shape}, expected {shapes}", where=where, hint=hint)
    _check_numeric(values, where)
    check_finite(values, where, allow_nan=allow_missing)
    return values.astype(np.float32)


def check_finite(values: np.ndarray, where: str, *, allow_nan: bool = False, offset: int = 0) -> None:
    """Check that numbers [n, ...] are finite in float32; `offset` is added to the first index in messages."""
    if values.dtype.kind in "iub":
        return
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = np.isinf(narrow) if allow_nan else ~np.isfinite(narrow)
    _refuse(wrong, values, "values are NaN or infinite", where, "replace them or remove these samples", offset)


def _check_numeric(values: np.ndarray, where: str) -> None:
    if values.dtype.kind not in "fiub":
        raise DataError(f"targets have dtype {values.dtype}", where=where, hint="allowed: real numbers")


def _refuse(wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str, offset: int = 0) -> None:
    """Raise DataError with the number of wrong values, and the first of them with its index (from `offset` on)."""
    if not wrong.any():
        return
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    place = (first[0] + offset, *first[1:])
    index = f"({', '.join(map(str, place))})" if len(place) > 1 else str(place[0])
    raise DataError(f"{wrong.sum()} {what}, the first is {values[first]} at index {index}", where=where, hint=hint)
