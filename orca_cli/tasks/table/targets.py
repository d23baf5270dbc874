"""Target columns of a table, checked and brought to the form of interfaces.Batch.y.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared import targets as checks
from orca_cli.tasks.shared.targets import Vocabulary

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_FRACTIONS = 20  # different numbers with a fraction that may be names of classes
_SHOWN = 10  # names in a note


@dataclass(frozen=True)
class Targets:
    """The form that the targets of every split have.

    Args:
        columns: names of the target columns.
        names: K names of classes or labels.
        vocabulary: the classes; None for labels.
        missing: whether a label may be missing.
        note: what was inferred, in words.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    vocabulary: Vocabulary | None
    missing: bool
    note: str

    def encode(self, values: dict[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of rows as Batch.y.

        Raises:
            DataError: missing targets, or others than the training rows have.
        """
        if self.vocabulary is not None:
            name = self.columns[0]
            labels = _class_labels(values[name], f"{where}[{name}]", text=self.vocabulary.values.dtype.kind == "U")
            return checks.encode_classes(labels, self.vocabulary, f"{where}[{name}]")
        bits = [_bits(values[name], f"{where}[{name}]", self.missing) for name in self.columns]
        return checks.encode_label_sets(np.stack(bits, axis=1), where, allow_missing=self.missing)

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return what is odd about the encoded training targets, in words."""
        if self.vocabulary is not None:
            return []
        found = []
        for value, word in ((1, "positive"), (0, "negative")):
            empty = np.flatnonzero(~(train_targets == value).any(axis=0))
            if len(empty):
                shown = _list([self.names[i] for i in empty])
                found.append(f"warning: label {shown} has no {word} training row")
        return found


def fit_targets(
    kind: str,
    values: dict[str, np.ndarray],
    names: Sequence[str],
    rows: np.ndarray,
    missing: bool,
    where: str,
) -> Targets:
    """Return the form of the targets, from the training rows alone.

    Args:
        kind: classes or labels.
        values: name -> column [n].
        names: the target columns.
        rows: the training rows.
        missing: whether a label may be missing.
        where: the file, for messages.

    Raises:
        DataError: missing targets, one class only, values that are no classes or labels.
    """
    if kind == "labels":
        return Targets(tuple(names), tuple(names), None, missing, f"{len(names)} labels")
    place = f"{where}[{names[0]}]"
    labels = _class_labels(values[names[0]], place, text=None)
    _refuse_measurements(labels[rows], place)
    vocabulary = checks.class_vocabulary(labels[rows], place)
    shown = _list(vocabulary.names())
    note = f"{len(vocabulary.values)} classes" + (f" ({shown})" if vocabulary.renamed() else "")
    return Targets(tuple(names), vocabulary.names(), vocabulary, False, note)


def _class_labels(values: np.ndarray, where: str, text: bool | None) -> np.ndarray:
    """Return class labels as integers where all of them are, or else as text.

    A table's text tells numbers from names by their look alone: 1, 2 and 3.0 are integers, 01 and 1.5 are names.

    Args:
        values: [n].
        where: file and column, for messages.
        text: whether they are text in the training rows; None to tell it from the values.
    """
    if values.dtype.kind in "fiub":
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
        _check_complete(missing, where)
        return np.array([f"{value:g}" for value in values]) if text else values
    _check_complete(values == "", where)
    if text is None:
        text = not all(_INTEGER.fullmatch(value) for value in values)
    if text:
        return values.astype(str)
    try:
        return values.astype(np.float64)
    except ValueError:
        return values.astype(str)  # refused beside training labels that are numbers


def _refuse_measurements(labels: np.ndarray, where: str) -> None:
    """Refuse numbers with a fraction where they are too many different ones to be names of classes."""
    distinct = np.unique(labels)
    if labels.dtype.kind in "iub" or len(distinct) <= _MOST_FRACTIONS:
        return
    try:
        numbers = distinct.astype(np.float64)
    except ValueError:
        return
    broken = numbers != np.round(numbers)
    if broken.any():
        raise DataError(
            f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are no classes",
            where=where,
            hint="cut them into classes, such as low and high; a row of a table has no dense target",
        )


def _check_complete(missing: np.ndarray, where: str, advice: str = "") -> None:
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} rows have no target, the first is row {int(missing.argmax()) + 1}",
            where=where,
            hint=f"leave these rows out{advice}",
        )


def _bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, where nothing stands, NaN."""
    if values.dtype.kind in "fiub":
        bits = values.astype(np.float64)
        unread = np.zeros(len(values), dtype=bool)
    else:
        bits = np.array([_BITS.get(text.lower(), np.nan) for text in values])
        unread = np.isnan(bits) & (values != "")
    if unread.any():
        first = int(unread.argmax())
        raise DataError(
            f"'{values[first]}' in row {first + 1} is neither 0 nor 1",
            where=where,
            hint="labels are 0 and 1, or false and true; for one class per row use kind=classes",
        )
    if not missing:
        _check_complete(np.isnan(bits), where, ", or set task.missing_targets=true to count them nowhere")
    return bits


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
