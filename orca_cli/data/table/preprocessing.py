"""How the columns of a table become inputs and targets, of training and of new rows.

DataError where columns differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli.data.blocks import Ragged
from orca_cli.data.gaps import remarks
from orca_cli.data.own_data import listed
from orca_cli.data.samples import read_inputs
from orca_cli.data.table.columns import Column, as_numbers, raw_targets
from orca_cli.data.table.files import open_table, plain_columns
from orca_cli.data.table.series import Grouped, Series, Symbols, group_by
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import ConfigError, DataError, suggest
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
        encoded = np.concatenate(
            [column.encode(raw[column.name], self.decimal, where) for column in self.columns], axis=1
        )
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
            if grouped is not None:
                odd = np.logical_or.reduceat(odd[grouped.order], grouped.starts)
            if odd.any():
                counts[what] = int(odd.sum())
        if self.series is None or grouped is None:
            return counts
        return counts | remarks(grouped.ends - grouped.starts, self.series.length)

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
        names = self.feature_names
        table = open_table(path, where, self.delimiter, self.encoding, least=min(2, len(names)))
        origin, targets = str(table.path), self.target_columns if set(self.target_columns) <= set(table.columns) else ()
        _check_features(names, table.columns, origin)
        columns = table.read([*names, *targets])
        numbers = [as_numbers(columns[name], ".") for name in targets]
        has_targets = any(wrong.any() or not np.isnan(values).all() for values, wrong in numbers)
        inputs = {name: columns[name] for name in names}
        return self._new_data(inputs, lambda: self.encoded_targets(columns, origin) if has_targets else None, origin)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of a pandas table, of a mapping of columns by name, or of an array [n, columns]; or one row.

        A model for a column of symbols also takes a list of texts.
        """
        return self._new_data(_given_columns(x, self.feature_names, where), lambda: None, where)

    def _new_data(
        self, columns: Mapping[str, np.ndarray], targets: Callable[[], np.ndarray | None], where: str
    ) -> NewData:
        grouped = self.grouped(columns, where)

        def inputs(start: int, stop: int) -> dict[str, np.ndarray]:
            rows = slice(start, stop) if grouped is None else grouped.rows_between(start, stop)
            return {name: column[rows] for name, column in columns.items()}

        count = len(next(iter(columns.values()))) if grouped is None else len(grouped.names)
        return NewData(
            count, inputs, targets, where, None if grouped is None else [str(name) for name in grouped.names]
        )


def per_sample(
    raw: Mapping[str, np.ndarray], names: Sequence[str], grouped: Grouped | None, where: str
) -> dict[str, np.ndarray]:
    """Return columns that have one value for each sample as [n], by name."""
    if grouped is None:
        return {name: raw[name] for name in names}
    return {name: grouped.values_per_series(raw[name], f"{where}[{name}]") for name in names}


def _given_columns(x: Any, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """Return the columns of a pandas table, a mapping name -> column, or an array [n, columns] in the order of `names`.

    One row may be a mapping name -> entry or a pandas series, several a list of such mappings.
    """
    import pandas as pd

    if isinstance(x, pd.Series) and set(names) & {str(name) for name in x.index}:
        x = x.to_dict()
    if isinstance(x, Mapping) and x and all(np.ndim(entry) == 0 for entry in x.values()):
        x = [x]
    try:
        frame = pd.DataFrame(np.asarray(x) if hasattr(x, "__array__") and not hasattr(x, "columns") else x)
    except ValueError as error:  # columns of different lengths, or more than two axes
        hint = f"give rows with the columns {listed(names, _SHOWN)}"
        raise DataError(f"is not a table ({error})", where=where, hint=hint) from error
    if isinstance(frame.columns, pd.RangeIndex):
        if frame.shape[1] != len(names):
            what = f"has {counted(frame.shape[1], 'column')}, the model takes {len(names)}"
            raise DataError(what, where=where, hint=f"in this order: {listed(names, _SHOWN)}")
        frame.columns = list(names)
    frame.columns = [str(name) for name in frame.columns]
    _check_features(names, list(frame.columns), where)
    if twice := [name for name in names if list(frame.columns).count(name) > 1]:
        raise DataError(f"two columns are named '{twice[0]}'", where=where, hint="give them distinct names")
    if not len(frame):
        raise DataError("has no rows", where=where, hint="give one row or more")
    return plain_columns(frame, names, where)


def _check_features(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        what = f"has no column {listed(map(repr, missing))}"
        close = suggest(missing[0], columns)
        hint = f"{close} " if close.startswith("did you mean") else ""
        raise DataError(what, where=where, hint=f"{hint}the model was trained on {listed(names, _SHOWN)}")
