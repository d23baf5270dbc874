"""Columns of a table as numbers: encoders fitted to the training rows, applied to the rows of every split; and targets.

Shapes: n rows, F features, K outputs.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.own_data import (
    MISSING_WORDS,
    check_labels,
    is_missing,
    listed,
    refuse_entry,
    refuse_rows,
)
from orca_cli.data.targets import check_finite
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind
from orca_cli.terminal import counted

Columns = Mapping[str, np.ndarray]  # of a table [n], by name
OTHER, MISSING = "(other)", "(missing)"
_SHOWN = 5  # columns named in a note
_MAX_ROUNDING = 1e-12
_LIKE_NUMBERS = re.compile(r"[+-]?[0-9.,]+")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_NAME = re.compile(r"[+-]?0[0-9].*")  # 01 and 007 are names
_LEFT_OUT = "warning: left out because nearly every row has a text of its own (list it in task.features to keep it)"
_DATE = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}")
# Text is left out if there are more training rows, and at least this share of them has a text of its own.
_FEW_ROWS, _OWN_TEXTS = 20, 0.9
_TRUTHS = {"false": 0.0, "true": 1.0}
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "no": 0.0, "yes": 1.0} | _TRUTHS
_MOST_CLASSES = 20  # different numbers that may be classes
_ALLOW = "remove these rows, or set task.missing_targets=true to leave them out of the loss"
_NO_NUMBER = "correct it, with task=table give \"task.decimal=','\", or use task.kind=classes for names of classes"


@dataclass(frozen=True)
class Numeric:
    """A column of numbers: missing ones become `fill`, the training mean; then `mean` is subtracted and `std` divided by.

    If `flagged`, a second feature is 1 where a number was missing, else 0. With `truths`, training has only 0 and 1, and text
    may spell them. `decimal` is the mark in text where a record has one of its own.
    """

    name: str
    fill: float
    mean: float
    std: float
    flagged: bool = False
    decimal: str | None = None
    truths: bool = False

    @property
    def size(self) -> int:
        """Number of features."""
        return 2 if self.flagged else 1

    def encode(self, values: np.ndarray, decimal: str, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Return [n, size] float32, and which entries are replaced, [n] bool."""
        numbers, wrong = as_numbers(values, self.decimal or decimal, self.truths)
        place, what = f"{where}[{self.name}]", "is not a number, but all training rows are"
        refuse_entry(
            wrong, values, what, place, "correct it, or leave the column out with task.ignore="
        )
        missing = np.isnan(numbers)
        filled = (np.where(missing, self.fill, numbers) - self.mean) / self.std
        check_finite(filled, place)
        return np.stack([filled, missing] if self.flagged else [filled], axis=1).astype(
            np.float32
        ), missing


@dataclass(frozen=True)
class Categorical:
    """A column of text: one feature of 0 and 1 per category; texts of no category are `(other)`, or else all 0.

    The categories are the texts that are kept, ascending, then (missing) if training has any, and (other) if not all are kept.
    """

    name: str
    categories: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.categories)

    def encode(self, values: np.ndarray, decimal: str, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Return [n, size] float32 of 0 and 1, and which entries have no category, [n] bool; numbers count as texts."""
        if values.dtype.kind != "O":  # of a typed file, where training was text
            self._refuse_times(values, f"{where}[{self.name}]")
            spelt = {
                _TRUTHS[text.lower()]: text for text in self.categories if text.lower() in _TRUTHS
            }
            texts = [spelt.get(value, str(value).removesuffix(".0")) for value in values.tolist()]
            values = np.array(texts, dtype=object)
        place = {category: i for i, category in enumerate(self.categories)}
        other = place.get(OTHER, -1)
        chosen = [
            place.get(MISSING, other) if is_missing(text) else place.get(text, other)
            for text in values
        ]
        codes = np.array(chosen, np.int64)
        return (codes[:, None] == np.arange(self.size)).astype(np.float32), codes == other

    def _refuse_times(self, values: np.ndarray, where: str) -> None:
        """Raise DataError for typed values where training has dates as text: a point in time is a number, and no category."""
        dates = [category for category in self.categories if _DATE.match(category)]
        if not dates or np.isnan(values.astype(np.float64)).all():
            return
        what = f"holds points in time or numbers, and training has text such as '{dates[0]}'"
        raise DataError(what, where=where, hint="store it as text, as in training")


Column = Numeric | Categorical


def fit_columns(
    values: Columns,
    rows: np.ndarray,
    where: str,
    *,
    decimal: str,
    normalize: bool,
    max_categories: int,
    indicator: bool,
    declared: Sequence[str] = (),
) -> tuple[tuple[Column, ...], list[str]]:
    """Return how columns become features, from the training rows alone, and notes on what was filled or left out.

    Columns that are empty in training are left out, and so is text of which nearly every row has its own, unless the settings
    name the column (`declared`). Other columns of which an entry is not a number are text too, whose categories are the
    `max_categories` most frequent texts. Without `normalize` numbers are filled but not scaled. `indicator` says whether
    columns with missing numbers in training get a second feature that says where. DataError where no column is left or a
    number is infinite.
    """
    columns: list[Column] = []
    filled = f"missing numbers become the training mean{', flagged by one more feature each' if indicator else ''}"
    remarks: dict[str, list[str]] = defaultdict(list)
    for name, column in values.items():
        train = column[rows]
        numbers, wrong = as_numbers(train, decimal)
        unknown = np.isnan(numbers) & ~wrong
        if unknown.all():
            remarks["left out because empty in the training set"].append(name)
            continue
        if not wrong.any():
            known, is_flagged = numbers[~unknown], indicator and bool(unknown.any())
            check_finite(known, f"{where}[{name}]")
            # So that the squares of small numbers do not vanish.
            scale = float(np.abs(known).max()) or 1.0
            mean, std = float((known / scale).mean()) * scale, float((known / scale).std()) * scale
            std = std if normalize and std > _MAX_ROUNDING * abs(mean) else 1.0
            truths = bool(np.isin(known, (0, 1)).all())
            columns.append(
                Numeric(name, mean, mean if normalize else 0.0, std, is_flagged, truths=truths)
            )
            if unknown.any():
                remarks[f"{filled}, in training rows"].append(f"{name} ({int(unknown.sum())})")
            if (known == known[0]).all():
                remarks["warning: constant in the training set"].append(name)
            continue
        texts, counts = np.unique(train[~unknown].astype(str), return_counts=True)
        if name not in declared and has_own_texts(train, decimal):
            remarks[_LEFT_OUT].append(f"{name} ({len(texts)} texts in {len(train)} training rows)")
            continue
        is_number_like = all(map(_LIKE_NUMBERS.fullmatch, train[wrong]))
        kept = np.sort(texts[np.argsort(-counts, kind="stable")[:max_categories]])
        marks = ([MISSING] if unknown.any() else []) + ([OTHER] if len(kept) < len(texts) else [])
        columns.append(Categorical(name, (*map(str, kept), *marks)))
        if is_number_like or wrong.sum() < len(train[~unknown]):
            shown = (
                f"{name} ('{train[wrong][0]}'; {int(wrong.sum())} of {len(train)} training rows)"
            )
            remarks["warning: read as text, since not all of it are numbers"].append(shown)
    noted = [f"{text}: {listed(shown, _SHOWN)}" for text, shown in remarks.items()]
    if not columns:
        what = f"no column is left to learn from: {'; '.join(noted)}"
        hint = "check task.features and task.ignore; task.sequence reads a text symbol by symbol"
        raise DataError(what, where=where, hint=hint)
    num_numeric, size = (
        sum(isinstance(column, Numeric) for column in columns),
        sum(column.size for column in columns),
    )
    become = f"{len(columns) - num_numeric} of text become {size} features"
    notes = [f"{counted(num_numeric, 'column')} of numbers and {become}"]
    return tuple(columns), notes + noted


def has_own_texts(column: np.ndarray, decimal: str) -> bool:
    """Return whether nearly every row of a column [n] has a text of its own, as names of patients are.

    Text that looks like numbers, perhaps with another decimal mark, and a column of numbers with some text do not count.
    """
    numbers, wrong = as_numbers(column, decimal)
    texts = column[wrong]
    if len(column) <= _FEW_ROWS or 2 * len(texts) <= len(column):
        return False
    if all(map(_LIKE_NUMBERS.fullmatch, texts)):
        return False
    known = wrong | ~np.isnan(numbers)
    return len(set(column[known])) >= _OWN_TEXTS * len(column)


def as_numbers(
    values: np.ndarray, decimal: str, truths: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return values as [n] float64, NaN where missing, and [n] bool, True for text that is not a number, nor a truth.

    Beside a decimal comma, text with a point is not a number: 1.667 may be a fraction, or 1667.
    """
    if values.dtype.kind in "fiub":
        return values.astype(np.float64), np.zeros(len(values), dtype=bool)
    import pandas as pd

    texts = values
    if decimal == ",":
        texts = np.array(
            ["." if "." in text else text.replace(",", ".") for text in values], dtype=object
        )
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(
        np.float64, na_value=np.nan
    )
    wrong = np.isnan(numbers)
    wrong[wrong] = [not is_missing(text) for text in values[wrong]]
    return _bits(values) if truths and wrong.any() else (numbers, wrong)


def infer_kind(
    values: Columns, names: Sequence[str], decimal: str, where: str
) -> tuple[Kind, list[str]]:
    """Return the kind of the columns to be predicted, and a note on it: numbers are values, text is classes.

    Whole numbers of at most 20 different values are classes, where there is one column. Several columns are labels if they
    hold nothing but 0 and 1 (or false and true), or else numbers. DataError where a single column has entries that look like
    numbers but are none, and no other text: the decimal mark may be another one.
    """
    if len(names) > 1:
        if all(not _bits(values[name])[1].any() for name in names):
            return "labels", [f"{listed(names)} read as labels (task.kind=values predicts numbers)"]
        return "values", [f"{listed(names)} read as numbers to predict (task.kind=values)"]
    column = values[names[0]]
    numbers, wrong = as_numbers(column, decimal)
    known = numbers[~np.isnan(numbers)]
    if wrong.any() and all(map(_LIKE_NUMBERS.fullmatch, column[wrong])):
        refuse_entry(wrong, column, "is not a number", f"{where}[{names[0]}]", _NO_NUMBER)
    is_named = column.dtype.kind == "O" and any(_NAME.fullmatch(text) for text in column)
    if wrong.any() or not len(known) or is_named:
        return "classes", []
    if (
        len(distinct := np.unique(known)) <= _MOST_CLASSES
        and (distinct == np.round(distinct)).all()
    ):
        return "classes", [
            f"{names[0]}: whole numbers read as classes (task.kind=values predicts the number)"
        ]
    return "values", [
        f"{names[0]} read as numbers to predict (task.kind=values; task.kind=classes for classes)"
    ]


def raw_targets(
    values: Columns,
    kind: str,
    names: Sequence[str],
    missing: bool,
    where: str,
    decimal: str,
    are_texts: bool = False,
) -> tuple[np.ndarray, str]:
    """Return target columns as class labels [n], or as bits or numbers [n, K]; and their origin, for messages.

    Classes are texts where they `are_texts` in the training rows, or where one is not an integer. DataError for entries that
    are not of the kind and for missing ones; where `missing` allows these, they are NaN in labels and values.
    """
    if kind == "classes":
        labels, place = values[names[0]], f"{where}[{names[0]}]"
        if labels.dtype.kind != "O":
            empty = np.isnan(labels.astype(np.float64))
            refuse_rows(empty, "target", place, "remove these rows")
            return labels, place
        check_labels(labels, place)
        # 1, 2 and 3.0 are integers, 01 and 1.5 are names.
        are_texts = are_texts or not all(map(_INTEGER.fullmatch, labels))
        return labels.astype(str if are_texts else np.float64), place
    columns = []
    for name in names:
        numbers, wrong = (
            as_numbers(values[name], decimal) if kind == "values" else _bits(values[name])
        )
        what = "is not a number" if kind == "values" else "is neither 0 nor 1"
        refuse_entry(wrong, values[name], what, f"{where}[{name}]", _NO_NUMBER)
        if not missing:
            refuse_rows(np.isnan(numbers), "target", f"{where}[{name}]", _ALLOW)
        columns.append(numbers)
    return np.stack(columns, axis=1), f"{where}[{names[0]}]" if len(names) == 1 else where


def _bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as [n] float64 of 0 and 1, NaN elsewhere; and [n] bool, True for what is neither 0, 1 nor empty."""
    texts = [str(value).lower() for value in values.tolist()]
    bits = np.array([_BITS.get(text, np.nan) for text in texts])
    return bits, np.isnan(bits) & ~np.isin(texts, MISSING_WORDS)
