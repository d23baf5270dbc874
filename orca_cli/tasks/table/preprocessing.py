"""How the columns of a table become inputs and targets; DataError where they differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.tasks.shared.samples import as_inputs
from orca_cli.tasks.shared.targets import TargetForm
from orca_cli.tasks.table.columns import Column
from orca_cli.tasks.table.files import open_table
from orca_cli.tasks.table.new_data import given_rows, new_rows

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_FRACTIONS = 20  # different numbers with a fraction that may be names of classes


@dataclass(frozen=True)
class TablePreprocessing:
    """What the training rows say about the features, in the order of `columns`, and the targets of all rows."""

    columns: tuple[Column, ...]
    decimal: str  # mark in numbers that are text
    target_columns: tuple[str, ...]  # one for classes, K for labels
    targets: TargetForm
    delimiter: str | None = None  # as the reader was told; None infers it from each file
    encoding: str | None = None

    @property
    def input_shape(self) -> tuple[int, int]:
        """(1, F)."""
        return 1, sum(column.size for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns that the model takes, in order."""
        return tuple(column.name for column in self.columns)

    def features(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return rows as [n, 1, F] float32, from columns [n] by name as `files.Table.read` gives them."""
        encoded = [column.encode(raw[column.name], self.decimal, where) for column in self.columns]
        return np.concatenate(encoded, axis=1)[:, None]

    def inputs(self, raw: Mapping[str, np.ndarray], where: str = "inputs") -> tuple[Tensor, None]:
        """Return rows as Batch.x, from columns as those of `features`."""
        return as_inputs(self.features(raw, where), None), None

    def encoded_targets(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of rows as Batch.y, from columns as those of `features`."""
        form = self.targets
        text = isinstance(form.classes[0], str) if form.classes else None
        return form.encode(*raw_targets(raw, form.kind, self.target_columns, form.missing, where, text))

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of a .csv, .tsv, .txt or .parquet file; with targets where their columns are there and not empty."""
        if part:
            raise ConfigError("does not apply to tables", where="--part", hint="give a file of these rows")
        table = open_table(path, where, self.delimiter, self.encoding)
        return new_rows(table, self.feature_names, self.target_columns, self.encoded_targets)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the rows of a pandas table, of a mapping of columns by name, or of an array [n, columns]."""
        return given_rows(x, self.feature_names, where)


def raw_targets(
    values: Mapping[str, np.ndarray],
    kind: str,
    names: Sequence[str],
    missing: bool,
    where: str,
    text: bool | None = None,
) -> tuple[np.ndarray, str]:
    """Return target columns as class labels [n], or as bits [n, K]; and their origin, for messages.

    `text` says whether classes are text in the training rows; None infers it from the values.
    """
    if kind == "classes":
        place = f"{where}[{names[0]}]"
        return _class_labels(values[names[0]], place, text), place
    return np.stack([_bits(values[name], f"{where}[{name}]", missing) for name in names], axis=1), where


def _class_labels(values: np.ndarray, where: str, text: bool | None) -> np.ndarray:
    """Return class labels [n] as numbers where all of them are integers, or else as text.

    In text only the form tells numbers from names: 1, 2 and 3.0 are integers, 01 and 1.5 are names.
    """
    if values.dtype.kind in "fiub":
        _check_complete(np.isnan(values.astype(np.float64)), where)
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


def refuse_measurements(labels: np.ndarray, where: str) -> None:
    """Refuse numbers with a fraction where too many differ for names of classes."""
    distinct = np.unique(labels)
    if labels.dtype.kind in "iub" or len(distinct) <= _MOST_FRACTIONS:
        return
    try:
        numbers = distinct.astype(np.float64)
    except ValueError:
        return
    broken = numbers != np.round(numbers)
    if broken.any():
        what = f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are not classes"
        hint = "bin them into classes, such as low and high; tables have no dense targets"
        raise DataError(what, where=where, hint=hint)


def _bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, for empty fields, NaN."""
    if values.dtype.kind in "fiub":
        found = values.astype(np.float64)
        unread = np.zeros(len(values), dtype=bool)
    else:
        found = np.array([_BITS.get(text.lower(), np.nan) for text in values])
        unread = np.isnan(found) & (values != "")
    if unread.any():
        first = int(unread.argmax())
        hint = "labels are 0 and 1, or false and true; for one class per row use kind=classes"
        raise DataError(f"'{values[first]}' in row {first + 1} is neither 0 nor 1", where=where, hint=hint)
    if not missing:
        _check_complete(np.isnan(found), where, ", or set task.missing_targets=true to leave them out of the loss")
    return found


def _check_complete(missing: np.ndarray, where: str, advice: str = "") -> None:
    if missing.any():
        what = f"{int(missing.sum())} rows have no target, the first is row {int(missing.argmax()) + 1}"
        raise DataError(what, where=where, hint=f"remove these rows{advice}")
