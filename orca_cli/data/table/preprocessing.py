"""How the columns of a table become inputs and targets, of training and of new rows.

DataError where columns differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli.data.blocks import Ragged
from orca_cli.data.gaps import remarks
from orca_cli.data.own_data import check_column, listed
from orca_cli.data.samples import read_inputs
from orca_cli.data.table.columns import Column, is_missing, raw_targets
from orca_cli.data.table.files import open_table, plain_column
from orca_cli.data.table.series import Grouped, Series, Symbols, group_by, per_sample
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.terminal import counted

_SHOWN = 20  # columns named in a message


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
    delimiter: str | None = None  # the reader's setting; None infers it from each file
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
        ids = () if self.series is None else (self.series.id, self.series.time)
        return (*(column.name for column in self.columns), *(name for name in ids if name is not None))

    def features(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray | Ragged:
        """Return samples as [n, C, L], from columns [m] by name as `files.Table.read` gives them."""
        if self.symbols is not None:
            return self.symbols.encode(raw[self.symbols.name], where)
        columns = [column.encode(raw[column.name], self.decimal, where) for column in self.columns]
        encoded = np.concatenate(columns, axis=1)
        grouped = self.grouped(raw, where)
        return encoded[:, None] if self.series is None or grouped is None else self.series.assembled(encoded, grouped)

    def inputs(self, raw: Mapping[str, np.ndarray], where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return samples as Batch.x and Batch.valid, from columns as those of `features`; series come whole."""
        x = self.features(raw, where)
        return read_inputs(x, np.arange(len(x)))

    def remarks(
        self, raw: Mapping[str, np.ndarray], where: str = "inputs", *, training: bool = False
    ) -> dict[str, int]:
        """Return what `inputs` does to make samples fit, each with the number of samples; of training rows the cuts alone."""
        if self.symbols is not None:
            return self.symbols.remarks(raw[self.symbols.name])
        grouped, counts = self.grouped(raw, where), {}
        for column in () if training else self.columns:
            odd, what = column.odd(raw[column.name], self.decimal, where)
            if odd.any():
                counts[what] = int(odd.sum()) if grouped is None else len(np.unique(grouped.series[odd]))
        if self.series is None or grouped is None:
            return counts
        return counts | remarks(grouped.sizes, self.series.length)

    def grouped(self, raw: Mapping[str, np.ndarray], where: str) -> Grouped | None:
        """Return which rows make up the samples; None where each row is one."""
        series = self.series
        return None if series is None else group_by(raw, series.id, series.time, where, self.decimal)

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
        table, names = open_table(path, where, self.delimiter, self.encoding), self.feature_names
        for name in names:
            check_column(name, table.columns, where, path.name)
        origin, targets = str(path), self.target_columns if set(self.target_columns) <= set(table.columns) else ()
        columns = table.read([*names, *targets])
        has_targets = not all(is_missing(entry) for name in targets for entry in columns[name].astype(str))
        inputs = {name: columns[name] for name in names}
        return self._new_data(inputs, lambda: self.encoded_targets(columns, origin) if has_targets else None, origin)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of a pandas table or one row of it, of a mapping of columns by name, or of an array [n, columns].

        An array, or a list of texts for a column of symbols, has the columns in the order of `feature_names`.
        """
        import pandas as pd

        names = self.feature_names
        if isinstance(x, pd.Series) and names[0] in map(str, x.index):
            x = [x.to_dict()]
        try:
            frame = pd.DataFrame(x)
        except (TypeError, ValueError) as error:  # columns of different lengths, or more than two axes
            hint = f"give rows with the columns {listed(names, _SHOWN)}"
            raise DataError(f"is not a table ({error})", where=where, hint=hint) from error
        if isinstance(frame.columns, pd.RangeIndex):
            if frame.shape[1] != len(names):
                what = f"has {counted(frame.shape[1], 'column')}, the model takes {len(names)}"
                raise DataError(what, where=where, hint=f"in this order: {listed(names, _SHOWN)}")
            frame.columns = list(names)
        frame.columns = [str(name) for name in frame.columns]
        for name in names:
            check_column(name, frame.columns, where, "the table")
            if list(frame.columns).count(name) > 1:
                raise DataError(f"two columns are named '{name}'", where=where, hint="give them distinct names")
        columns = {name: plain_column(frame[name], f"{where}[{name}]") for name in names}
        return self._new_data(columns, lambda: None, where)

    def _new_data(
        self, columns: Mapping[str, np.ndarray], targets: Callable[[], np.ndarray | None], where: str
    ) -> NewData:
        grouped = self.grouped(columns, where)

        def inputs(start: int, stop: int) -> dict[str, np.ndarray]:
            rows = slice(start, stop) if grouped is None else np.concatenate(grouped.rows[start:stop])
            return {name: column[rows] for name, column in columns.items()}

        if grouped is None:
            return NewData(len(next(iter(columns.values()))), inputs, targets, where)
        return NewData(len(grouped.names), inputs, targets, where, list(map(str, grouped.names)))
