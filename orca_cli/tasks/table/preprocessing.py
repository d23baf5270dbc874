"""How the columns of a table become inputs and targets; DataError where they differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import NewData
from orca_cli.tasks.shared.ragged import Ragged
from orca_cli.tasks.shared.samples import as_inputs
from orca_cli.tasks.shared.targets import TargetForm
from orca_cli.tasks.table.columns import Column
from orca_cli.tasks.table.files import open_table
from orca_cli.tasks.table.new_data import given_rows, given_series, new_rows, new_series
from orca_cli.tasks.table.series import Grouped, Series
from orca_cli.tasks.table.symbols import Symbols
from orca_cli.tasks.table.target_columns import raw_targets


@dataclass(frozen=True)
class TablePreprocessing:
    """What the training rows say about the features, in the order of `columns`, and the targets of all samples.

    A sample is a row, whose features are the steps of a sequence; or, with `symbols`, a row whose symbols are the steps; or,
    with `series`, the rows of a series.
    """

    columns: tuple[Column, ...]
    decimal: str  # mark in numbers that are text
    target_columns: tuple[str, ...]  # one for classes, K for labels and values
    targets: TargetForm
    delimiter: str | None = None  # as the reader was told; None infers it from each file
    encoding: str | None = None
    symbols: Symbols | None = None
    series: Series | None = None

    @property
    def input_shape(self) -> tuple[int, int]:
        """(1, F), (V, L) of V symbols, or (F, L) of series."""
        if self.symbols is not None:
            return len(self.symbols.alphabet), self.symbols.length
        features = sum(column.size for column in self.columns)
        return (1, features) if self.series is None else (features, self.series.length)

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.symbols is not None or self.series is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns that inputs are made of, in order; of series, those that say what belongs together come last."""
        if self.symbols is not None:
            return (self.symbols.name,)
        return (*(column.name for column in self.columns), *(self.series.columns if self.series else ()))

    def features(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray | Ragged:
        """Return samples as [n, C, L], from columns [m] by name as `files.Table.read` gives them."""
        if self.symbols is not None:
            return self.symbols.encode(raw[self.symbols.name], where)
        encoded = np.concatenate(
            [column.encode(raw[column.name], self.decimal, where) for column in self.columns], axis=1
        )
        grouped = self.grouped(raw, where)
        return encoded[:, None] if self.series is None or grouped is None else self.series.assembled(encoded, grouped)

    def inputs(self, raw: Mapping[str, np.ndarray], where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return samples as Batch.x and Batch.valid, from columns as those of `features`; series come whole."""
        x = self.features(raw, where)
        if not isinstance(x, Ragged):
            return as_inputs(x, None), None
        rows = np.arange(len(x))
        valid = x.valid(rows)
        return as_inputs(x[rows], None, valid), from_numpy(valid)

    def remarks(
        self, raw: Mapping[str, np.ndarray], where: str = "inputs", *, training: bool = False
    ) -> dict[str, int]:
        """Return what `inputs` does to make samples fit, each with the number of samples; of training rows the cuts alone."""
        if self.symbols is not None:
            return self.symbols.remarks(raw[self.symbols.name])
        grouped, found = self.grouped(raw, where), {}
        for column in () if training else self.columns:
            odd, what = column.odd(raw[column.name], self.decimal, where)
            if grouped is not None:
                odd = np.logical_or.reduceat(odd[grouped.order], grouped.starts)
            if odd.any():
                found[what] = int(odd.sum())
        return found if self.series is None or grouped is None else found | self.series.remarks(grouped)

    def grouped(self, raw: Mapping[str, np.ndarray], where: str) -> Grouped | None:
        """Return which rows make up the samples; None where each row is one."""
        return None if self.series is None else self.series.of(raw, where, self.decimal)

    def encoded_targets(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of samples as Batch.y, from columns as those of `features`."""
        form = self.targets
        text = isinstance(form.classes[0], str) if form.classes else None
        names, missing = self.target_columns, form.missing
        values = per_sample(raw, names, self.grouped(raw, where), where)
        return form.encode(*raw_targets(values, form.kind, names, missing, where, self.decimal, text))

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of a .csv, .tsv, .txt or .parquet file; with targets where their columns are there and not empty."""
        if part:
            raise ConfigError("does not apply to tables", where="--part", hint="give a file of these rows")
        table = open_table(path, where, self.delimiter, self.encoding, least=min(2, len(self.feature_names)))
        if self.series is not None:
            return new_series(table, self.feature_names, self.target_columns, self.encoded_targets, self.grouped)
        return new_rows(table, self.feature_names, self.target_columns, self.encoded_targets)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of a pandas table, of a mapping of columns by name, or of an array [n, columns]; or one row.

        A model for a column of symbols also takes a list of texts; one for series takes no array.
        """
        if self.series is not None:
            return given_series(x, self.feature_names, where, self.grouped)
        return given_rows(x, self.feature_names, where)


def per_sample(
    raw: Mapping[str, np.ndarray], names: Sequence[str], grouped: Grouped | None, where: str
) -> dict[str, np.ndarray]:
    """Return columns that have one value for each sample as [n], by name."""
    if grouped is None:
        return {name: raw[name] for name in names}
    return {name: grouped.of_series(raw[name], f"{where}[{name}]") for name in names}
