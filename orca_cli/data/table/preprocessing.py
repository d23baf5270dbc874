"""How the columns of a table become inputs and targets, of training and of new rows.

A sample is a row; or, of a long table, the rows of one id, a step each; or a text with one symbol a character.
DataError where columns differ from those of training.

Shapes: m rows of the table, n samples, F features, V symbols, L steps of the model's input, K outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli.data.blocks import Ragged, read
from orca_cli.data.contents import hashes
from orca_cli.data.own_data import (
    check_columns,
    check_names,
    is_missing,
    listed,
    refuse_entry,
    refuse_if,
    refuse_rows,
)
from orca_cli.data.samples import as_inputs, remarks
from orca_cli.data.table.columns import (
    Categorical,
    Column,
    Columns,
    as_numbers,
    raw_targets,
)
from orca_cli.data.table.files import open_table, plain_column
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.terminal import counted

_SHOWN = 20  # columns named in a message
_MOST_SHOWN = 40  # symbols


@dataclass(frozen=True)
class Rows:
    """Columns [m] of a table by name, and which of its rows make up the n samples; what `TablePreprocessing.rows` makes.

    Samples are in the order of their first rows; `sample` [m] is the sample of each row. The rows of sample i are
    `order[starts[i] : starts[i + 1]]`, of series by time.
    """

    columns: Columns
    where: str
    sample: np.ndarray
    order: np.ndarray
    starts: np.ndarray  # [n + 1]
    names: np.ndarray  # [n], of series

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the rows of some samples, ascending."""
        return np.flatnonzero(np.isin(self.sample, samples))

    def per_sample(self, name: str) -> np.ndarray:
        """Return a column that has one value in each sample as [n]; DataError where a series has several."""
        import pandas as pd

        values, first = self.columns[name], self.order[self.starts[:-1]]
        codes = pd.factorize(values)[0]
        differs = codes != codes[first][self.sample]
        row = int(differs.argmax())
        what = f"series '{self.names[self.sample[row]]}' has '{values[first][self.sample[row]]}' and '{values[row]}'"
        hint = "a target or group is of a whole series: every row of one has to say the same"
        refuse_if(differs.any(), what, f"{self.where}[{name}]", hint)
        return values[first]

    def contents(
        self, names: Sequence[str], decimal: str, are_texts: bool, samples: np.ndarray
    ) -> np.ndarray:
        """Return a hash of what some samples [n] have in columns; entries are equal as numbers where all of a column are."""
        import pandas as pd

        codes = []
        for name in names:
            numbers, wrong = as_numbers(self.columns[name], decimal)
            numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, and one zero
            is_text = are_texts or wrong.any()
            codes.append(pd.factorize(self.columns[name])[0] if is_text else numbers.view(np.int64))
        entries = np.stack(codes, axis=1)[self.order]
        return hashes(entries[self.starts[one] : self.starts[one + 1]].tobytes() for one in samples)


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
        place = f"{where}[{self.name}]"
        refuse_if(
            values.dtype.kind != "O",
            "holds numbers, not text",
            place,
            "a sequence has one symbol a character",
        )
        refuse_rows(values == "", "sequence", place, "remove these rows")
        symbols, sizes = (
            _code_points(self.alphabet)[:, None],
            np.array([len(text) for text in values]),
        )
        return Ragged(
            lambda row: _code_points(values[row]) == symbols,
            sizes,
            (len(symbols), self.length),
            np.uint8,
        )


def fit_symbols(
    name: str, values: np.ndarray, rows: np.ndarray, length: int | None, where: str
) -> tuple[Symbols, list[str]]:
    """Return how a column of N texts becomes inputs, from the training rows alone, and a note; L is the longest's unless given.

    DataError as of `Symbols.encode`.
    """
    Symbols(name, "", 0).encode(values, where)
    alphabet = "".join(sorted(set().union(*values[rows])))
    sizes, shown = [len(text) for text in values[rows]], alphabet[:_MOST_SHOWN]
    note = f"{counted(len(alphabet), 'symbol')} in '{name}' ({shown}), {min(sizes)} to {max(sizes)} a row"
    return Symbols(name, alphabet, length or max(sizes)), [note]


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
    left_out: tuple[str, ...] = ()  # columns of the training file that inputs are not made of

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
        return (
            *(column.name for column in self.columns),
            *(name for name in ids if name is not None),
        )

    def rows(self, columns: Columns, where: str) -> Rows:
        """Return which rows make up the samples; without a column of times, those of a series are in the table's order.

        Raises:
            DataError: a row has no id or no time, or times that are neither numbers nor ISO 8601.
        """
        import pandas as pd

        if self.series is None:
            every = np.arange(len(next(iter(columns.values()))))
            return Rows(columns, where, every, every, np.arange(len(every) + 1), every)
        ids, time = columns[self.series.id].astype(str), self.series.time
        hint = "fill them in, or remove these rows"
        refuse_rows(np.isin(ids, ("", "nan")), "series", f"{where}[{self.series.id}]", hint)
        sample, names = pd.factorize(ids)  # of each row, numbered by their first rows
        times = np.arange(len(ids))
        if time is not None and time in columns:
            times, wrong = as_numbers(columns[time], self.decimal)
            if wrong.any():
                stamps = pd.to_datetime(
                    pd.Series(columns[time]), utc=True, format="ISO8601", errors="coerce"
                )
                times = (stamps - pd.Timestamp(0, tz="utc")).dt.total_seconds().to_numpy(np.float64)
            wrong, hint = (
                np.isnan(times),
                "use numbers, or times such as 2024-05-31 or 2024-05-31T12:00:05",
            )
            refuse_entry(
                wrong,
                columns[time],
                f"is not a time ({int(wrong.sum())} rows)",
                f"{where}[{time}]",
                hint,
            )
        order = np.lexsort((times, sample))  # stable: rows of one time keep their order
        return Rows(
            columns,
            where,
            sample,
            order,
            np.concatenate([[0], np.cumsum(np.bincount(sample))]),
            names,
        )

    def features(self, rows: Rows) -> np.ndarray | Ragged:
        """Return samples as [n, C, L]."""
        if self.symbols is not None:
            return self.symbols.encode(rows.columns[self.symbols.name], rows.where)
        columns = [
            column.encode(rows.columns[column.name], self.decimal, rows.where)[0]
            for column in self.columns
        ]
        encoded, order, starts = np.concatenate(columns, axis=1), rows.order, rows.starts
        if self.series is None:
            return encoded[:, None]
        shape, sizes = (encoded.shape[1], self.series.length), np.diff(starts)
        return Ragged(
            lambda one: encoded[order[starts[one] : starts[one + 1]]].T, sizes, shape, encoded.dtype
        )

    def inputs(self, raw: Columns, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return samples as Batch.x and Batch.valid, from columns [m] as `files.Table.read` gives them; series come whole."""
        x = self.features(self.rows(raw, where))
        return as_inputs(*read(x, np.arange(len(x))))

    def remarks(self, raw: Columns | Rows, *, training: bool = False) -> dict[str, int]:
        """Return what `inputs` does to make samples fit, each with the number of samples; of training rows the cuts alone."""
        rows, counts = raw if isinstance(raw, Rows) else self.rows(raw, "inputs"), dict[str, int]()
        if self.symbols is not None:
            texts, length = rows.columns[self.symbols.name], self.symbols.length
            absent = [set(text).difference(self.symbols.alphabet) for text in texts]
            unknown = "".join(sorted(set().union(*absent)))[:_MOST_SHOWN]
            counts[f"longer than {length} symbols and cut at the end"] = sum(
                len(text) > length for text in texts
            )
            what = f"with a symbol that training lacks ({unknown}): read as none of its symbols"
            counts[what] = sum(map(bool, absent))
        for column in () if training else self.columns:
            _, odd = column.encode(rows.columns[column.name], self.decimal, rows.where)
            what = f"without a number in '{column.name}': the training mean stands there"
            if isinstance(column, Categorical):
                what = f"with a text in '{column.name}' that has no category of its own"
            counts[what] = len(np.unique(rows.sample[odd]))
        if self.series is not None:
            counts |= remarks(np.diff(rows.starts), self.series.length)
        return {what: count for what, count in counts.items() if count}

    def encoded_targets(self, rows: Rows) -> np.ndarray:
        """Return the targets of samples as Batch.y; DataError for other forms, and where the rows of a series differ."""
        form, names = self.targets, self.target_columns
        are_texts = any(isinstance(label, str) for label in form.classes)
        values = {name: rows.per_sample(name) for name in names}
        return form.encode(
            *raw_targets(
                values, form.kind, names, form.missing, rows.where, self.decimal, are_texts
            )
        )

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of a .csv, .tsv, .txt or .parquet file; with targets where their columns are there and not empty."""
        if part:
            raise ConfigError(
                "does not apply to tables", where="--part", hint="give a file of these rows"
            )
        table, names = open_table(path, where, self.delimiter, self.encoding), self.feature_names
        check_columns(names, table.columns, where, path.name)
        targets = self.target_columns if set(self.target_columns) <= set(table.columns) else ()
        rows = self.rows(table.read([*names, *targets]), str(path))
        has_targets = not all(
            is_missing(entry) for name in targets for entry in rows.columns[name].astype(str)
        )
        return self._new_data(rows, lambda: self.encoded_targets(rows) if has_targets else None)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of a pandas table or one row of it, of a mapping of columns by name, or of an array [n, columns].

        An array, or a list of texts for a column of symbols, has the columns in the order of `feature_names`.
        """
        import pandas as pd

        names = self.feature_names
        shown = f"in this order: {listed(names, _SHOWN)}"
        if isinstance(x, pd.Series) and names[0] in map(str, x.index):
            x = [x.to_dict()]
        try:
            frame = pd.DataFrame(x)
        except (
            TypeError,
            ValueError,
        ) as error:  # columns of different lengths, or more than two axes
            raise DataError(
                f"is not a table ({error})", where=where, hint=f"give columns {shown}"
            ) from error
        if isinstance(frame.columns, pd.RangeIndex):
            what = f"has {counted(frame.shape[1], 'column')}, the model takes {len(names)}"
            refuse_if(frame.shape[1] != len(names), what, where, shown)
            frame.columns = list(names)
        frame.columns = [str(name) for name in frame.columns]
        check_columns(names, list(frame.columns), where, "the table")
        check_names([name for name in frame.columns if name in names], where)
        columns = {name: plain_column(frame[name], f"{where}[{name}]") for name in names}
        return self._new_data(self.rows(columns, where), lambda: None)

    def _new_data(self, rows: Rows, targets: Callable[[], np.ndarray | None]) -> NewData:
        def inputs(start: int, stop: int) -> dict[str, np.ndarray]:
            some = rows.order[rows.starts[start] : rows.starts[stop]]
            return {name: rows.columns[name][some] for name in self.feature_names}

        ids = None if self.series is None else list(map(str, rows.names))
        return NewData(len(rows), inputs, targets, rows.where, ids)
