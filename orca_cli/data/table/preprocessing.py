"""How the columns of a table become inputs and targets, in training and for new rows.

A sample is a row; or all rows with the same id in a long table, each row being a step; or a text
with one symbol per character. DataError if columns differ from the columns of training.

Shapes: m rows of the table, n samples, F features, V symbols, L steps of the model's input, K
outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.blocks import Ragged, read
from orca_cli.data.contents import hashes
from orca_cli.data.own_data import (
    check_columns,
    check_names,
    is_missing,
    listed,
    refuse_entry,
    refuse_rows,
)
from orca_cli.data.samples import as_inputs, remarks
from orca_cli.data.table.columns import Categorical, Column, Columns, as_numbers, raw_targets
from orca_cli.data.table.files import open_table, plain_columns
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.terminal import counted

# Largest number of columns that a message names.
_SHOWN = 20
# Largest number of symbols that a note or remark shows.
_MOST_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of a table, and the assignment of its m rows to n samples.

    Samples are in the order of their first rows.
    """

    columns: Columns
    where: str  # origin of the columns, for messages
    sample_of_row: np.ndarray  # [m], index of the sample that each row belongs to
    order: np.ndarray  # [m], rows of the first sample, of the second, ...; series sorted by time
    starts: np.ndarray  # [n + 1], position in `order` where each sample starts, and the end
    names: np.ndarray  # [n], names of series

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the rows of these samples, ascending."""
        return np.flatnonzero(np.isin(self.sample_of_row, samples))

    def steps_of(self, sample: int) -> np.ndarray:
        """Return the rows of a sample; the rows of a series are sorted by time."""
        return self.order[self.starts[sample] : self.starts[sample + 1]]

    def per_sample(self, name: str) -> np.ndarray:
        """Return a column as [n], one entry for each sample.

        DataError if the entries in the rows of a series differ.
        """
        import pandas as pd

        entries = self.columns[name]
        first_rows = self.order[self.starts[:-1]]  # [n]
        codes, _ = pd.factorize(entries)  # [m], equal for equal entries
        is_different = codes != codes[first_rows][self.sample_of_row]
        if is_different.any():
            # The first row that differs.
            row = int(is_different.argmax())
            sample = self.sample_of_row[row]
            series_name = self.names[sample]
            expected = entries[first_rows[sample]]
            raise DataError(
                f"series '{series_name}' has both '{expected}' and '{entries[row]}' in this column",
                where=f"{self.where}[{name}]",
                hint="give all rows of a series the same target, group and split",
            )
        return entries[first_rows]

    def contents(
        self, names: Sequence[str], decimal: str, are_texts: bool, samples: np.ndarray
    ) -> np.ndarray:
        """Return hashes of samples, [len(samples)] uint64, equal for samples with equal entries.

        Only the columns in `names` are compared. A column whose entries are all numbers is compared
        by number, unless `are_texts`.
        """
        import pandas as pd

        codes_by_column: list[np.ndarray] = []
        for name in names:
            entries = self.columns[name]
            numbers = as_numbers(entries, decimal)
            if are_texts or numbers.is_wrong.any():
                # [m], equal for equal texts.
                text_codes, _ = pd.factorize(entries)
                codes_by_column.append(text_codes)
            else:
                # Each number gets a single bit pattern, because NaN has many and zero has two.
                values = np.where(np.isnan(numbers.values), np.nan, numbers.values + 0.0)
                codes_by_column.append(values.view(np.int64))
        row_codes = np.stack(codes_by_column, axis=1)  # [m, len(names)]
        steps_by_sample = map(self.steps_of, samples)
        return hashes(row_codes[steps].tobytes() for steps in steps_by_sample)


@dataclass(frozen=True)
class Series:
    """The columns of a long table that determine its series, and their length."""

    id: str  # column in which all rows of a series have the same text
    time: str | None  # column by which rows are sorted; None keeps the order of the table
    length: int  # L; longer series are cut at their end


@dataclass(frozen=True)
class Symbols:
    """The encoder of texts as one-hot columns over the symbols of the training rows.

    A symbol that training lacks becomes a column of zeros.
    """

    name: str  # name of the column of texts
    alphabet: str  # V symbols, ascending
    length: int  # L; longer texts are cut at their end

    def encode(self, texts: np.ndarray, where: str) -> Ragged:
        """Return texts [n] as [n, V, L] of 0 and 1.

        DataError if a text is empty, or the column contains numbers.
        """
        origin = f"{where}[{self.name}]"
        if texts.dtype.kind != "O":
            raise DataError(
                "contains numbers, but a sequence is text with one symbol per character",
                where=origin,
                hint="store this column as text",
            )
        refuse_rows(texts == "", "sequence", origin, "remove these rows")
        # Comparing it with the characters of a text [l] gives [V, l].
        symbols = _code_points(self.alphabet)[:, None]  # [V, 1]
        # One-hot columns are made when a sample is read, because the columns of all texts need V
        # times the memory of the texts.
        return Ragged(
            row=lambda sample: _code_points(texts[sample]) == symbols,
            lengths=np.array([len(text) for text in texts]),
            sample=(len(symbols), self.length),
            dtype=np.uint8,
        )

    def remarks(self, texts: np.ndarray) -> dict[str, int]:
        """Return the changes that make texts fit, each with the number of changed texts."""
        num_long = 0
        num_with_unknown = 0
        unknown_symbols: set[str] = set()
        for text in texts:
            if len(text) > self.length:
                num_long += 1
            unknown_in_text = set(text).difference(self.alphabet)
            if unknown_in_text:
                num_with_unknown += 1
                unknown_symbols |= unknown_in_text
        shown = "".join(sorted(unknown_symbols))[:_MOST_SHOWN]
        lacking = f"with symbols that do not occur in training ({shown}) and are read as zeros"
        return {
            f"with more than {self.length} symbols (the rest is cut off)": num_long,
            lacking: num_with_unknown,
        }


def fit_symbols(
    name: str, texts: np.ndarray, training_rows: np.ndarray, length: int | None, where: str
) -> tuple[Symbols, list[str]]:
    """Return the encoder of a column of texts, and a note on it.

    The encoder is learned from the training rows. L is `length`, or the length of the longest
    training text if that is None. Raises the DataErrors of `Symbols.encode`.
    """
    # Raises DataError for columns of numbers and for missing texts.
    Symbols(name, "", 0).encode(texts, where)
    # From the training texts alone, so that other splits may have symbols that training lacks.
    training_texts = texts[training_rows]
    symbols = set("".join(training_texts))
    alphabet = "".join(sorted(symbols))
    text_lengths = list(map(len, training_texts))
    longest = max(text_lengths)
    note = (
        f"'{name}' has {counted(len(alphabet), 'different symbol')} ({alphabet[:_MOST_SHOWN]}), "
        f"and {min(text_lengths)} to {longest} symbols per row"
    )
    return Symbols(name, alphabet, length or longest), [note]


def _code_points(text: str) -> np.ndarray:
    """Return the code point of each character, [l] uint32; lone surrogates are allowed."""
    # Four bytes per character, so that element i of the array is character i.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@dataclass(frozen=True)
class TablePreprocessing:
    """The preprocessing of columns into inputs and targets, learned from the training rows.

    A sample is a row, whose features are the steps of a sequence. With `symbols`, a sample is the
    text in a row, whose symbols are the steps; with `series`, it is a series, whose rows are the
    steps.
    """

    columns: tuple[Column, ...]  # in the order of their features
    decimal: str  # decimal mark of numbers in text
    target_columns: tuple[str, ...]  # one column for classes, K columns for labels and values
    targets: TargetForm
    delimiter: str | None = None  # the reader's setting; None infers it from each file
    encoding: str | None = None
    symbols: Symbols | None = None
    series: Series | None = None
    left_out: tuple[str, ...] = ()  # columns of the training file that do not become features

    @property
    def input_shape(self) -> tuple[int, int]:
        """Shape of an input: (1, F) for rows, (V, L) for texts, or (F, L) for series."""
        if self.symbols is not None:
            return len(self.symbols.alphabet), self.symbols.length
        num_features = sum(column.size for column in self.columns)
        if self.series is not None:
            return num_features, self.series.length
        return 1, num_features

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.symbols is not None or self.series is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns from which samples are made, in order; id and time come last."""
        if self.symbols is not None:
            return (self.symbols.name,)
        names = tuple(column.name for column in self.columns)
        if self.series is None:
            return names
        if self.series.time is None:
            return (*names, self.series.id)
        return (*names, self.series.id, self.series.time)

    def rows(self, columns: Columns, where: str) -> Rows:
        """Return the columns with the assignment of their rows to samples.

        Without a column of times, the rows of a series keep the order of the table.

        Raises:
            DataError: a row has no id or no time, or times are neither numbers nor ISO 8601.
        """
        if self.series is None:
            # Each row is a sample.
            first_column = next(iter(columns.values()))
            row_numbers = np.arange(len(first_column))
            return Rows(
                columns=columns,
                where=where,
                sample_of_row=row_numbers,
                order=row_numbers,
                starts=np.arange(len(row_numbers) + 1),
                names=row_numbers,
            )
        import pandas as pd

        series_ids = columns[self.series.id].astype(str)
        # In a column of numbers, a missing id is NaN, which is `nan` as text.
        is_missing_id = np.isin(series_ids, ("", "nan"))
        hint = "fill in the missing entries, or remove these rows"
        refuse_rows(is_missing_id, "series", f"{where}[{self.series.id}]", hint)
        sample_of_row, names = pd.factorize(series_ids)  # series are numbered by their first rows
        # The order of the table, unless times are read; a reader that needs only groups reads none.
        times = np.arange(len(series_ids))
        time_column = self.series.time
        if time_column is not None and time_column in columns:
            times = self._times(columns[time_column], f"{where}[{time_column}]")
        ends = np.cumsum(np.bincount(sample_of_row))  # [n], end of each series in `order`
        return Rows(
            columns=columns,
            where=where,
            sample_of_row=sample_of_row,
            # Sorted by series, then by time. Rows with the same time keep their order.
            order=np.lexsort((times, sample_of_row)),
            starts=np.concatenate([[0], ends]),
            names=names,
        )

    def _times(self, entries: np.ndarray, where: str) -> np.ndarray:
        """Return times [m] as numbers of the same order; DataError if a time is missing."""
        import pandas as pd

        numbers = as_numbers(entries, self.decimal)
        times = numbers.values
        if numbers.is_wrong.any():
            # If one entry is not a number, all entries have to be points in time.
            stamps = pd.to_datetime(pd.Series(entries), utc=True, format="ISO8601", errors="coerce")
            elapsed = stamps - pd.Timestamp(0, tz="utc")
            times = elapsed.dt.total_seconds().to_numpy(np.float64)
        is_wrong = np.isnan(times)
        refuse_entry(
            wrong=is_wrong,
            values=entries,
            what=f"is not a time (number of such rows: {is_wrong.sum()})",
            where=where,
            hint="use numbers, or times such as 2024-05-31 or 2024-05-31T12:00:05",
        )
        return times

    def features(self, rows: Rows) -> np.ndarray | Ragged:
        """Return samples: [n, 1, F] for rows, [n, V, L] for texts, or [n, F, L] for series."""
        if self.symbols is not None:
            return self.symbols.encode(rows.columns[self.symbols.name], rows.where)
        features_by_column = []
        for column in self.columns:
            encoded = column.encode(rows.columns[column.name], self.decimal, rows.where)
            features_by_column.append(encoded.features)
        features = np.concatenate(features_by_column, axis=1)  # [m, F]
        if self.series is None:
            # [n, 1, F]
            return features[:, None]

        def series_features(sample: int) -> np.ndarray:
            steps = rows.steps_of(sample)
            return features[steps].T

        # [n, F, L]; the steps of a sample are its rows in order.
        return Ragged(
            row=series_features,
            lengths=np.diff(rows.starts),
            sample=(features.shape[1], self.series.length),
            dtype=features.dtype,
        )

    def inputs(self, raw: Columns, where: str = "inputs") -> tuple[np.ndarray, np.ndarray | None]:
        """Return samples as Batch.x and Batch.valid.

        `raw` has the columns of `feature_names`, in the form that `files.Table.read` returns, with
        all rows of each series.
        """
        x = self.features(self.rows(raw, where))
        values, valid = read(x, np.arange(len(x)))
        return as_inputs(values, valid)

    def remarks(self, raw: Columns | Rows, *, training: bool = False) -> dict[str, int]:
        """Return the changes with which `inputs` makes samples fit, with numbers of samples.

        For training samples only cut series and texts are counted, because `fit_columns` returns
        notes on all other changes.
        """
        rows = raw if isinstance(raw, Rows) else self.rows(raw, "inputs")
        counts: dict[str, int] = {}
        if self.symbols is not None:
            counts |= self.symbols.remarks(rows.columns[self.symbols.name])
        if not training:
            for column in self.columns:
                encoded = column.encode(rows.columns[column.name], self.decimal, rows.where)
                if isinstance(column, Categorical):
                    remark = f"with a text in '{column.name}' that has no category of its own"
                else:
                    remark = f"with a missing number in '{column.name}' (set to the training mean)"
                # A series counts once, even if several of its rows are changed.
                counts[remark] = len(np.unique(rows.sample_of_row[encoded.is_replaced]))
        if self.series is not None:
            counts |= remarks(np.diff(rows.starts), self.series.length)
        return {remark: count for remark, count in counts.items() if count}

    def encoded_targets(self, rows: Rows) -> np.ndarray:
        """Return the targets of samples as Batch.y.

        DataError for targets of another form, and for targets that differ among the rows of a
        series.
        """
        columns = {name: rows.per_sample(name) for name in self.target_columns}
        # As in training, because all class names in new data may look like integers.
        are_texts = any(isinstance(label, str) for label in self.targets.classes)
        unencoded = raw_targets(
            columns,
            self.targets.kind,
            self.target_columns,
            missing=self.targets.missing,
            where=rows.where,
            decimal=self.decimal,
            are_texts=are_texts,
        )
        return self.targets.encode(unencoded.y, unencoded.where)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples in a .csv, .tsv, .txt or .parquet file.

        The samples have targets if the file has the columns of targets and these are not all empty.
        """
        if part:
            raise ConfigError(
                "does not apply to tables",
                where="--part",
                hint="remove it, and name a file with the rows of this split only",
            )
        table = open_table(path, where, self.delimiter, self.encoding)
        check_columns(self.feature_names, table.columns, where, path.name)
        target_names: tuple[str, ...] = ()
        # Targets are read only if all their columns exist.
        if set(self.target_columns) <= set(table.columns):
            target_names = self.target_columns
        columns = table.read([*self.feature_names, *target_names])
        rows = self.rows(columns, str(path))
        is_empty = [_is_empty(columns[name]) for name in target_names]

        def targets() -> np.ndarray | None:
            return None if all(is_empty) else self.encoded_targets(rows)

        return self._new_data(rows, targets)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples in a pandas table, in a row of it, or in a mapping name -> column.

        An array [n, columns] must have the columns of `feature_names` in their order. If that is a
        single column, a list of texts is accepted too.
        """
        import pandas as pd

        names = self.feature_names
        in_order = f"pass columns in this order: {listed(names, _SHOWN)}"
        # The index of a row contains the names of columns.
        if isinstance(x, pd.Series) and names[0] in map(str, x.index):
            x = [x.to_dict()]
        try:
            table = pd.DataFrame(x)
        except (TypeError, ValueError) as error:
            # Columns of different lengths, or more than two axes.
            raise DataError(f"is not a table ({error})", where=where, hint=in_order) from error
        # Arrays and lists have no column names, so the order of training is assumed.
        if isinstance(table.columns, pd.RangeIndex):
            if table.shape[1] != len(names):
                num_columns = counted(table.shape[1], "column")
                raise DataError(
                    f"has {num_columns}, expected {len(names)}",
                    where=where,
                    hint=in_order,
                )
            table.columns = list(names)
        # pandas allows numbers as column names.
        table.columns = list(map(str, table.columns))
        check_columns(names, list(table.columns), where, where)
        check_names([name for name in table.columns if name in names], where)
        columns = plain_columns(table, names, where)
        return self._new_data(self.rows(columns, where), lambda: None)

    def _new_data(self, rows: Rows, targets: Callable[[], np.ndarray | None]) -> NewData:
        def inputs(start: int, stop: int) -> dict[str, np.ndarray]:
            # The rows of these samples, sample by sample, so that `rows` numbers the samples in the
            # same order.
            steps = rows.order[rows.starts[start] : rows.starts[stop]]
            return {name: rows.columns[name][steps] for name in self.feature_names}

        series_names: list[str] | None = None
        if self.series is not None:
            series_names = list(map(str, rows.names))
        return NewData(
            count=len(rows), inputs=inputs, targets=targets, where=rows.where, ids=series_names
        )


def _is_empty(entries: np.ndarray) -> bool:
    """Return whether all entries of a column are missing."""
    return all(map(is_missing, entries.astype(str)))
