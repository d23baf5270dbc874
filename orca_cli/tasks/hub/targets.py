"""The target column of a `datasets` data set: its values as an array, and their form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared.target_form import TargetForm, fit_targets

if TYPE_CHECKING:
    from datasets import Dataset


def raw_targets(kind: str, rows: Dataset, column: str, where: str) -> np.ndarray:
    """Return a column as an array [n, ...] of numbers or text; for labels, lists of classes become [n, K] of 0 and 1."""
    names = _label_names(kind, rows, column)
    if names:
        return _multi_hot(rows, column, len(names), where)
    array = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])
    if array.dtype.kind == "O":
        absent = [i for i, value in enumerate(array) if value is None]
        if absent:
            raise DataError(f"row {absent[0]} has no target", where=where, hint="remove such rows")
        if all(isinstance(value, str) for value in array):
            return array.astype(str)
        raise DataError("holds lists of several lengths", where=where, hint=f"its type is {rows.features[column]}")
    return array


def target_form(
    kind: str,
    y: np.ndarray,
    rows: Dataset,
    column: str,
    chosen: np.ndarray,
    extent: tuple[int, ...],
    channels_last: bool,
    missing: bool,
    where: str,
) -> TargetForm:
    """Return the form of targets, from the column's type and the training rows alone.

    Args:
        kind: classes, labels or dense.
        y: [n, ...], as `raw_targets` gives them.
        rows: what `chosen` counts in.
        column: of the targets.
        chosen: the training rows.
        extent: of the inputs.
        channels_last: whether maps are (*E, K).
        missing: whether NaN is allowed.
        where: split and column, for messages.
    """
    import datasets

    feature = rows.features[column]
    if kind == "classes" and isinstance(feature, datasets.ClassLabel):
        return TargetForm("classes", len(feature.names), tuple(feature.names))
    names = _label_names(kind, rows, column)
    return fit_targets(kind, y, chosen, where, extent, channels_last=channels_last, missing=missing, names=names)


def _label_names(kind: str, rows: Dataset, column: str) -> tuple[str, ...]:
    """Return the names of the classes that a column of labels lists; none for other columns."""
    import datasets

    inner = getattr(rows.features[column], "feature", None)
    return tuple(inner.names) if kind == "labels" and isinstance(inner, datasets.ClassLabel) else ()


def _multi_hot(rows: Dataset, column: str, k: int, where: str) -> np.ndarray:
    labels = np.zeros((len(rows), k), dtype=np.float32)
    for i, present in enumerate(rows[column]):
        if present is None or any(label is None or not 0 <= label < k for label in present):
            raise DataError(f"row {i} has labels {present}, expected a list within 0..{k - 1}", where=where)
        labels[i, present] = 1
    return labels
