"""The columns of a table that are to be predicted: their kind, and their values as targets.

DataError for values that are not of that kind.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from orca_cli.data.own_data import listed, refuse_entry, refuse_rows
from orca_cli.data.table.columns import are_like_numbers, as_numbers, is_missing
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_NAME = re.compile(r"[+-]?0[0-9].*")  # 01 and 007 are names
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_CLASSES = 20  # different numbers that may be classes
_ALLOW = "remove these rows, or set task.missing_targets=true to leave them out of the loss"
_NO_NUMBER = "correct it, with task=table give \"task.decimal=','\", or use task.kind=classes for names of classes"


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
    numbers, wrong = as_numbers(column, decimal)
    known = numbers[~np.isnan(numbers)]
    if wrong.any() and are_like_numbers(column[wrong]):
        refuse_entry(wrong, column, "is not a number", f"{where}[{names[0]}]", _NO_NUMBER)
    is_named = column.dtype.kind == "O" and any(_NAME.fullmatch(text) for text in column)
    if wrong.any() or not len(known) or is_named:
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
        refuse_rows(np.isnan(values.astype(np.float64)), "target", where, "remove these rows")
        return values
    refuse_rows(values == "", "target", where, "remove these rows")
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
        numbers = distinct.astype(np.float64)
    except ValueError:
        return
    broken = numbers != np.round(numbers)
    if broken.any():
        what = f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are not classes"
        raise DataError(what, where=where, hint="predict the number with task.kind=values, or bin it into classes")


def _target_numbers(values: np.ndarray, decimal: str, where: str, missing: bool) -> np.ndarray:
    """Return a column as [n] float64; NaN for empty fields."""
    numbers, wrong = as_numbers(values, decimal)
    refuse_entry(wrong, values, "is not a number", where, _NO_NUMBER)
    if not missing:
        refuse_rows(np.isnan(numbers), "target", where, _ALLOW)
    return numbers


def _bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, for empty fields, NaN."""
    bits, unread = _unread_bits(values)
    hint = "labels are 0 and 1, or false and true; for numbers use kind=values, for one class per row kind=classes"
    refuse_entry(unread, values, "is neither 0 nor 1", where, hint)
    if not missing:
        refuse_rows(np.isnan(bits), "target", where, _ALLOW)
    return bits


def _unread_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as [n] float64 of 0 and 1, NaN elsewhere; and [n] bool, True for what is neither 0, 1 nor empty."""
    if values.dtype.kind in "fiub":
        bits = values.astype(np.float64)
        unread = (bits != 0) & (bits != 1) & ~np.isnan(bits)
        return np.where(unread, np.nan, bits), unread
    bits = np.array([_BITS.get(text.lower(), np.nan) for text in values])
    return bits, np.isnan(bits) & ~np.array([is_missing(text) for text in values], dtype=bool)
