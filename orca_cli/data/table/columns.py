"""Columns of a table as numbers: encoders fitted to the training rows, applied to the rows of every split.

Shapes: n rows, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.own_data import MISSING_WORDS, TRUTHS, counted, listed, places_of_numbers, refuse_entry
from orca_cli.exceptions import DataError

OTHER, MISSING = "(other)", "(missing)"
_SHOWN = 5  # columns named in a note
_MAX_ROUNDING = 1e-12
_ALMOST_ALL = 0.9  # share of numbers from which on a column of text was probably meant as numbers
_LIKE_NUMBERS = re.compile(r"[+-]?[0-9.,]+")
# Beside a decimal comma 1.667 may be a fraction, or 1667.
_POINTED = re.compile(
    r"[+-]?(([0-9]+\.[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[0-9]{1,3}(\.[0-9]{3})+(,[0-9]*)?)", re.IGNORECASE
)


@dataclass(frozen=True)
class Numeric:
    """A column of numbers: missing ones become `fill`, the training mean; then `mean` is subtracted and `std` divided by.

    If `flagged`, a second feature is 1 where a number was missing, else 0. `decimal` is None but in old records, where it is
    the column's own decimal mark. `truths`: training has only 0 and 1, which a text file may spell false and true.
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

    def encode(self, values: np.ndarray, decimal: str, where: str) -> np.ndarray:
        """Return [n, size] float32."""
        numbers, wrong = self._numbers(values, decimal)
        hint = "correct it, or leave the column out with task.ignore="
        what = "is not a number, but all training rows are"
        refuse_entry(wrong, values, what, f"{where}[{self.name}]", hint)
        missing = np.isnan(numbers)
        with np.errstate(over="ignore"):
            filled = ((np.where(missing, self.fill, numbers) - self.mean) / self.std).astype(np.float32)
        what, hint = f"is too large beside the training rows (mean {self.fill:g})", "correct it, or leave it empty"
        refuse_entry(np.isinf(filled), values, what, f"{where}[{self.name}]", hint)
        return np.stack([filled, missing.astype(np.float32)], axis=1) if self.flagged else filled[:, None]

    def odd(self, values: np.ndarray, decimal: str, where: str) -> tuple[np.ndarray, str]:
        """Return which of new entries are replaced, [n] bool, and what happens to them."""
        missing = np.isnan(self._numbers(values, decimal)[0])
        return missing, f"without a number in '{self.name}': the training mean stands there"

    def _numbers(self, values: np.ndarray, decimal: str) -> tuple[np.ndarray, np.ndarray]:
        """Return values as those of `as_numbers`."""
        if self.truths and values.dtype.kind == "O":
            values = np.array([TRUTHS.get(text.lower(), text) for text in values], dtype=object)
        return as_numbers(values, self.decimal or decimal)


@dataclass(frozen=True)
class Categorical:
    """A column of text: one feature of 0 and 1 per category; texts that training lacks are `(other)`, or else all 0.

    Args:
        name: of the column.
        categories: the texts that are kept, ascending, then possibly (missing) and (other).
    """

    name: str
    categories: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.categories)

    def encode(self, values: np.ndarray, decimal: str, where: str) -> np.ndarray:
        """Return [n, number of categories] float32 of 0 and 1."""
        chosen = self._places(values, decimal, where)
        return (chosen[:, None] == np.arange(len(self.categories))).astype(np.float32)

    def odd(self, values: np.ndarray, decimal: str, where: str) -> tuple[np.ndarray, str]:
        """Return which of new entries training lacks, [n] bool, and what happens to them."""
        learned = {i for i, category in enumerate(self.categories) if category != OTHER}
        unknown = ~np.isin(self._places(values, decimal, where), list(learned))
        return unknown, f"with a text in '{self.name}' that training lacks"

    def _places(self, values: np.ndarray, decimal: str, where: str) -> np.ndarray:
        """Return the category of each entry, [n]; -1 for none. Numbers and truths are those that categories spell."""
        place = {category: i for i, category in enumerate(self.categories)}
        missing, other = place.get(MISSING, place.get(OTHER, -1)), place.get(OTHER, -1)
        if values.dtype.kind == "O":
            texts = (missing if is_missing(text) else place.get(text, other) for text in values)
            return np.fromiter(texts, np.int64, len(values))
        spelt = places_of_numbers([category.replace(decimal, ".") for category in self.categories])
        if not spelt and not np.isnan(values.astype(np.float64)).all():
            what = f"holds numbers, and texts such as '{self.categories[0]}' in training"
            raise DataError(what, where=f"{where}[{self.name}]", hint="give the texts of training")
        numbers = values.astype(np.float64).tolist()
        return np.array([missing if one != one else spelt.get(one, other) for one in numbers], dtype=np.int64)


Column = Numeric | Categorical


def fit_columns(
    values: Mapping[str, np.ndarray],
    names: Sequence[str],
    rows: np.ndarray,
    normalize: bool,
    max_categories: int,
    decimal: str,
    where: str,
    indicator: bool = False,
) -> tuple[tuple[Column, ...], list[str]]:
    """Return how columns become features, from the training rows alone, and notes on what was filled or left out.

    Args:
        values, names: name -> column [n], and those that are features.
        rows: the training rows.
        normalize, max_categories, decimal, where: settings of the reader, and the file.
        indicator: whether columns with missing numbers in training get a second feature that says where.
    """
    columns: list[Column] = []
    filled, flags = (
        "missing numbers become the training mean",
        ", flagged by one more feature each" if indicator else "",
    )
    remarks: dict[str, list[str]] = {}
    for name in names:
        train = values[name][rows]
        numbers, wrong = as_numbers(train, decimal)
        unknown = np.isnan(numbers) & ~wrong
        if unknown.all():
            remarks.setdefault("left out because empty in the training set", []).append(name)
        elif wrong.any():
            columns.append(texts := _categorical(name, train, max_categories))
            if OTHER in texts.categories:
                remarks.setdefault(f"only the {max_categories} most frequent texts have a feature", []).append(name)
            if _may_be_numbers(train, wrong):
                shown = f"{name} ('{train[wrong][0]}'; {int(wrong.sum())} of {len(train)} training rows)"
                remarks.setdefault("warning: read as text, since not all of it are numbers", []).append(shown)
        else:
            columns.append(_numeric(name, numbers[~unknown], normalize, indicator and bool(unknown.any()), where))
            if unknown.any():
                remarks.setdefault(f"{filled}{flags}, in training rows", []).append(f"{name} ({int(unknown.sum())})")
            if (numbers[~unknown] == numbers[~unknown][0]).all():
                remarks.setdefault("warning: constant in the training set", []).append(name)
    if not columns:
        raise DataError("all columns are empty", where=where, hint="check task.features and task.ignore")
    num_numeric, size = sum(isinstance(column, Numeric) for column in columns), sum(column.size for column in columns)
    become = f"{len(columns) - num_numeric} of text become {size} features"
    notes = [f"{counted(num_numeric, 'column')} of numbers and {become}"]
    return tuple(columns), notes + [f"{text}: {listed(shown, _SHOWN)}" for text, shown in remarks.items()]


def _may_be_numbers(train: np.ndarray, wrong: np.ndarray) -> bool:
    """Return whether a column read as text may hold numbers: nearly all are, or the others look alike or like numbers."""
    present = sum(not is_missing(text) for text in train)
    # One text alone among numbers, such as n.a., is mostly a missing entry, however frequent it is.
    is_few = wrong.sum() <= (1 - _ALMOST_ALL) * present or (wrong.sum() < present and len(set(train[wrong])) == 1)
    return is_few or are_like_numbers(train[wrong])


def are_like_numbers(texts: np.ndarray) -> bool:
    """Return whether texts may be numbers with other marks for decimals and thousands."""
    return all(_LIKE_NUMBERS.fullmatch(text) for text in texts)


def codes(values: np.ndarray, decimal: str) -> np.ndarray:
    """Return codes [n] int64, equal for equal entries: compared as numbers if all entries are numbers, else as text."""
    numbers, wrong = as_numbers(values, decimal)
    if wrong.any():
        return codes_of_texts(values)
    return np.where(np.isnan(numbers), np.nan, numbers + 0.0).view(np.int64)  # one NaN, and one zero


def codes_of_texts(values: np.ndarray) -> np.ndarray:
    """Return codes [n] int64, equal for equal texts."""
    import pandas as pd

    return pd.factorize(values)[0].astype(np.int64)


def _numeric(name: str, known: np.ndarray, normalize: bool, flagged: bool, where: str) -> Numeric:
    """Return the column of known training values."""
    wrong = np.abs(known) > 1e300  # their squares have to stay finite in the deviation
    if wrong.any():
        what = f"{int(wrong.sum())} values are infinite or too large, the first is {known[wrong][0]}"
        raise DataError(what, where=f"{where}[{name}]", hint="correct them, or leave them empty")
    # Scaled first, so that neither the sum nor the squares of large numbers overflow.
    scale = float(np.abs(known).max()) or 1.0
    mean, std = float((known / scale).mean()) * scale, float((known / scale).std()) * scale
    if std <= _MAX_ROUNDING * abs(mean) or not normalize:
        std = 1.0
    truths = bool(np.isin(known, (0, 1)).all())
    return Numeric(name, mean, mean if normalize else 0.0, std, flagged, truths=truths)


def _categorical(name: str, train: np.ndarray, most: int) -> Categorical:
    missing = np.array([is_missing(text) for text in train])
    texts, counts = np.unique(train[~missing].astype(str), return_counts=True)
    kept = np.sort(texts[np.argsort(-counts, kind="stable")[:most]])
    marks = ([MISSING] if missing.any() else []) + ([OTHER] if len(kept) < len(texts) else [])
    return Categorical(name, (*map(str, kept), *marks))


def as_numbers(values: np.ndarray, decimal: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values as [n] float64, NaN where missing, and [n] bool, True for text that is not a number.

    Raises:
        DataError: a number has a decimal point, or points between thousands, beside a decimal comma.
    """
    if values.dtype.kind in "fiub":
        return values.astype(np.float64), np.zeros(len(values), dtype=bool)
    import pandas as pd

    texts = values
    if decimal == ",":
        pointed = np.array([_POINTED.fullmatch(text) is not None for text in values], dtype=bool)
        what, hint = (
            "has points beside a decimal comma",
            "write its numbers with a comma alone, or leave the column out",
        )
        refuse_entry(pointed, values, what, "task.decimal", hint)
        texts = np.array(["." if "." in text else text.replace(",", ".") for text in values], dtype=object)
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    unread = np.flatnonzero(np.isnan(numbers))
    wrong = np.zeros(len(values), dtype=bool)
    wrong[unread] = [not is_missing(text) for text in values[unread]]
    return numbers, wrong


def is_missing(text: str) -> bool:
    """Return whether a field stands for a missing entry."""
    return text.lower() in MISSING_WORDS
