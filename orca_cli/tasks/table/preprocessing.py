"""How the columns of a table become inputs and targets; DataError where they differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from orca_cli.interfaces import PreprocessingRecord
from orca_cli.tasks.shared.preprocessing import rebuilt, record_of
from orca_cli.tasks.shared.samples import as_inputs
from orca_cli.tasks.shared.target_form import TargetForm, fit_targets
from orca_cli.tasks.table.columns import Column, fit_columns
from orca_cli.tasks.table.targets import bits, class_labels, refuse_measurements


@dataclass(frozen=True)
class TablePreprocessing:
    """What the training rows say about the features and targets of all rows.

    Args:
        columns: how columns become features, in the order of the features.
        decimal: mark in numbers that are text.
        target_columns: one name for classes, K for labels.
        targets: their form.
    """

    columns: tuple[Column, ...]
    decimal: str
    target_columns: tuple[str, ...]
    targets: TargetForm

    @classmethod
    def fit(
        cls,
        values: Mapping[str, np.ndarray],
        rows: np.ndarray,
        kind: str,
        *,
        features: list[str],
        target_columns: list[str],
        missing_targets: bool,
        normalize: bool,
        max_categories: int,
        decimal: str,
        where: str,
    ) -> tuple[TablePreprocessing, list[str]]:
        """Return what the training rows of a table say, and notes; arguments as those of `fit_columns` and `load`."""
        y = _raw_targets(values, kind, target_columns, missing_targets, where)
        place = where if kind == "labels" else f"{where}[{target_columns[0]}]"
        if kind == "classes":
            refuse_measurements(y[rows], place)
        names = tuple(target_columns)
        targets = fit_targets(kind, y, rows, place, missing=missing_targets, names=names if kind == "labels" else ())
        columns, notes = fit_columns(values, features, rows, normalize, max_categories, decimal, where)
        return cls(columns, decimal, names, targets), [targets.note(), *notes]

    @property
    def input_shape(self) -> tuple[int, int]:
        """(1, F)."""
        return 1, sum(column.size for column in self.columns)

    def features(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return rows as [n, 1, F] float32, from columns [n] by name as `files.Table.read` gives them."""
        encoded = [column.encode(raw[column.name], self.decimal, where) for column in self.columns]
        return np.concatenate(encoded, axis=1)[:, None]

    def inputs(self, raw: Mapping[str, np.ndarray], where: str = "inputs") -> tuple[Tensor, None]:
        """Return rows as Batch.x, from columns as those of `features`."""
        return as_inputs(self.features(raw, where), None), None

    def encoded_targets(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of rows as Batch.y, from columns as those of `features`."""
        vocabulary = self.targets.vocabulary
        text = None if vocabulary is None else vocabulary.text()
        y = _raw_targets(raw, self.targets.kind, self.target_columns, self.targets.missing, where, text)
        place = where if self.targets.kind == "labels" else f"{where}[{self.target_columns[0]}]"
        return self.targets.encode(y, place)

    def record(self) -> PreprocessingRecord:
        """Return what `from_record` rebuilds this from."""
        return record_of(self)

    @classmethod
    def from_record(cls, record: PreprocessingRecord) -> TablePreprocessing:
        """Return the preprocessing that a record was made of."""
        return rebuilt(cls, record)


def _raw_targets(
    values: Mapping[str, np.ndarray],
    kind: str,
    names: list[str] | tuple[str, ...],
    missing: bool,
    where: str,
    text: bool | None = None,
) -> np.ndarray:
    """Return target columns as class labels [n], or as bits [n, K]."""
    if kind == "classes":
        return class_labels(values[names[0]], f"{where}[{names[0]}]", text)
    return np.stack([bits(values[name], f"{where}[{name}]", missing) for name in names], axis=1)
