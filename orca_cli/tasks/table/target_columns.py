"""The columns of a table that are to be predicted: their kind, and their values as targets.

DataError for values that are not of that kind.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind
from orca_cli.tasks.shared.own_data import listed
from orca_cli.tasks.table.columns import as_numbers, has_decimal_commas, is_missing, own_mark

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_NAME = re.compile(r"[+-]?0[0-9].*")  # 01 and 007 are names
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_CLASSES = 20  # different numbers that may be classes
_POINTS = "beside \"task.decimal=','\" points part thousands: write its numbers with a comma"
_COMMAS = "write decimal points, or with task=table give \"task.decimal=','\""


def infer_kind(
    values: Mapping[str, np.ndarray], names: Sequence[str], decimal: str, where: str
) -> tuple[Kind, list[str]]:
    """Return the kind of the columns to be predicted, and a note on it: numbers are values, text is classes.

    Whole numbers of at most 20 different values are classes, where there is one column. Several columns are labels if they
    hold nothing but 0 and 1 (or false and true), or else numbers.

    Raises:
        DataError: one of several columns is text.
    """
    if len(names) > 1:
        if all(not _unread_bits(values[name])[1].any() for name in names):
            return "labels", [f"{listed(names)} read as labels (task.kind=values predicts numbers)"]
        text = [name for name in names if as_numbers(values[name], decimal)[1].any()]
        if text:
            hint = "several columns are labels of 0 and 1, or numbers; give one with task.target="
            raise DataError(f"'{text[0]}' holds text", where=f"{where}[{text[0]}]", hint=hint)
        return "values", [f"{listed(names)} read as numbers to predict (task.kind=values)"]
    column = values[names[0]]
    found, wrong = as_numbers(column, decimal)
    known = found[~np.isnan(found)]
    is_text = column.dtype.kind not in "fiub"
    if wrong.any() and has_decimal_commas(column, decimal):
        what = f"'{column[int(wrong.argmax())]}' in row {int(wrong.argmax()) + 1} is a number only with a decimal comma"
        hint = f"{_COMMAS}; task.kind=classes reads names of classes"
        raise DataError(what, where=f"{where}[{names[0]}]", hint=hint)
    if own_mark(column, decimal) != decimal:
        what = f"'{column[int(wrong.argmax())]}' in row {int(wrong.argmax()) + 1} is a number only with a decimal point"
        raise DataError(what, where=f"{where}[{names[0]}]", hint=f"{_POINTS}, or give task.kind=classes")
    if wrong.any() or not len(known) or (is_text and any(_NAME.fullmatch(text) for text in column)):
        return "classes", []
    if len(distinct := np.unique(known)) <= _MOST_CLASSES and (distinct == np.round(distinct)).all():
        return "classes", [f"{names[0]}: whole numbers read as classes (task.kind=values predicts the number)"]
    return "values", [f"{names[0]} read as numbers to predict (task.kind=values; task.kind=classes for classes)"]


def raw_targets(
    values: Mapping[str, np.ndarray],
    kind: str,
    names: Sequence[str],
    missing: bool,
    where: str,
    decimal: str,
    text: bool | None = None,
) -> tuple[np.ndarray, str]:
    """Return target columns as class labels [n], or as bits or numbers [n, K]; and their origin, for messages.

    `text` says whether classes are text in the training rows; None infers it from the values.
    """
    if kind == "classes":
        place = f"{where}[{names[0]}]"
        return _class_labels(values[names[0]], place, text), place
    if kind == "values":
        columns = [_target_numbers(values[name], decimal, f"{where}[{name}]", missing) for name in names]
        return np.stack(columns, axis=1), f"{where}[{names[0]}]" if len(names) == 1 else where
    return np.stack([_bits(values[name], f"{where}[{name}]", missing) for name in names], axis=1), where


def _class_labels(values: np.ndarray, where: str, text: bool | None) -> np.ndarray:
    """Return class labels [n] as numbers where all of them are integers, or else as text.

    In text only the form tells numbers from names: 1, 2 and 3.0 are integers, 01 and 1.5 are names.
    """
    if values.dtype.kind in "fiub":
        _check_complete(np.isnan(values.astype(np.float64)), where)
        return values
    _check_complete(values == "", where)
    if text is None:
        text = not all(_INTEGER.fullmatch(value) for value in values)
    if text:
        return values.astype(str)
    try:
        return values.astype(np.float64)
    except ValueError:
        return values.astype(str)  # truths, or refused beside training labels that are numbers


def refuse_measurements(labels: np.ndarray, where: str) -> None:
    """Refuse numbers with a fraction where too many differ for names of classes."""
    distinct = np.unique(labels)
    if labels.dtype.kind in "iub" or len(distinct) <= _MOST_CLASSES:
        return
    try:
        found = distinct.astype(np.float64)
    except ValueError:
        return
    broken = found != np.round(found)
    if broken.any():
        what = f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are not classes"
        raise DataError(what, where=where, hint="predict the number with task.kind=values, or bin it into classes")


def _target_numbers(values: np.ndarray, decimal: str, where: str, missing: bool) -> np.ndarray:
    """Return a column as [n] float64; NaN for empty fields."""
    found, wrong = as_numbers(values, decimal)
    if wrong.any():
        first = int(wrong.argmax())
        hint = "correct it, or use task.kind=classes for names of classes"
        hint = _COMMAS if has_decimal_commas(values, decimal) else hint
        hint = _POINTS if own_mark(values, decimal) != decimal else hint
        raise DataError(f"'{values[first]}' in row {first + 1} is not a number", where=where, hint=hint)
    if not missing:
        _check_complete(np.isnan(found), where, _ALLOW)
    return found


def _bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, for empty fields, NaN."""
    found, unread = _unread_bits(values)
    if values.dtype.kind in "fiub":  # numbers are refused when they are encoded, with their place
        found, unread = values.astype(np.float64), np.zeros(len(values), dtype=bool)
    if unread.any():
        first = int(unread.argmax())
        hint = "labels are 0 and 1, or false and true; for numbers use kind=values, for one class per row kind=classes"
        raise DataError(f"'{values[first]}' in row {first + 1} is neither 0 nor 1", where=where, hint=hint)
    if not missing:
        _check_complete(np.isnan(found), where, _ALLOW)
    return found


def _unread_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as [n] float64 of 0 and 1, NaN elsewhere; and [n] bool, True for what is neither 0, 1 nor empty."""
    if values.dtype.kind in "fiub":
        found = values.astype(np.float64)
        unread = (found != 0) & (found != 1) & ~np.isnan(found)
        return np.where(unread, np.nan, found), unread
    found = np.array([_BITS.get(text.lower(), np.nan) for text in values])
    return found, np.isnan(found) & ~np.array([is_missing(text) for text in values], dtype=bool)


_ALLOW = ", or set task.missing_targets=true to leave them out of the loss"


def _check_complete(missing: np.ndarray, where: str, advice: str = "") -> None:
    if missing.any():
        what = f"{int(missing.sum())} rows have no target, the first is row {int(missing.argmax()) + 1}"
        raise DataError(what, where=where, hint=f"remove these rows{advice}")
