"""The columns of a `datasets` data set: inputs by the numbers of their rows, targets as one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from orca_cli.exceptions import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def open_column(rows: Dataset, column: str, is_image: bool) -> Callable[[np.ndarray], np.ndarray | list]:
    """Return what gives the values of rows by their numbers, in the form that `ColumnLayout.decode` takes."""
    view = rows.select_columns([column])
    if is_image:
        import datasets

        view = view.cast_column(column, datasets.Image(decode=False))
    else:
        # float64: float32, the default, would round away a small signal on a large offset.
        view = view.with_format("numpy", dtype=np.float64)
    return lambda indices: view[[int(i) for i in indices]][column]


def raw_targets(kind: str, rows: Dataset, column: str, where: str, known: Sequence[str] = ()) -> np.ndarray:
    """Return a column as an array [n, ...] of numbers or text; for labels, lists of classes become [n, K] of 0 and 1.

    Args:
        kind: of the targets.
        rows, column: a split, and its column.
        where: they are, for messages.
        known: names of the classes in training, where the training split numbers them by itself; another split may number
            them otherwise.

    Raises:
        DataError: targets are missing, or of a class that training does not have.
    """
    names = class_names(kind, rows, column)
    numbers = {name: number for number, name in enumerate(known or names)}
    place = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)  # -1: training has no such class
    if names and kind == "labels":
        return _multi_hot(rows, column, place, len(known or names), where)
    array = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])
    if array.dtype.kind == "O":
        absent = [i for i, value in enumerate(array) if value is None]
        if absent:
            raise DataError(f"row {absent[0]} has no target", where=where, hint="remove such rows")
    if kind == "labels" and (array.ndim != 2 or array.dtype.kind not in "biuf"):
        what = f"holds {rows.features[column]}, not as many numbers 0 or 1 in each row"
        hint = "make lists of classes List(ClassLabel(names=[...])) with cast_column, or store 0 and 1 for each class"
        raise DataError(what, where=where, hint=hint)
    if array.dtype.kind == "O":
        if all(isinstance(value, str) for value in array):
            return array.astype(str)
        raise DataError("holds lists of several lengths", where=where, hint=f"its type is {rows.features[column]}")
    if names and names != tuple(known or names) and array.dtype.kind in "iu":
        unknown = [name for code, name in enumerate(names) if place[code] < 0 and (array == code).any()]
        if unknown:
            what = f"class '{unknown[0]}' is none of training"
            raise DataError(what, where=where, hint=f"that has {', '.join(known)}")
        in_range = (array >= 0) & (array < len(names))
        array = np.where(in_range, place[np.where(in_range, array, 0)], array)
    return array


def class_names(kind: str, rows: Dataset, column: str) -> tuple[str, ...]:
    """Return the names of the classes that a column numbers by itself, or lists as labels; none for other columns."""
    import datasets

    feature = rows.features[column]
    feature = getattr(feature, "feature", None) if kind == "labels" else feature
    return tuple(feature.names) if kind in ("classes", "labels") and isinstance(feature, datasets.ClassLabel) else ()


def _multi_hot(rows: Dataset, column: str, place: np.ndarray, k: int, where: str) -> np.ndarray:
    labels, most = np.zeros((len(rows), k), dtype=np.float32), len(place)
    for i, present in enumerate(rows[column]):
        if present is None or any(label is None or not 0 <= label < most for label in present):
            raise DataError(f"row {i} has labels {present}, expected a list within 0..{most - 1}", where=where)
        own = place[np.array(present, dtype=np.int64)]
        if (own < 0).any():
            raise DataError(f"row {i} has a label that training does not have", where=where)
        labels[i, own] = 1
    return labels
