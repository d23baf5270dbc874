"""Long tables, whose rows of one id are a series, a step each; and columns of text with one symbol a character.

Shapes: m rows of the table, n series or texts, F features of a step, V symbols, L steps of the model's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.blocks import Ragged
from orca_cli.data.contents import hashes
from orca_cli.data.own_data import refuse_entry, refuse_rows
from orca_cli.data.table.columns import as_numbers
from orca_cli.exceptions import DataError
from orca_cli.terminal import counted

_MOST_SYMBOLS = 128  # more of them are the letters of a language, or not symbols at all
_MOST_SHOWN = 40


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

    def assembled(self, features: np.ndarray, grouped: Grouped) -> Ragged:
        """Return the features [m, F] of the rows as series [n, F, L]."""
        rows = grouped.rows
        return Ragged(lambda one: features[rows[one]].T, grouped.sizes, features.shape[1], self.length, features.dtype)


def group_by(raw: Mapping[str, np.ndarray], id: str, time: str | None, where: str, decimal: str) -> Grouped:
    """Return the series of a table, from columns [m] by name; `id` and `time` as those of `Series`.

    Raises:
        DataError: a row has no id or no time, or times that are neither numbers nor ISO 8601.
    """
    import pandas as pd

    ids = raw[id].astype(str)
    refuse_rows(np.isin(ids, ("", "nan")), "series", f"{where}[{id}]", "fill them in, or remove these rows")
    series, names = pd.factorize(ids)  # of each row, numbered by their first rows
    times = np.arange(len(ids))
    if time is not None:
        times, wrong = as_numbers(raw[time], decimal)
        if wrong.any():
            stamps = pd.to_datetime(pd.Series(raw[time]), utc=True, format="ISO8601", errors="coerce")
            times = (stamps - pd.Timestamp(0, tz="utc")).dt.total_seconds().to_numpy(np.float64)
        wrong, hint = np.isnan(times), "use numbers, or times such as 2024-05-31 or 2024-05-31T12:00:05"
        refuse_entry(wrong, raw[time], f"is not a time ({int(wrong.sum())} rows)", f"{where}[{time}]", hint)
    order = np.lexsort((times, series))  # stable: rows of one time keep their order
    return Grouped(names, series, np.split(order, np.cumsum(np.bincount(series))[:-1]))


def per_sample(
    raw: Mapping[str, np.ndarray], names: Sequence[str], grouped: Grouped | None, where: str
) -> dict[str, np.ndarray]:
    """Return columns that have one value for each sample as [n], by name; without series a sample is a row."""
    if grouped is None:
        return {name: raw[name] for name in names}
    return {name: grouped.per_series(raw[name], f"{where}[{name}]") for name in names}


def contents(
    columns: Sequence[np.ndarray], grouped: Grouped | None, samples: np.ndarray, decimal: str, are_texts: bool
) -> np.ndarray:
    """Return a hash of the entries of each of some samples [n], which are rows or series of rows.

    Entries of a column are equal as numbers where all are numbers, unless they `are_texts`.
    """
    import pandas as pd

    codes = []
    for column in columns:
        numbers, wrong = as_numbers(column, decimal)
        numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, and one zero
        codes.append(pd.factorize(column)[0] if are_texts or wrong.any() else numbers.view(np.int64))
    entries = np.stack(codes, axis=1)
    rows = samples[:, None] if grouped is None else (grouped.rows[one] for one in samples)
    return hashes(entries[one].tobytes() for one in rows)


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

    Raises:
        DataError: the column holds numbers, an empty text, or too many different characters.
    """
    _check_texts(values, f"{where}[{name}]")
    alphabet = "".join(sorted(set().union(*values[rows])))
    if len(alphabet) > _MOST_SYMBOLS:
        what = f"holds {len(alphabet)} different characters, at most {_MOST_SYMBOLS} are read as symbols"
        raise DataError(what, where=f"{where}[{name}]", hint="a sequence has one symbol a character, such as ACGT")
    sizes = [len(text) for text in values[rows]]
    shown = alphabet[:_MOST_SHOWN]
    note = f"{counted(len(alphabet), 'symbol')} in '{name}' ({shown}), {min(sizes)} to {max(sizes)} a row"
    return Symbols(name, alphabet, length or max(sizes)), [note]


def _check_texts(values: np.ndarray, where: str) -> None:
    if values.dtype.kind != "O":
        raise DataError("holds numbers, not text", where=where, hint="a sequence has one symbol a character")
    refuse_rows(values == "", "sequence", where, "remove these rows")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
