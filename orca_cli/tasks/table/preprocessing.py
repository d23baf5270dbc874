"""How the columns of a table become inputs and targets; DataError where they differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from orca_cli.tasks.shared.samples import as_inputs
from orca_cli.tasks.shared.targets import TargetForm
from orca_cli.tasks.table.columns import Column
from orca_cli.tasks.table.target_columns import raw_targets


@dataclass(frozen=True)
class TablePreprocessing:
    """What the training rows say about the features, in the order of `columns`, and the targets of all rows."""

    columns: tuple[Column, ...]
    decimal: str  # mark in numbers that are text
    target_columns: tuple[str, ...]  # one for classes, K for labels and values
    targets: TargetForm

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
        form = self.targets
        text = isinstance(form.classes[0], str) if form.classes else None
        names, missing = self.target_columns, form.missing
        return form.encode(*raw_targets(raw, form.kind, names, missing, where, self.decimal, text))
