"""The target column of a `datasets` data set, checked and brought to the form of interfaces.Batch.y.

Shapes: n rows, K outputs, *E the extent of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared import targets as checks
from orca_cli.tasks.shared.targets import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 10  # classes named in a note


@dataclass(frozen=True)
class HubTargets:
    """The form that the targets of every split have.

    Args:
        column: its name.
        form: classes; labels, K times 0 or 1; label_lists, the classes that are present; maps, real-valued; class_maps.
        num_outputs: K.
        names: K names, or empty.
        vocabulary: classes that the data set does not number by itself; None for others.
        extent: of the inputs.
        channels_last: whether maps are (*E, K).
        missing: whether NaN is allowed.
        note: what was inferred, in words.
    """

    column: str
    form: Literal["classes", "labels", "label_lists", "maps", "class_maps"]
    num_outputs: int
    names: tuple[str, ...]
    vocabulary: Vocabulary | None
    extent: tuple[int, ...]
    channels_last: bool
    missing: bool
    note: str

    def encode(self, rows: Dataset, where: str) -> np.ndarray:
        """Return the targets of a split as Batch.y.

        Raises:
            DataError: they do not have the form of the training targets.
        """
        where = f"{where}[{self.column}]"
        if self.form == "classes" and self.vocabulary is not None:
            return checks.encode_classes(_values(rows, self.column, where), self.vocabulary, where)
        if self.form == "classes":
            return _numbered(_values(rows, self.column, where), self.num_outputs, where)
        if self.form == "label_lists":
            return _multi_hot(rows, self.column, self.num_outputs, where)
        values = _values(rows, self.column, where)
        if self.form == "labels":
            encoded = checks.encode_label_sets(values, where, allow_missing=self.missing)
        elif self.form == "class_maps":
            return checks.encode_class_maps(values, self.extent, where, self.num_outputs)
        else:
            if self.channels_last and values.ndim == len(self.extent) + 2:
                values = np.moveaxis(values, -1, 1)
            encoded = checks.encode_maps(values, self.extent, where, allow_missing=self.missing)
        if encoded.shape[1] != self.num_outputs:
            raise DataError(
                f"targets have {encoded.shape[1]} columns, those of the training set {self.num_outputs}", where=where
            )
        return encoded


def fit_targets(
    kind: str,
    rows: Dataset,
    column: str,
    chosen: np.ndarray,
    extent: tuple[int, ...],
    channels_last: bool,
    missing: bool,
    where: str,
) -> HubTargets:
    """Return the form of the targets, from the column's type and the training rows alone.

    Args:
        kind: classes, labels or dense.
        rows: what `chosen` counts in.
        column: of the targets.
        chosen: the training rows.
        extent: of the inputs.
        channels_last: whether maps are (*E, K).
        missing: whether NaN is allowed.
        where: the split, for messages.

    Raises:
        DataError: values that no task of this kind has.
    """
    import datasets

    place = f"{where}[{column}]"
    feature = rows.features[column]
    common = (extent, channels_last, missing)
    if kind == "classes" and isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        _numbered(_values(rows, column, place)[chosen], len(names), place)
        return HubTargets(column, "classes", len(names), names, None, *common, f"{len(names)} classes ({_list(names)})")
    if kind == "classes":
        labels = checks.plain_labels(_values(rows, column, place), place)[chosen]
        vocabulary = checks.class_vocabulary(labels, place)
        names = vocabulary.names()
        return HubTargets(
            column, "classes", len(names), names, vocabulary, *common, f"{len(names)} classes ({_list(names)})"
        )
    inner = getattr(feature, "feature", None)
    if kind == "labels" and isinstance(inner, datasets.ClassLabel):
        names = tuple(inner.names)
        return HubTargets(
            column, "label_lists", len(names), names, None, *common, f"{len(names)} labels ({_list(names)})"
        )
    values = _values(rows, column, place)[chosen]
    if kind == "labels":
        k = checks.encode_label_sets(values, place, allow_missing=missing).shape[1]
        return HubTargets(column, "labels", k, (), None, *common, f"{k} labels")
    if values.dtype.kind in "iub":
        classes = checks.encode_class_maps(values, extent, place, None)
        k = int(classes.max()) + 1
        checks.check_class_maps(classes, place, k)
        return HubTargets(column, "class_maps", k, (), None, *common, f"{k} classes at every position")
    if channels_last and values.ndim == len(extent) + 2:
        values = np.moveaxis(values, -1, 1)
    k = checks.encode_maps(values, extent, place, allow_missing=missing).shape[1]
    return HubTargets(column, "maps", k, (), None, *common, f"{k} real-valued channel{'s' if k > 1 else ''} of targets")


def _values(rows: Dataset, column: str, where: str) -> np.ndarray:
    """Return a column as an array of numbers or text.

    Raises:
        DataError: missing values, or lists of several lengths.
    """
    values = rows.select_columns([column]).with_format("numpy")[:][column]
    array = np.asarray(values)
    if array.dtype.kind == "O":
        absent = [i for i, value in enumerate(array) if value is None]
        if absent:
            raise DataError(f"row {absent[0]} has no target", where=where, hint="leave such rows out")
        if all(isinstance(value, str) for value in array):
            return array.astype(str)
        raise DataError("holds lists of several lengths", where=where, hint=f"its type is {rows.features[column]}")
    return array


def _numbered(values: np.ndarray, k: int, where: str) -> np.ndarray:
    if values.dtype.kind not in "iu":  # a missing number has made floats of all
        raise DataError("holds missing classes", where=where, hint="leave these rows out")
    outside = (values < 0) | (values >= k)
    if outside.any():
        first = int(outside.argmax())
        raise DataError(
            f"{int(outside.sum())} rows have no class in 0..{k - 1}, the first is {values[first]} in row {first}",
            where=where,
            hint="-1 marks hidden targets, such as those of a competition's test set: name another split",
        )
    return values.astype(np.int64)


def _multi_hot(rows: Dataset, column: str, k: int, where: str) -> np.ndarray:
    labels = np.zeros((len(rows), k), dtype=np.float32)
    for i, present in enumerate(rows[column]):
        if present is None or any(label is None or not 0 <= label < k for label in present):
            raise DataError(f"row {i} has labels {present}, expected a list within 0..{k - 1}", where=where)
        labels[i, present] = 1
    return labels


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
