"""Columns of a table as numbers: what the training rows say about each, applied to the rows of every split.

Shapes: n rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.exceptions import DataError

MISSING_WORDS = ("", "?", "na", "n/a", "nan", "null", "none")
OTHER, MISSING = "(other)", "(missing)"
_SHOWN = 5  # columns named in a note
_MAX_ROUNDING = 1e-12


@dataclass(frozen=True)
class Numeric:
    """A column of numbers: missing ones become the mean, then the mean is subtracted and the deviation divided by.

    Args:
        name: of the column.
        fill: mean over the training rows.
        mean: what is subtracted.
        std: what is divided by, positive.
        constant: whether the training rows hold one value only.
    """

    name: str
    fill: float
    mean: float
    std: float
    constant: bool

    def names(self) -> tuple[str, ...]:
        """Return the names of its features."""
        return (self.name,)

    def encode(self, values: np.ndarray, decimal: str, where: str) -> np.ndarray:
        """Return [n, 1] float32.

        Raises:
            DataError: text in a column that holds numbers in training, or infinite values.
        """
        numbers, wrong = _numbers(values, decimal)
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(
                f"'{values[first]}' in row {first + 1} is no number, as all of the training rows are",
                where=f"{where}[{self.name}]",
                hint="correct it, or leave the column out with task.ignore=",
            )
        check_range(numbers, f"{where}[{self.name}]")
        filled = np.where(np.isnan(numbers), self.fill, numbers)
        return ((filled - self.mean) / self.std).astype(np.float32)[:, None]


@dataclass(frozen=True)
class Categorical:
    """A column of text: one feature of 0 and 1 per category; what training does not have is `(other)`, or else all 0.

    Args:
        name: of the column.
        categories: the texts that are kept, ascending, then possibly (missing) and (other).
    """

    name: str
    categories: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Return the names of its features."""
        return tuple(f"{self.name}={category}" for category in self.categories)

    def encode(self, values: np.ndarray, decimal: str, where: str) -> np.ndarray:
        """Return [n, number of categories] float32 of 0 and 1."""
        place = {category: i for i, category in enumerate(self.categories)}
        other = place.get(OTHER, -1)
        texts = _texts(values)
        chosen = np.array([place.get(MISSING if _is_missing(text) else text, other) for text in texts], dtype=np.int64)
        return (chosen[:, None] == np.arange(len(self.categories))).astype(np.float32)


@dataclass(frozen=True)
class Columns:
    """How a table's columns become features.

    Args:
        columns: in the order of the features.
        decimal: mark in numbers that stand as text.
        notes: what was filled, cut down or left out, in words.
    """

    columns: tuple[Numeric | Categorical, ...]
    decimal: str
    notes: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Return the F features' names."""
        return tuple(name for column in self.columns for name in column.names())

    def encode(self, values: dict[str, np.ndarray], where: str) -> np.ndarray:
        """Return the features of rows, [n, F] float32.

        Args:
            values: name -> column [n].
            where: the file, for messages.

        Raises:
            DataError: text where training has numbers only, or infinite values.
        """
        return np.concatenate([c.encode(values[c.name], self.decimal, where) for c in self.columns], axis=1)


def fit(
    values: dict[str, np.ndarray],
    names: Sequence[str],
    rows: np.ndarray,
    normalize: bool,
    max_categories: int,
    decimal: str,
    where: str,
) -> Columns:
    """Return how columns become features, from the training rows alone.

    Args:
        values: name -> column [n].
        names: columns that are features.
        rows: the training rows.
        normalize: whether columns of numbers get mean 0 and deviation 1 over the training rows.
        max_categories: most texts of a column that get a feature; the rarer ones share one.
        decimal: mark in numbers that stand as text.
        where: the file, for messages.

    Raises:
        DataError: infinite values, or no column that holds anything.
    """
    columns: list[Numeric | Categorical] = []
    filled, empty, constant, capped, commas = [], [], [], [], []
    for name in names:
        train = values[name][rows]
        numbers, wrong = _numbers(train, decimal)
        unknown = np.isnan(numbers) & ~wrong
        if unknown.all():
            empty.append(name)
        elif wrong.any():
            texts, rare = _categorical(name, train, max_categories)
            if rare:
                capped.append(f"{name} (the {max_categories} most frequent of {rare + max_categories})")
            if decimal == "." and not _numbers(train, ",")[1].any():
                commas.append(name)
            columns.append(texts)
        else:
            check_range(numbers, f"{where}[{name}]")
            column = _numeric(name, numbers[~unknown], normalize)
            if unknown.any():
                filled.append(f"{name} ({int(unknown.sum())})")
            if column.constant:
                constant.append(name)
            columns.append(column)
    if not columns:
        raise DataError(
            "no column holds anything to learn from", where=where, hint="check task.features and task.ignore"
        )
    kinds = [isinstance(column, Numeric) for column in columns]
    size = sum(len(column.names()) for column in columns)
    notes = [
        f"{_counted(sum(kinds), 'column')} of numbers and {len(kinds) - sum(kinds)} of text become {size} features"
    ]
    for found, text in (
        (filled, "missing numbers become the training mean in {} (training rows)"),
        (capped, "one feature per text for {}; other texts share one"),
        (empty, "left out, for it is empty in the training set: {}"),
        (constant, "warning: constant in the training set: {}"),
        (commas, "warning: read as text, though task.decimal=',' would read numbers: {}"),
    ):
        if found:
            notes.append(text.format(", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")))
    return Columns(tuple(columns), decimal, tuple(notes))


def check_range(numbers: np.ndarray, where: str) -> None:
    """Check that no number is infinite or beyond 1e300.

    Raises:
        DataError: the first one that is.
    """
    wrong = np.abs(numbers) > 1e300  # their squares have to stay finite in the deviation
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{int(wrong.sum())} values are infinite or too large, the first is {numbers[first]} in row {first + 1}",
            where=where,
            hint="correct them, or leave them empty",
        )


def _numeric(name: str, known: np.ndarray, normalize: bool) -> Numeric:
    # Scaled first, so that neither the sum nor the squares of large numbers overflow.
    scale = float(np.abs(known).max()) or 1.0
    mean, std = float((known / scale).mean()) * scale, float((known / scale).std()) * scale
    constant = std <= _MAX_ROUNDING * abs(mean)
    return Numeric(name, mean, mean if normalize else 0.0, 1.0 if constant or not normalize else std, constant)


def _categorical(name: str, train: np.ndarray, most: int) -> tuple[Categorical, int]:
    """Return the column, and how many texts share the feature `(other)`."""
    texts = _texts(train)
    missing = np.array([_is_missing(text) for text in texts])
    found, counts = np.unique(texts[~missing].astype(str), return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")[:most]])
    rare = len(found) - len(kept)
    marks = ([MISSING] if missing.any() else []) + ([OTHER] if rare else [])
    return Categorical(name, (*map(str, kept), *marks)), rare


def _numbers(values: np.ndarray, decimal: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values as [n] float64, NaN where none stands, and where they are no numbers."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64), np.zeros(len(values), dtype=bool)
    import pandas as pd

    texts = values if decimal == "." else np.array([text.replace(decimal, ".") for text in values], dtype=object)
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    unread = np.flatnonzero(np.isnan(numbers))
    wrong = np.zeros(len(values), dtype=bool)
    wrong[unread] = [not _is_missing(text) for text in values[unread]]
    return numbers, wrong


def _texts(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "O" else np.array(["" if v != v else f"{v:g}" for v in values], dtype=object)


def _is_missing(text: str) -> bool:
    return text.lower() in MISSING_WORDS


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
