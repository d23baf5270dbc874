"""Turn the columns of a table into numbers: encoders for inputs, and functions for targets.

Encoders are fitted to the training rows and applied to the rows of every split.

Shapes: n rows, F features, K outputs.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from orca_cli.data.table.settings import TableSettings
from orca_cli.data.targets import check_finite
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind

# Name of a column -> its entries [n].
Columns = Mapping[str, np.ndarray]
# A remark on columns -> their names.
_Remarks = defaultdict[str, list[str]]
# Categories for entries that have no category of their text.
OTHER = "(other)"
MISSING = "(missing)"
# Largest number of columns that a note names.
_SHOWN = 5
# A standard deviation below this share of the mean is a rounding error: the column is constant.
_MAX_ROUNDING = 1e-12
# Digits with any points and commas between them, such as 1.234,5.
_LIKE_NUMBERS = re.compile(r"[+-]?[0-9.,]+")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
# Entries such as 01 and 007 are names, not numbers.
_NAME = re.compile(r"[+-]?0[0-9].*")
# The beginning of a date, such as 2024-05-31 or 31.5.2024.
_DATE = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}")
# A column of text is dropped if training has more rows than `_FEW_ROWS` and the number of different
# texts is at least this share of the rows.
_FEW_ROWS = 20
_OWN_TEXTS = 0.9
# Text in lower case -> the number that it means.
_TRUTHS = {"false": 0.0, "true": 1.0}
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "no": 0.0, "yes": 1.0} | _TRUTHS
# Targets with at most this number of different values, all integers, are taken for classes.
_MOST_CLASSES = 20

_EMPTY = "columns that are dropped, because they are empty in the training split"
_LEFT_OUT = (
    "warning: columns that are dropped, because nearly every row has a different text "
    "(to keep a column, list it in task.features)"
)
_FILLED = "missing numbers are replaced by the training mean"
_CONSTANT = "warning: columns that are constant in the training split"
_MIXED = "warning: columns read as text because some entries are not numbers"
_ALLOW = "remove these rows, or set task.missing_targets=true to skip missing targets in the loss"
_NO_NUMBER = (
    "correct the entry; for decimal commas, set \"task.decimal=','\" (only with task=table); "
    "if the entry is the name of a class, set task.kind=classes"
)


@dataclass(frozen=True)
class Numbers:
    """The entries of a column as numbers."""

    values: np.ndarray  # [n] float64, NaN where an entry is missing or not a number
    is_wrong: np.ndarray  # [n] bool, True for text that is not a number

    @property
    def is_empty(self) -> np.ndarray:
        """Whether each entry is missing, [n] bool."""
        return np.isnan(self.values) & ~self.is_wrong


@dataclass(frozen=True)
class Encoded:
    """The features that an encoder made from a column."""

    features: np.ndarray  # [n, size] float32
    is_replaced: np.ndarray  # [n] bool, True where the features do not represent the entry itself


@dataclass(frozen=True)
class Numeric:
    """The encoder of a column of numbers: it subtracts `mean` and divides by `std`.

    Before that, missing numbers are replaced by `fill`, the training mean.
    """

    name: str
    fill: float
    mean: float
    std: float
    flagged: bool = False  # whether a second feature is 1 where a number was missing, else 0
    decimal: str | None = None  # decimal mark in text, if the column has its own
    truths: bool = False  # whether training has only 0 and 1; new data may use text such as "yes"

    @property
    def size(self) -> int:
        """Number of features."""
        return 2 if self.flagged else 1

    def encode(self, entries: np.ndarray, decimal: str, where: str) -> Encoded:
        """Return entries [n] as features; missing numbers are replaced.

        DataError for text that is not a number.
        """
        origin = f"{where}[{self.name}]"
        numbers = as_numbers(entries, self.decimal or decimal, self.truths)
        refuse_entry(
            wrong=numbers.is_wrong,
            values=entries,
            what="is not a number, but the training split has only numbers in this column",
            where=origin,
            hint="correct the entry, or drop the column with task.ignore=[COLUMN]",
        )
        is_missing_number = np.isnan(numbers.values)
        filled = np.where(is_missing_number, self.fill, numbers.values)
        scaled = (filled - self.mean) / self.std
        check_finite(scaled, origin)
        # An array [n] for each feature.
        features: list[np.ndarray] = [scaled]
        if self.flagged:
            features.append(is_missing_number)
        stacked = np.stack(features, axis=1)  # [n, size]
        return Encoded(stacked.astype(np.float32), is_missing_number)


@dataclass(frozen=True)
class Categorical:
    """The encoder of a column of text, with one feature of 0 and 1 for each category.

    The categories are texts in ascending order; then (missing) if training has missing entries;
    then (other) if training has further texts. Without (other), a text that is not a category has 0
    in all features.
    """

    name: str
    categories: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.categories)

    def encode(self, entries: np.ndarray, decimal: str, where: str) -> Encoded:
        """Return entries [n] as features; texts that are not a category count as replaced.

        Numbers are converted to texts. DataError for points in time if training has dates as text.
        """
        texts: Iterable[str] = entries
        # Numbers from a .parquet file, although the training file had texts.
        if entries.dtype.kind != "O":
            self._refuse_times(entries, f"{where}[{self.name}]")
            texts = self._as_texts(entries)
        code_of = {category: code for code, category in enumerate(self.categories)}
        # -1 is not the code of any category, so that all features are 0.
        other_code = code_of.get(OTHER, -1)
        # If training had no missing entries, a missing entry is a text that training lacks.
        missing_code = code_of.get(MISSING, other_code)
        codes = np.empty(len(entries), np.int64)
        for row, text in enumerate(texts):
            if is_missing(text):
                codes[row] = missing_code
            else:
                codes[row] = code_of.get(text, other_code)
        is_category = codes[:, None] == np.arange(self.size)  # [n, size]
        return Encoded(is_category.astype(np.float32), codes == other_code)

    def _as_texts(self, numbers: np.ndarray) -> list[str]:
        """Return numbers as texts; 0 and 1 become the training's spelling of false and true."""
        spelling = {}
        for category in self.categories:
            if category.lower() in _TRUTHS:
                spelling[_TRUTHS[category.lower()]] = category
        texts = []
        for number in numbers.tolist():
            # A .parquet file may have 3.0 where the training file has the text 3. NaN becomes
            # `nan`, which means that an entry is missing.
            plain = str(number).removesuffix(".0")
            texts.append(spelling.get(number, plain))
        return texts

    def _refuse_times(self, numbers: np.ndarray, where: str) -> None:
        """Raise DataError for numbers if training has dates as text.

        The numbers may be points in time, which would not match any category.
        """
        dates = [category for category in self.categories if _DATE.match(category)]
        if not dates:
            return
        is_empty = np.isnan(numbers.astype(np.float64))
        # A column without any number contains no points in time.
        if is_empty.all():
            return
        raise DataError(
            f"contains numbers or timestamps, but the training split has text such as '{dates[0]}'",
            where=where,
            hint="store this column as text",
        )


Column = Numeric | Categorical


@dataclass(frozen=True)
class _TrainingColumn:
    """The entries of a column in the training rows."""

    name: str
    entries: np.ndarray  # [n]
    numbers: Numbers

    @property
    def texts(self) -> np.ndarray:
        """The entries that are not missing, as str."""
        present_entries = self.entries[~self.numbers.is_empty]
        return present_entries.astype(str)


def fit_columns(
    columns: Columns, training_rows: np.ndarray, where: str, settings: TableSettings
) -> tuple[tuple[Column, ...], list[str]]:
    """Return the encoders of columns, and notes on filled, dropped and suspicious columns.

    Encoders are learned from the training rows alone. Columns that are empty in training are
    dropped. Columns in which nearly every row has a different text are dropped unless
    `task.features` lists them. In other columns with an entry that is not a number, the categories
    are the `max_categories` most frequent texts. DataError if no column is left, or a number is
    infinite.
    """
    fitted: list[Column] = []
    remarks: _Remarks = defaultdict(list)
    for name, entries in columns.items():
        training_entries = entries[training_rows]
        numbers = as_numbers(training_entries, settings.decimal)
        column = _TrainingColumn(name, training_entries, numbers)
        # A column that the user lists is kept, even if nearly every row has a different text.
        is_named = name in (settings.features or ())
        if numbers.is_empty.all():
            remarks[_EMPTY].append(name)
        elif not numbers.is_wrong.any():
            fitted.append(_fit_numbers(column, f"{where}[{name}]", settings, remarks))
        elif not is_named and has_own_texts(column.entries, settings.decimal):
            num_texts = len(np.unique(column.texts))
            remarks[_LEFT_OUT].append(
                f"{name} ({num_texts} different texts in {len(training_rows)} training rows)"
            )
        else:
            fitted.append(_fit_texts(column, settings, remarks))
    notes = [f"{remark}: {listed(names, _SHOWN)}" for remark, names in remarks.items()]
    if not fitted:
        message = f"has no usable column of inputs: {'; '.join(notes)}"
        raise DataError(
            message,
            where=where,
            hint="check task.features and task.ignore,"
            " or set task.sequence=COLUMN to read a column of text symbol by symbol",
        )
    num_numeric = sum(isinstance(column, Numeric) for column in fitted)
    num_features = sum(column.size for column in fitted)
    summary = (
        f"columns of numbers: {num_numeric}, columns of text: {len(fitted) - num_numeric}, "
        f"features made from these columns: {num_features}"
    )
    return tuple(fitted), [summary, *notes]


def _fit_numbers(
    column: _TrainingColumn, where: str, settings: TableSettings, remarks: _Remarks
) -> Numeric:
    is_empty = column.numbers.is_empty
    numbers = column.numbers.values[~is_empty]
    check_finite(numbers, where)
    # Numbers are scaled to at most 1, so that the squares of small numbers do not become 0.
    magnitudes = np.abs(numbers)
    largest = float(magnitudes.max()) or 1.0
    scaled = numbers / largest
    mean = float(scaled.mean()) * largest
    deviation = float(scaled.std()) * largest
    if not settings.normalize or deviation <= _MAX_ROUNDING * abs(mean):
        deviation = 1.0
    num_empty = int(is_empty.sum())
    if num_empty > 0:
        remark = _FILLED
        if settings.gap_indicator:
            remark += ", and each column gets one more feature that flags missing numbers"
        remarks[f"{remark}; columns (missing numbers)"].append(f"{column.name} ({num_empty})")
    if (numbers == numbers[0]).all():
        remarks[_CONSTANT].append(column.name)
    is_bit = np.isin(numbers, (0, 1))
    return Numeric(
        name=column.name,
        fill=mean,
        mean=mean if settings.normalize else 0.0,
        std=deviation,
        # Without missing numbers in training, the flag would be constant.
        flagged=settings.gap_indicator and num_empty > 0,
        # New data may then use words in this column, such as yes and no or true and false.
        truths=bool(is_bit.all()),
    )


def _fit_texts(column: _TrainingColumn, settings: TableSettings, remarks: _Remarks) -> Categorical:
    texts, counts = np.unique(column.texts, return_counts=True)
    # Among equally frequent texts, the alphabetically first is preferred: `unique` sorts, and the
    # sort by frequency is stable.
    most_frequent = np.argsort(-counts, kind="stable")[: settings.max_categories]
    categories = [str(text) for text in np.sort(texts[most_frequent])]
    if column.numbers.is_empty.any():
        categories.append(MISSING)
    if len(most_frequent) < len(texts):
        categories.append(OTHER)
    non_numbers = column.entries[column.numbers.is_wrong]
    # The user may have meant numbers if the texts look like numbers with another decimal mark, or
    # if only some entries are not numbers.
    if _are_like_numbers(non_numbers) or len(non_numbers) < len(column.texts):
        shown = f"'{non_numbers[0]}'; {len(non_numbers)} of {len(column.entries)} training rows"
        remarks[_MIXED].append(f"{column.name} ({shown})")
    return Categorical(column.name, tuple(categories))


def has_own_texts(entries: np.ndarray, decimal: str) -> bool:
    """Return whether nearly every row of a column [n] has a different text, such as a name.

    False for text that looks like numbers, perhaps with another decimal mark, and for columns in
    which at most half of the entries are text.
    """
    numbers = as_numbers(entries, decimal)
    texts = entries[numbers.is_wrong]
    if len(entries) <= _FEW_ROWS or 2 * len(texts) <= len(entries):
        return False
    if _are_like_numbers(texts):
        return False
    # All entries are compared, including numbers among the texts.
    present_entries = entries[~numbers.is_empty]
    return len(set(present_entries)) >= _OWN_TEXTS * len(entries)


def _are_like_numbers(texts: Iterable[str]) -> bool:
    """Return whether all texts look like numbers, perhaps with another decimal mark."""
    return all(map(_LIKE_NUMBERS.fullmatch, texts))


def as_numbers(entries: np.ndarray, decimal: str, truths: bool = False) -> Numbers:
    """Return the entries [n] of a column as numbers.

    If the decimal mark is a comma, text with a point is not a number: 1.667 could mean a fraction
    or 1667. With `truths`, words such as "no" and "yes" are read as 0 and 1.
    """
    if entries.dtype.kind in "fiub":
        return Numbers(entries.astype(np.float64), np.zeros(len(entries), dtype=bool))
    import pandas as pd

    texts: Sequence[str] | np.ndarray = entries
    if decimal == ",":
        texts = [_with_point(text) for text in entries]
    # Text that is not a number becomes NaN.
    parsed = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce")
    values = parsed.to_numpy(np.float64, na_value=np.nan)
    is_wrong = np.isnan(values)
    # An entry without a number is not wrong if its text means a missing entry.
    is_wrong[is_wrong] = [not is_missing(text) for text in entries[is_wrong]]
    if truths and is_wrong.any():
        return _bits(entries)
    return Numbers(values, is_wrong)


def _with_point(text: str) -> str:
    """Return a text with its commas replaced by points.

    A text that already has a point becomes a lone point, which is not a number.
    """
    if "." in text:
        return "."
    return text.replace(",", ".")


def _bits(entries: np.ndarray) -> Numbers:
    """Return the entries [n] of a column as 0 and 1; other entries are wrong unless missing."""
    texts = [str(entry).lower() for entry in entries.tolist()]
    bits = np.array([_BITS.get(text, np.nan) for text in texts])
    is_missing_word = np.isin(texts, MISSING_WORDS)
    return Numbers(bits, np.isnan(bits) & ~is_missing_word)


def infer_kind(
    columns: Columns, names: Sequence[str], decimal: str, where: str
) -> tuple[Kind, list[str]]:
    """Return the kind of the columns to be predicted, and notes on the kind.

    A single column of text contains classes, and so does a column with at most 20 different values
    that are all integers. Several columns of 0 and 1 only (or false and true) are labels. All other
    columns are values. DataError if all entries of a single column that are not numbers look like
    numbers, perhaps with another decimal mark.
    """
    if len(names) > 1:
        shown = listed(names)
        # In columns of labels, every entry is 0 or 1, or missing.
        is_wrong = [_bits(columns[name]).is_wrong for name in names]
        if not np.any(is_wrong):
            return "labels", [f"columns of labels (for numbers, set task.kind=values): {shown}"]
        return "values", [f"columns read as numbers to be predicted (task.kind=values): {shown}"]
    name = names[0]
    entries = columns[name]
    numbers = as_numbers(entries, decimal)
    # Otherwise 1,5 and 2,5 would silently become the names of two classes.
    if _are_like_numbers(entries[numbers.is_wrong]):
        refuse_entry(
            wrong=numbers.is_wrong,
            values=entries,
            what="is not a number",
            where=f"{where}[{name}]",
            hint=_NO_NUMBER,
        )
    # The different numbers, [u].
    is_number = ~np.isnan(numbers.values)
    distinct_numbers = np.unique(numbers.values[is_number])
    # Numbers such as 007 are names, so they are classes even if more than 20 of them differ.
    has_names = entries.dtype.kind == "O" and any(map(_NAME.fullmatch, entries))
    if numbers.is_wrong.any() or not len(distinct_numbers) or has_names:
        return "classes", []
    is_whole = distinct_numbers == np.round(distinct_numbers)
    if len(distinct_numbers) <= _MOST_CLASSES and is_whole.all():
        note = f"'{name}' is read as classes, because it has few different integers"
        return "classes", [f"{note} (to predict numbers, set task.kind=values)"]
    note = f"'{name}' is read as numbers to be predicted"
    return "values", [f"{note} (to predict classes, set task.kind=classes)"]


@dataclass(frozen=True)
class RawTargets:
    """Targets from columns, before they are encoded."""

    y: np.ndarray  # [n] class labels; or [n, K] bits or numbers, NaN where a target is missing
    where: str  # origin of the targets, for messages


def raw_targets(
    columns: Columns,
    kind: str,
    names: Sequence[str],
    *,
    missing: bool,
    where: str,
    decimal: str,
    are_texts: bool = False,
) -> RawTargets:
    """Return the targets in the columns with these names; classes have a single column.

    Classes are texts if they `are_texts` in the training rows, or if one is not an integer.
    DataError for entries that do not fit the kind, and for missing entries. With `missing`, labels
    and values may be missing.
    """
    # Error messages name the column as well as the table.
    origins = [f"{where}[{name}]" for name in names]
    if kind == "classes":
        labels = _class_labels(columns[names[0]], origins[0], are_texts)
        return RawTargets(labels, origins[0])
    outputs = []
    for name, origin in zip(names, origins, strict=True):
        entries = columns[name]
        if kind == "values":
            numbers = as_numbers(entries, decimal)
            fault = "is not a number"
        else:
            numbers = _bits(entries)
            fault = "is neither 0 nor 1"
        refuse_entry(
            wrong=numbers.is_wrong, values=entries, what=fault, where=origin, hint=_NO_NUMBER
        )
        if not missing:
            refuse_rows(np.isnan(numbers.values), "target", origin, _ALLOW)
        outputs.append(numbers.values)
    y = np.stack(outputs, axis=1)
    if len(names) == 1:
        return RawTargets(y, origins[0])
    return RawTargets(y, where)


def _class_labels(entries: np.ndarray, where: str, are_texts: bool) -> np.ndarray:
    """Return the class labels [n] as numbers or as str; DataError for missing labels."""
    if entries.dtype.kind != "O":
        is_empty = np.isnan(entries.astype(np.float64))
        refuse_rows(is_empty, "target", where, "remove these rows")
        return entries
    check_labels(entries, where)
    # Labels such as 1, 2 and 3.0 are integers; 01 and 1.5 are names.
    if are_texts or not all(map(_INTEGER.fullmatch, entries)):
        return entries.astype(str)
    return entries.astype(np.float64)
