"""How the columns of a table become inputs and targets; DataError where they differ from those of training.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, from_numpy

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared.ragged import Ragged
from orca_cli.tasks.shared.samples import as_inputs
from orca_cli.tasks.shared.targets import TargetForm
from orca_cli.tasks.table.columns import Column
from orca_cli.tasks.table.series import Grouped, Series
from orca_cli.tasks.table.symbols import Symbols

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_FRACTIONS = 20  # different numbers with a fraction that may be names of classes


@dataclass(frozen=True)
class TablePreprocessing:
    """What the training rows say about the features, in the order of `columns`, and the targets of all samples.

    A sample is a row, whose features are the steps of a sequence; or, with `symbols`, a row whose symbols are the steps; or,
    with `series`, the rows of a series.
    """

    columns: tuple[Column, ...]
    decimal: str  # mark in numbers that are text
    target_columns: tuple[str, ...]  # one for classes, K for labels
    targets: TargetForm
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
    def input_columns(self) -> list[str]:
        """Names of the columns that inputs are made of."""
        if self.symbols is not None:
            return [self.symbols.name]
        return [*(column.name for column in self.columns), *(self.series.columns if self.series else [])]

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

    def remarks(self, raw: Mapping[str, np.ndarray], where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new samples fit, each with the number of samples."""
        if self.symbols is not None:
            return self.symbols.remarks(raw[self.symbols.name])
        grouped = self.grouped(raw, where)
        return {} if self.series is None or grouped is None else self.series.remarks(grouped)

    def grouped(self, raw: Mapping[str, np.ndarray], where: str) -> Grouped | None:
        """Return which rows make up the samples; None where each row is one."""
        return None if self.series is None else self.series.of(raw, where, self.decimal)

    def encoded_targets(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of samples as Batch.y, from columns as those of `features`."""
        form = self.targets
        text = isinstance(form.classes[0], str) if form.classes else None
        values = per_sample(raw, self.target_columns, self.grouped(raw, where), where)
        return form.encode(*raw_targets(values, form.kind, self.target_columns, form.missing, where, text))


def per_sample(
    raw: Mapping[str, np.ndarray], names: Sequence[str], grouped: Grouped | None, where: str
) -> dict[str, np.ndarray]:
    """Return columns that have one value for each sample as [n], by name."""
    if grouped is None:
        return {name: raw[name] for name in names}
    return {name: grouped.of_series(raw[name], f"{where}[{name}]") for name in names}


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
