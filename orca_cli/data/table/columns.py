"""Columns of a table as numbers: encoders fitted to the training rows, applied to the rows of every split.

Shapes: n rows, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orca_cli.data.own_data import MISSING_WORDS, TRUTHS, counted, listed, places_of_numbers, refuse_entry
from orca_cli.exceptions import DataError

OTHER, MISSING = "(other)", "(missing)"
_SHOWN = 5  # columns named in a note
_MAX_ROUNDING = 1e-12
_ALMOST_ALL = 0.9  # share of numbers from which on a column of text was probably meant as numbers
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+")  # 1,667 may be 1667
_POINTED = re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]*)?")  # beside a decimal comma 1.667 is 1667


@dataclass(frozen=True)
class Numeric:
    """A column of numbers: missing ones become `fill`, the training mean; then `mean` is subtracted and `std` divided by.

    If `flagged`, a second feature is 1 where a number was missing, else 0. `decimal` is the column's own decimal mark; None
    takes the table's. `truths`: training has only 0 and 1, which a text file may spell false and true.
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
        _check_range(numbers, f"{where}[{self.name}]")
        missing = np.isnan(numbers)
        with np.errstate(over="ignore"):
            filled = ((np.where(missing, self.fill, numbers) - self.mean) / self.std).astype(np.float32)
        if np.isinf(filled).any():
            first = int(np.isinf(filled).argmax())
            what = f"{numbers[first]:g} in row {first + 1} is too large beside the training rows (mean {self.fill:g})"
            raise DataError(what, where=f"{where}[{self.name}]", hint="correct it, or leave it empty")
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
        spelt = places_of_numbers([_with_point(category, decimal) for category in self.categories])
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
    flags = ", flagged by one more feature each," if indicator else ""
    filled = f"missing numbers become the training mean{flags} in {{}} (training rows)"
    capped, empty = (
        "one feature per text for {}; other texts share one",
        "left out because empty in the training set: {}",
    )
    pointed = "numbers with decimal points, unlike task.decimal: {}"
    constant = "warning: constant in the training set: {}"
    columns: list[Column] = []
    remarks: dict[str, list[str]] = {text: [] for text in (filled, capped, empty, pointed, constant)}
    for name in names:
        mark = decimal_mark(train := values[name][rows], decimal)
        numbers, wrong = as_numbers(train, mark)
        unknown = np.isnan(numbers) & ~wrong
        if unknown.all():
            remarks[empty].append(name)
        elif wrong.any():
            texts, rare = _categorical(name, train, max_categories)
            if rare:
                remarks[capped].append(f"{name} (the {max_categories} most frequent of {rare + max_categories})")
            if doubt := _doubt(name, train, wrong, decimal, rows):
                remarks.setdefault(f"warning: read as text, {doubt[0]}: {{}}", []).append(doubt[1])
            columns.append(texts)
        else:
            _check_range(numbers, f"{where}[{name}]", rows)
            column, is_constant = _numeric(name, numbers[~unknown], normalize)
            column = replace(column, truths=bool(np.isin(numbers[~unknown], (0, 1)).all()))
            if mark != decimal:
                column = replace(column, decimal=mark)
                remarks[pointed].append(name)
            if unknown.any():
                column = replace(column, flagged=indicator)
                remarks[filled].append(f"{name} ({int(unknown.sum())})")
            if is_constant:
                remarks[constant].append(name)
            columns.append(column)
    if not columns:
        raise DataError("all columns are empty", where=where, hint="check task.features and task.ignore")
    num_numeric, size = sum(isinstance(column, Numeric) for column in columns), sum(column.size for column in columns)
    become = f"{len(columns) - num_numeric} of text become {size} features"
    notes = [f"{counted(num_numeric, 'column')} of numbers and {become}"]
    return tuple(columns), notes + [text.format(listed(shown, _SHOWN)) for text, shown in remarks.items() if shown]


def _doubt(name: str, train: np.ndarray, wrong: np.ndarray, decimal: str, rows: np.ndarray) -> tuple[str, str] | None:
    """Return why a column read as text may hold numbers, and its name with the evidence; None without a doubt."""
    if has_decimal_commas(train, decimal):
        return "but numbers with \"task.decimal=','\"", name
    if decimal == "." and all(map(_is_grouped, train[wrong])):
        return "since numbers have commas between thousands; remove these", name
    count, first = int(wrong.sum()), int(wrong.argmax())
    num_present = sum(not is_missing(text) for text in train)
    # One text alone among numbers, such as n.a., is mostly a missing entry, however frequent it is.
    if count > (1 - _ALMOST_ALL) * num_present and (count == num_present or len(set(train[wrong])) > 1):
        return None
    shown = f"{name} ('{train[first]}' in row {rows[first] + 1}; {count} of {len(train)} training rows)"
    return "since not all of it are numbers; correct these entries, or leave them empty", shown


def has_decimal_commas(values: np.ndarray, decimal: str) -> bool:
    """Return whether a decimal comma makes all entries numbers, and the commas do not separate thousands."""
    if decimal != "." or as_numbers(values, ",")[1].any():
        return False
    with_comma = [text for text in values if "," in text]
    return bool(with_comma) and not all(map(_is_grouped, with_comma))


def codes(values: np.ndarray, decimal: str) -> np.ndarray:
    """Return codes [n] int64, equal for equal entries: compared as numbers if all entries are numbers, else as text."""
    numbers, wrong = as_numbers(values, decimal_mark(values, decimal))
    if wrong.any():
        return codes_of_texts(values)
    return np.where(np.isnan(numbers), np.nan, numbers + 0.0).view(np.int64)  # one NaN, and one zero


def codes_of_texts(values: np.ndarray) -> np.ndarray:
    """Return codes [n] int64, equal for equal texts."""
    import pandas as pd

    return pd.factorize(values)[0].astype(np.int64)


def decimal_mark(values: np.ndarray, decimal: str) -> str:
    """Return the decimal mark of a column: the table's, or a point if all entries are numbers only with points."""
    if decimal == "." or not as_numbers(values, decimal)[1].any() or as_numbers(values, ".")[1].any():
        return decimal
    return "."


def _is_grouped(text: str) -> bool:
    return _GROUPED.fullmatch(text) is not None


def _check_range(numbers: np.ndarray, where: str, rows: np.ndarray | None = None) -> None:
    """Refuse numbers whose squares overflow; `rows` are those of the file, where these are not all."""
    wrong = np.abs(numbers) > 1e300  # their squares have to stay finite in the deviation
    if wrong.any():
        first = int(wrong.argmax())
        row = first if rows is None else rows[first]
        what = f"{int(wrong.sum())} values are infinite or too large, the first is {numbers[first]} in row {row + 1}"
        raise DataError(what, where=where, hint="correct them, or leave them empty")


def _numeric(name: str, known: np.ndarray, normalize: bool) -> tuple[Numeric, bool]:
    """Return the column, and whether the known training values are all the same."""
    # Scaled first, so that neither the sum nor the squares of large numbers overflow.
    scale = float(np.abs(known).max()) or 1.0
    mean, std = float((known / scale).mean()) * scale, float((known / scale).std()) * scale
    constant = std <= _MAX_ROUNDING * abs(mean)
    return Numeric(name, mean, mean if normalize else 0.0, 1.0 if constant or not normalize else std), constant


def _categorical(name: str, train: np.ndarray, most: int) -> tuple[Categorical, int]:
    """Return the column, and how many texts share the feature `(other)`."""
    missing = np.array([is_missing(text) for text in train])
    texts, counts = np.unique(train[~missing].astype(str), return_counts=True)
    kept = np.sort(texts[np.argsort(-counts, kind="stable")[:most]])
    rare = len(texts) - len(kept)
    marks = ([MISSING] if missing.any() else []) + ([OTHER] if rare else [])
    return Categorical(name, (*map(str, kept), *marks)), rare


def as_numbers(values: np.ndarray, decimal: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values as [n] float64, NaN where missing, and [n] bool, True for text that is not a number."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64), np.zeros(len(values), dtype=bool)
    import pandas as pd

    texts = values if decimal == "." else np.array([_with_point(text, decimal) for text in values], dtype=object)
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    unread = np.flatnonzero(np.isnan(numbers))
    wrong = np.zeros(len(values), dtype=bool)
    wrong[unread] = [not is_missing(text) for text in values[unread]]
    return numbers, wrong


def _with_point(text: str, decimal: str) -> str:
    """Return the text of a number with a decimal point and no thousands separators; of other texts ".", which is no number."""
    if decimal == "." or "." not in text:
        return text.replace(decimal, ".")
    return text.replace(".", "").replace(decimal, ".") if _POINTED.fullmatch(text) else "."


def is_missing(text: str) -> bool:
    """Return whether a field stands for a missing entry."""
    return text.lower() in MISSING_WORDS
