"""Long tables, whose rows of one id are a series, a step each; and columns of text with one symbol a character.

Shapes: m rows of the table, n series or texts, F features of a step, V symbols, L steps of the model's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.blocks import Ragged
from orca_cli.data.contents import hashes
from orca_cli.data.one_hot import one_hot
from orca_cli.data.own_data import refuse_entry, refuse_rows
from orca_cli.data.table.columns import as_numbers, codes
from orca_cli.exceptions import DataError
from orca_cli.terminal import counted

_MOST_SYMBOLS = 128  # more of them are the letters of a language, or not symbols at all
_MOST_SHOWN = 40


@dataclass(frozen=True)
class Grouped:
    """The n series of a table of m rows, in the order in which their first rows stand there.

    `order` has the rows, series after series, each by time, and `ends` [n] where each series ends in it.
    """

    names: np.ndarray
    order: np.ndarray
    ends: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each series starts in `order`, [n]."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    def rows(self, series: np.ndarray) -> np.ndarray:
        """Return the table's rows of some series, sorted."""
        starts = self.starts
        return np.sort(np.concatenate([self.order[starts[one] : self.ends[one]] for one in series]))

    def rows_between(self, start: int, stop: int) -> np.ndarray:
        """Return the table's rows of series start..stop-1, in their order."""
        return self.order[self.starts[start] : self.ends[stop - 1]]

    def values_per_series(self, values: np.ndarray, where: str) -> np.ndarray:
        """Return a column [m] that has one value in each series as [n].

        Raises:
            DataError: a series has several values.
        """
        first = values[self.order[self.starts]]
        sizes = np.diff(self.ends, prepend=0)
        ordered, repeated = values[self.order], np.repeat(first, sizes)
        same = ordered == repeated
        if values.dtype.kind == "f":
            same |= np.isnan(ordered) & np.isnan(repeated)
        if not same.all():
            row = int((~same).argmax())
            series = self.names[int(np.searchsorted(self.ends, row, side="right"))]
            what = f"series '{series}' has '{repeated[row]}' and '{ordered[row]}'"
            hint = "a target or group is of a whole series: every row of one has to say the same"
            raise DataError(what, where=where, hint=hint)
        return first


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
        starts, ends, order = grouped.starts, grouped.ends, grouped.order
        sizes, row = ends - starts, lambda one: features[order[starts[one] : ends[one]]].T
        return Ragged(row, sizes, features.shape[1], self.length, features.dtype)


def group_by(raw: Mapping[str, np.ndarray], id: str, time: str | None, where: str, decimal: str) -> Grouped:
    """Return the series of a table, from columns [m] by name; `id` and `time` as those of `Series`.

    Raises:
        DataError: a row has no id or no time, or times that are neither numbers nor ISO 8601.
    """
    import pandas as pd

    ids = raw[id].astype(str)
    refuse_rows(np.isin(ids, ("", "nan")), "series", f"{where}[{id}]", "fill them in, or remove these rows")
    rank, names = pd.factorize(ids)  # of each row's series, by its first row
    times = np.arange(len(ids))
    if time is not None:
        times, wrong = as_numbers(raw[time], decimal)
        if wrong.any():
            stamps = pd.to_datetime(pd.Series(raw[time]), utc=True, format="ISO8601", errors="coerce")
            times = (stamps - pd.Timestamp(0, tz="utc")).dt.total_seconds().to_numpy(np.float64)
        wrong, hint = np.isnan(times), "use numbers, or times such as 2024-05-31 or 2024-05-31T12:00:05"
        refuse_entry(wrong, raw[time], f"is not a time ({int(wrong.sum())} rows)", f"{where}[{time}]", hint)
    order = np.lexsort((times, rank))  # stable: rows of one time keep their order
    return Grouped(names, order, np.cumsum(np.bincount(rank)))


def contents(
    columns: Mapping[str, np.ndarray],
    names: Sequence[str],
    grouped: Grouped | None,
    samples: np.ndarray,
    decimal: str,
    are_texts: bool,
) -> np.ndarray:
    """Return a hash of the entries of each sample [n], which is a row or a series of rows.

    `names` are the columns that are inputs, `samples` [n] the numbers of rows or series, and `are_texts` says whether entries
    are texts even where they spell numbers.
    """
    entries = np.stack([codes(columns[n], decimal, are_texts) for n in names], axis=1)
    rows = samples[:, None] if grouped is None else (grouped.rows_between(one, one + 1) for one in samples)
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
        """Return texts [n] as [n, V, L] of 0 and 1.

        Raises:
            DataError: a text is empty, or the column holds numbers.
        """
        texts = _checked(values, f"{where}[{self.name}]")
        points, alphabet = _code_points("".join(texts)), _code_points(self.alphabet)
        place = np.searchsorted(alphabet, points).clip(max=len(alphabet) - 1)
        codes = np.where(alphabet[place] == points, place, len(alphabet)).astype(np.uint8)  # V where unknown
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return one_hot(codes, ends, len(alphabet), self.length)

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
    texts = list(np.array(_checked(values, f"{where}[{name}]"), dtype=object)[rows])
    alphabet = "".join(sorted(set().union(*map(set, texts))))
    if len(alphabet) > _MOST_SYMBOLS:
        what = f"holds {len(alphabet)} different characters, at most {_MOST_SYMBOLS} are read as symbols"
        raise DataError(what, where=f"{where}[{name}]", hint="a sequence has one symbol a character, such as ACGT")
    sizes = [len(text) for text in texts]
    shown = alphabet[:_MOST_SHOWN]
    note = f"{counted(len(alphabet), 'symbol')} in '{name}' ({shown}), {min(sizes)} to {max(sizes)} a row"
    return Symbols(name, alphabet, length or max(sizes)), [note]


def _checked(values: np.ndarray, where: str) -> list[str]:
    if values.dtype.kind != "O":
        raise DataError("holds numbers, not text", where=where, hint="a sequence has one symbol a character")
    refuse_rows(values == "", "sequence", where, "remove these rows")
    return list(values)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
