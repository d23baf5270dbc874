"""How the columns of a table become inputs and targets, of training and of new rows.

A sample is a row; or, of a long table, the rows of one id, a step each; or a text with one symbol a character.
DataError where columns differ from those of training.

Shapes: m rows of the table, n samples, F features, V symbols, L steps of the model's input, K outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli.data.blocks import Ragged
from orca_cli.data.contents import hashes
from orca_cli.data.gaps import remarks
from orca_cli.data.own_data import check_column, listed, refuse_entry, refuse_rows
from orca_cli.data.samples import read_inputs
from orca_cli.data.table.columns import Column, as_numbers, is_missing, raw_targets
from orca_cli.data.table.files import open_table, plain_column
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.terminal import counted

_SHOWN = 20  # columns named in a message
_MOST_SHOWN = 40  # symbols


@dataclass(frozen=True)
class Grouped:
    """The n series of a table, in the order in which their first rows stand there.

    `series` [m] is the series of each row, and `rows` are the rows of each series, by time.
    """

    names: np.ndarray
    series: np.ndarray
    rows: list[np.ndarray]

    @property
    def sizes(self) -> np.ndarray:
        """Number of steps of each series, [n]."""
        return np.bincount(self.series)

    def per_series(self, values: np.ndarray, where: str) -> np.ndarray:
        """Return a column [m] that has one value in each series as [n]; DataError where a series has several."""
        import pandas as pd

        several = pd.Series(values).groupby(self.series).nunique(dropna=False).to_numpy() > 1
        if several.any():
            one = int(several.argmax())
            first, second = pd.unique(values[self.series == one])[:2]
            hint = "a target or group is of a whole series: every row of one has to say the same"
            raise DataError(f"series '{self.names[one]}' has '{first}' and '{second}'", where=where, hint=hint)
        return values[[rows[0] for rows in self.rows]]


@dataclass(frozen=True)
class Series:
    """How the rows of a long table become series: of one value of the column `id`, sorted by `time` (None keeps their order).

    Series longer than L, `length`, are cut at their end.
    """

    id: str
    time: str | None
    length: int


@dataclass(frozen=True)
class Symbols:
    """One-hot columns over the symbols of the training rows, ascending; a symbol that they lack becomes a column of zeros.

    Texts longer than L, `length`, are cut at their end.
    """

    name: str
    alphabet: str
    length: int

    def encode(self, values: np.ndarray, where: str) -> Ragged:
        """Return texts [n] as [n, V, L] of 0 and 1; DataError where one is empty, or the column holds numbers."""
        _check_texts(values, f"{where}[{self.name}]")
        symbols, sizes = _code_points(self.alphabet)[:, None], np.array([len(text) for text in values])
        kind = np.dtype(np.uint8)
        return Ragged(lambda row: _code_points(values[row]) == symbols, sizes, len(symbols), self.length, kind)

    def remarks(self, values: np.ndarray) -> dict[str, int]:
        """Return what `encode` does to make new texts fit, each with the number of rows."""
        absent = [set(text).difference(self.alphabet) for text in values]
        unknown = "".join(sorted(set().union(*absent)))[:_MOST_SHOWN]
        counts = {
            f"longer than {self.length} symbols and cut at the end": sum(len(text) > self.length for text in values),
            f"with a symbol that training lacks ({unknown}): read as none of its symbols": sum(map(bool, absent)),
        }
        return {what: count for what, count in counts.items() if count}


def fit_symbols(
    name: str, values: np.ndarray, rows: np.ndarray, length: int | None, where: str
) -> tuple[Symbols, list[str]]:
    """Return how a column of N texts becomes inputs, from the training rows alone, and a note; L is the longest's unless given.

    DataError as of `Symbols.encode`.
    """
    _check_texts(values, f"{where}[{name}]")
    alphabet = "".join(sorted(set().union(*values[rows])))
    sizes, shown = [len(text) for text in values[rows]], alphabet[:_MOST_SHOWN]
    note = f"{counted(len(alphabet), 'symbol')} in '{name}' ({shown}), {min(sizes)} to {max(sizes)} a row"
    return Symbols(name, alphabet, length or max(sizes)), [note]


def _check_texts(values: np.ndarray, where: str) -> None:
    if values.dtype.kind != "O":
        raise DataError("holds numbers, not text", where=where, hint="a sequence has one symbol a character")
    refuse_rows(values == "", "sequence", where, "remove these rows")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


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
        if self.series is None or (grouped := self.grouped(raw, where)) is None:
            return encoded[:, None]
        rows, size = grouped.rows, encoded.shape[1]
        return Ragged(lambda one: encoded[rows[one]].T, grouped.sizes, size, self.series.length, encoded.dtype)

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
        """Return which rows make up the samples; None where each row is one.

        Raises:
            DataError: a row has no id or no time, or times that are neither numbers nor ISO 8601.
        """
        import pandas as pd

        if self.series is None:
            return None
        ids, place, time = raw[self.series.id].astype(str), f"{where}[{self.series.id}]", self.series.time
        refuse_rows(np.isin(ids, ("", "nan")), "series", place, "fill them in, or remove these rows")
        series, names = pd.factorize(ids)  # of each row, numbered by their first rows
        times = np.arange(len(ids))
        if time is not None:
            times, wrong = as_numbers(raw[time], self.decimal)
            if wrong.any():
                stamps = pd.to_datetime(pd.Series(raw[time]), utc=True, format="ISO8601", errors="coerce")
                times = (stamps - pd.Timestamp(0, tz="utc")).dt.total_seconds().to_numpy(np.float64)
            wrong, hint = np.isnan(times), "use numbers, or times such as 2024-05-31 or 2024-05-31T12:00:05"
            refuse_entry(wrong, raw[time], f"is not a time ({int(wrong.sum())} rows)", f"{where}[{time}]", hint)
        order = np.lexsort((times, series))  # stable: rows of one time keep their order
        return Grouped(names, series, np.split(order, np.cumsum(np.bincount(series))[:-1]))

    def per_sample(self, raw: Mapping[str, np.ndarray], names: Sequence[str], where: str) -> dict[str, np.ndarray]:
        """Return columns that have one value for each sample as [n], by name."""
        grouped = self.grouped(raw, where)
        if grouped is None:
            return {name: raw[name] for name in names}
        return {name: grouped.per_series(raw[name], f"{where}[{name}]") for name in names}

    def contents(self, columns: Sequence[np.ndarray], grouped: Grouped | None, samples: np.ndarray) -> np.ndarray:
        """Return a hash of what some samples [n] have in columns; entries are equal as numbers where all of a column are."""
        import pandas as pd

        codes = []
        for column in columns:
            numbers, wrong = as_numbers(column, self.decimal)
            numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, and one zero
            are_texts = self.symbols is not None or wrong.any()
            codes.append(pd.factorize(column)[0] if are_texts else numbers.view(np.int64))
        entries = np.stack(codes, axis=1)
        rows = samples[:, None] if grouped is None else (grouped.rows[one] for one in samples)
        return hashes(entries[one].tobytes() for one in rows)

    def encoded_targets(self, raw: Mapping[str, np.ndarray], where: str) -> np.ndarray:
        """Return the targets of samples as Batch.y, from columns as those of `features`."""
        form = self.targets
        are_texts = any(isinstance(label, str) for label in form.classes)
        names, missing = self.target_columns, form.missing
        values = self.per_sample(raw, names, where)
        return form.encode(*raw_targets(values, form.kind, names, missing, where, self.decimal, are_texts))

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
