"""Target columns of a table as class labels and bits; DataError names the first row that is neither.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

import re

import numpy as np

from orca_cli.exceptions import DataError

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_FRACTIONS = 20  # different numbers with a fraction that may be names of classes


def class_labels(values: np.ndarray, where: str, text: bool | None) -> np.ndarray:
    """Return class labels [n] as numbers where all of them are integers, or else as text.

    In text only the form tells numbers from names: 1, 2 and 3.0 are integers, 01 and 1.5 are names.

    Args:
        values: [n].
        where: file and column, for messages.
        text: whether they are text in the training rows; None to infer it from the values.
    """
    if values.dtype.kind in "fiub":
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
        _check_complete(missing, where)
        return np.array([f"{value:g}" for value in values]) if text else values
    _check_complete(values == "", where)
    if text is None:
        text = not all(_INTEGER.fullmatch(value) for value in values)
    if text:
        return values.astype(str)
    try:
        return values.astype(np.float64)
    except ValueError:
        return values.astype(str)  # refused beside training labels that are numbers


def refuse_measurements(labels: np.ndarray, where: str) -> None:
    """Refuse numbers with a fraction where too many differ for names of classes."""
    distinct = np.unique(labels)
    if labels.dtype.kind in "iub" or len(distinct) <= _MOST_FRACTIONS:
        return
    try:
        numbers = distinct.astype(np.float64)
    except ValueError:
        return
    broken = numbers != np.round(numbers)
    if broken.any():
        what = f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are not classes"
        hint = "bin them into classes, such as low and high; tables have no dense targets"
        raise DataError(what, where=where, hint=hint)


def bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, for empty fields, NaN."""
    if values.dtype.kind in "fiub":
        found = values.astype(np.float64)
        unread = np.zeros(len(values), dtype=bool)
    else:
        found = np.array([_BITS.get(text.lower(), np.nan) for text in values])
        unread = np.isnan(found) & (values != "")
    if unread.any():
        first = int(unread.argmax())
        hint = "labels are 0 and 1, or false and true; for one class per row use kind=classes"
        raise DataError(f"'{values[first]}' in row {first + 1} is neither 0 nor 1", where=where, hint=hint)
    if not missing:
        _check_complete(np.isnan(found), where, ", or set task.missing_targets=true to leave them out of the loss")
    return found


def _check_complete(missing: np.ndarray, where: str, advice: str = "") -> None:
    if missing.any():
        what = f"{int(missing.sum())} rows have no target, the first is row {int(missing.argmax()) + 1}"
        raise DataError(what, where=where, hint=f"remove these rows{advice}")
