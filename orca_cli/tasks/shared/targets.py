"""Targets as they come in files, checked and brought to the form of interfaces.Batch.y.

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
        values: [K] labels as they stand in the files, ascending; integers or strings.
    """

    values: np.ndarray

    def names(self) -> tuple[str, ...]:
        """Return K names, such as for a table of errors per class."""
        return tuple(str(value) for value in self.values)

    def renamed(self) -> bool:
        """Return whether class numbers differ from the labels in the files."""
        return not (self.values.dtype.kind in "iu" and np.array_equal(self.values, np.arange(len(self.values))))


def class_vocabulary(labels: np.ndarray, where: str, num_classes: int | None = None) -> Vocabulary:
    """Return the classes that training labels name.

    Args:
        labels: [n] of the training set: integers, whole numbers as floats, or strings.
        where: file and array, for messages.
        num_classes: K; then labels have to be integers in 0..K-1. None takes the labels that occur.

    Raises:
        DataError: labels out of range, a class without a sample, one class only, or no class labels at all.
    """
    clean = plain_labels(labels, where)
    values = np.unique(clean)
    if num_classes is not None:
        values = _declared(clean, values, where, num_classes)
    if len(values) < 2:
        raise DataError(
            f"all {len(clean)} training labels are {values[0]!s}", where=where, hint="give data of two classes or more"
        )
    if 2 * len(values) > len(clean) and len(clean) > 20:
        raise DataError(
            f"{len(values)} different labels in {len(clean)} training samples are no classes",
            where=where,
            hint="for numbers to be predicted use kind=dense, and check that this is the array of labels",
        )
    return Vocabulary(values)


def _declared(clean: np.ndarray, values: np.ndarray, where: str, num_classes: int) -> np.ndarray:
    if values.dtype.kind not in "iu":
        if len(values) != num_classes:
            raise DataError(f"{len(values)} different labels, but num_classes is {num_classes}", where=where)
        return values
    outside = (clean < 0) | (clean >= num_classes)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{int(outside.sum())} labels are not in 0..{num_classes - 1}, the first is {clean[first]} at index {first}",
            where=where,
            hint="correct the labels or task.num_classes",
        )
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
    """Return labels as [n] int64 in 0..K-1.

    Raises:
        DataError: a label that the training set does not have, or no class labels at all.
    """
    clean = plain_labels(labels, where)
    if (clean.dtype.kind == "U") != (vocabulary.values.dtype.kind == "U"):
        raise DataError("labels are strings in one split and numbers in another", where=where)
    place = np.searchsorted(vocabulary.values, clean).clip(max=len(vocabulary.values) - 1)
    unknown = vocabulary.values[place] != clean
    if unknown.any():
        first = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{int(unknown.sum())} labels have no training sample, the first is {clean[first]!s} at index {first}",
            where=where,
            hint="add training samples of that class, or leave these samples out",
        )
    return place.astype(np.int64)


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as [n] int64 or strings; whole numbers stored as floats become integers.

    Raises:
        DataError: wrong shape or dtype, NaN, infinite or broken numbers, or the mark of an ignored class.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"class labels have shape {labels.shape}, expected (n,)",
            where=where,
            hint="of one-hot rows store the position of the 1, or use kind=labels or kind=dense",
        )
    if labels.dtype.kind in "SU":
        return as_text(labels, where)
    if labels.dtype.kind == "f":
        check_finite(labels, where)
        broken = labels != np.round(labels)
        if broken.any():
            first = int(np.flatnonzero(broken)[0])
            raise DataError(
                f"{int(broken.sum())} labels are no whole numbers, the first is {labels[first]} at index {first}",
                where=where,
                hint="class labels are integers or strings",
            )
    elif labels.dtype.kind not in "iub":
        raise DataError(f"labels have dtype {labels.dtype}", where=where, hint="allowed: integers or strings")
    integers = _as_int64(labels, where)
    ignored = np.flatnonzero(integers == IGNORED_CLASS)
    if len(ignored):
        raise DataError(
            f"{len(ignored)} labels are {IGNORED_CLASS}, which marks ignored positions, the first at index {ignored[0]}",
            where=where,
            hint="leave these samples out",
        )
    return integers


def as_text(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as strings; bytes are read as UTF-8.

    Raises:
        DataError: bytes that are no UTF-8.
    """
    try:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(f"holds bytes that are no text: {error}", where=where, hint="store strings in UTF-8") from error


def _as_int64(labels: np.ndarray, where: str) -> np.ndarray:
    limit = 2**53  # whole numbers beyond it are not exact as floats, and no class number is as large
    wrong = np.abs(labels.astype(np.float64)) > limit
    if wrong.any():
        first = _first(wrong)
        raise DataError(
            f"{int(wrong.sum())} labels are beyond 2**53, the first is {labels[first]} at index {_text(first)}",
            where=where,
            hint="number the classes from 0 on",
        )
    return labels.astype(np.int64)


def encode_label_sets(labels: np.ndarray, where: str, *, allow_missing: bool = False) -> np.ndarray:
    """Return multi-label targets as [n, K] float32 of 0 and 1, and NaN where a label is missing and that is allowed.

    Raises:
        DataError: wrong shape or dtype, or other values.
    """
    if labels.ndim != 2 or labels.shape[1] < 1:
        raise DataError(
            f"label sets have shape {labels.shape}, expected (n, K)",
            where=where,
            hint="one column of 0 and 1 per label; for one class per sample use kind=classes",
        )
    _check_numeric(labels, where)
    check_finite(labels, where, allow_nan=allow_missing)
    wrong = ~((labels == 0) | (labels == 1) | np.isnan(labels.astype(np.float64)))
    if wrong.any():
        first = _first(wrong)
        raise DataError(
            f"{int(wrong.sum())} entries are neither 0 nor 1, the first is {labels[first]} at index {_text(first)}",
            where=where,
            hint="for one class per sample use kind=classes",
        )
    return labels.astype(np.float32)


def encode_class_maps(labels: np.ndarray, extent: tuple[int, ...], where: str, num_classes: int | None) -> np.ndarray:
    """Return a class at every position as [n, *E] int64, -100 where it is ignored.

    Args:
        labels: [n, *E] integers.
        extent: E, of the inputs.
        where: file and array, for messages.
        num_classes: K, or None to accept every class from 0 on.

    Raises:
        DataError: wrong shape, or classes out of range.
    """
    if labels.shape[1:] != extent:
        expected = f"(n, {', '.join(map(str, extent))})"
        raise DataError(
            f"integer targets have shape {labels.shape}, expected {expected}: a class at every position",
            where=where,
            hint="store real-valued targets as float32",
        )
    integers = _as_int64(labels, where)
    wrong = (integers < 0) & (integers != IGNORED_CLASS)
    if num_classes is not None:
        wrong |= integers >= num_classes
    if wrong.any():
        first = _first(wrong)
        allowed = "0 or more" if num_classes is None else f"in 0..{num_classes - 1}"
        raise DataError(
            f"{int(wrong.sum())} classes are not {allowed}, the first is {integers[first]} at index {_text(first)}",
            where=where,
            hint=f"{IGNORED_CLASS} marks positions to ignore; check task.num_classes",
        )
    return integers


def check_class_maps(labels: np.ndarray, where: str, num_classes: int) -> None:
    """Check that training maps hold two classes or more, and each of the K.

    Args:
        labels: [n, *E] int64, as `encode_class_maps` gives them.
        where: file and array, for messages.
        num_classes: K.

    Raises:
        DataError: every position is ignored, one class only, or a class without a position.
    """
    present = np.unique(labels[labels != IGNORED_CLASS])
    if len(present) == 0:
        raise DataError("every position is ignored", where=where, hint=f"{IGNORED_CLASS} marks positions to ignore")
    if len(present) == 1:
        raise DataError(f"all positions have class {present[0]}", where=where, hint="give data of two classes or more")
    hint = "number the classes 0..K-1 without gaps, or set task.num_classes"
    _check_none_missing(present, num_classes, "position in the training set", where, hint)


def encode_maps(values: np.ndarray, extent: tuple[int, ...], where: str, *, allow_missing: bool = False) -> np.ndarray:
    """Return real-valued targets as [n, K, *E] float32; [n, *E] becomes one channel.

    Raises:
        DataError: wrong shape or dtype, NaN (unless that is allowed) or infinity.
    """
    if values.shape[1:] == extent:
        values = values[:, None]
    elif values.shape[2:] != extent:
        shapes = f"(n, {', '.join(map(str, extent))}) or (n, K, {', '.join(map(str, extent))})"
        raise DataError(
            f"dense targets have shape {values.shape}, expected {shapes}",
            where=where,
            hint="dense targets have the extent of the inputs; for one value per sample use kind=classes",
        )
    _check_numeric(values, where)
    check_finite(values, where, allow_nan=allow_missing)
    return values.astype(np.float32)


def check_finite(values: np.ndarray, where: str, *, allow_nan: bool = False, offset: int = 0) -> None:
    """Check that numbers are finite in float32.

    Args:
        values: [n, ...] numbers.
        where: file and array, for messages.
        allow_nan: whether NaN passes; infinity never does.
        offset: added to the first index in messages.

    Raises:
        DataError: the count and the first index of what is not.
    """
    if values.dtype.kind in "iub":
        return
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = np.isinf(narrow) if allow_nan else ~np.isfinite(narrow)
    if not wrong.any():
        return
    first = _first(wrong)
    place = _text((first[0] + offset, *first[1:]))
    raise DataError(
        f"{int(wrong.sum())} values are NaN or infinite, the first is {values[first]} at index {place}",
        where=where,
        hint="replace them or leave these samples out",
    )


def _check_numeric(values: np.ndarray, where: str) -> None:
    if values.dtype.kind not in "fiub":
        raise DataError(f"targets have dtype {values.dtype}", where=where, hint="allowed: real numbers")


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


def _text(index: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, index))})" if len(index) > 1 else str(index[0])
