"""Tables in .csv, .tsv and .parquet files: names of the columns first, values on demand.

Functions raise DataError for files that are missing, empty, damaged or of another form.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from orca_cli import signals
from orca_cli.data.untrusted.first_bytes import first_bytes
from orca_cli.data.untrusted.memory import check_memory
from orca_cli.exceptions import ConfigError, DataError, UnavailableError

if TYPE_CHECKING:
    import pandas as pd

_ALLOWED = "allowed: .csv, .tsv, .txt and .parquet"
_TEXT = (".csv", ".tsv", ".txt")
_PARQUET = (".parquet", ".pq")
_DELIMITERS = (",", ";", "\t", "|")
_NAMED = re.compile(r"sep=([^\w\"'\r\n])[\r\n]*")
_LONGEST_NAMED = len("sep=;\r\n")
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))
_SNIFFED = 30  # records from which the delimiter is inferred
_DAY = 86_400e9  # nanoseconds
_MAX_COLUMNS = 100_000
_TIMES_LARGER = 12  # how much larger fields of text are in memory than in a file
_LONGEST_FIELD = 2**24  # characters; the module csv stops at 2**17, and a lost quote would take the whole file
_POLLED = 100_000  # records between checks for signals


@dataclass(frozen=True)
class Table:
    """A table in a file whose first record, or schema, was read.

    Args:
        path: the file.
        columns: distinct names, in the file's order; a column without one is called `column N`, counted from 1.
        unnamed: those of them that have no name in the file.
        delimiter: between fields; empty for .parquet.
        encoding: of the text; empty for .parquet.
    """

    path: Path
    columns: tuple[str, ...]
    unnamed: frozenset[str]
    delimiter: str
    encoding: str

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns [n] by name: numbers, or objects of type str, empty where missing.

        Text files give text only. Of .parquet, missing numbers are NaN and points in time are days since 1970.

        Raises:
            MemoryExhaustedError: the file does not fit into memory.
        """
        if self.delimiter:
            needed = _TIMES_LARGER * self.path.stat().st_size
            check_memory(needed, str(self.path), "store it as .parquet, or as arrays (task=arrays)")
            columns = as_columns(list(self.text_rows(names)), names)
        else:
            with _parquet(self.path) as parquet, parquet.ParquetFile(self.path) as file:
                # A few bytes can declare a column of any length that repeats one value.
                check_memory(16 * file.metadata.num_rows * len(names), str(self.path), "name fewer columns")
                frame = file.read(columns=list(names)).to_pandas(ignore_metadata=True, date_as_object=False)
            columns = plain_columns(frame, names, str(self.path))
        if not len(columns[names[0]]):
            raise DataError("has no rows", where=str(self.path), hint="give a file with rows below its header")
        return columns

    def count(self) -> int:
        """Return the number of rows; of text files this is one pass, which finds lines of another width."""
        if self.delimiter:
            return sum(1 for _ in self.text_rows([]))
        with _parquet(self.path) as parquet, parquet.ParquetFile(self.path) as file:
            return int(file.metadata.num_rows)

    def text_rows(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Yield the fields of each row of a text file."""
        places, width = [self.columns.index(name) for name in names], len(self.columns)
        records = _records(self.path, self.delimiter, self.encoding)
        next(records, None)
        for number, (line, record) in enumerate(records, start=1):
            if len(record) != width:
                what = f"line {line} has {len(record)} fields, the header has {width}"
                hint = "correct the line; quote fields that contain the delimiter"
                raise DataError(what, where=str(self.path), hint=hint)
            yield [record[place].strip() for place in places]
            if number % _POLLED == 0:
                signals.check()

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """Yield columns of a .parquet file as Arrow's record batches of at most `rows` rows."""
        with _parquet(self.path) as parquet, parquet.ParquetFile(self.path) as file:
            yield from file.iter_batches(rows, columns=list(names))

    def joined(self, batches: Sequence[Any], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns of record batches, one or more, as `read` returns those of a file."""
        import pyarrow

        with _parquet(self.path):
            frame = pyarrow.Table.from_batches(batches).to_pandas(ignore_metadata=True, date_as_object=False)
        return plain_columns(frame, names, str(self.path))


def as_columns(rows: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return fields by row as columns [n] of type object by name."""
    values = np.array(rows, dtype=object).reshape(len(rows), len(names))
    return {name: values[:, i] for i, name in enumerate(names)}


def plain_columns(frame: pd.DataFrame, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """Return columns of a pandas table as those of a .parquet file: numbers, or objects of type str."""
    return {name: _plain_column(frame[name], f"{where}[{name}]") for name in names}


def _plain_column(column: pd.Series, where: str) -> np.ndarray:
    """Return a typed column as numbers, or as objects of type str, empty where missing."""
    import pandas as pd
    from pandas.api import types

    if types.is_datetime64_any_dtype(column):
        since = (pd.to_datetime(column, utc=True) - pd.Timestamp(0, tz="utc").as_unit("s")).to_numpy()
        unit = np.array(1, since.dtype)
        # As numbers of nanoseconds; as integers these end in the year 2262.
        return since / unit * (unit / np.timedelta64(1, "ns")) / _DAY
    whole = types.is_bool_dtype(column) or types.is_integer_dtype(column)
    if whole or types.is_float_dtype(column):
        whole = whole and not column.hasnans and not (column > np.iinfo(np.int64).max).any()
        return column.to_numpy(np.int64) if whole else column.to_numpy(float, na_value=np.nan)
    values = column.astype(object).where(column.notna(), "").to_numpy(object)
    numbers = [np.nan if isinstance(value, str) and not value else value for value in values]
    if all(isinstance(value, (bool, int, float, Decimal)) for value in numbers):
        return np.array([float(value) for value in numbers])
    odd = next((value for value in values if not isinstance(value, str)), None)
    if odd is not None:
        hint = "allowed: numbers, text and points in time; leave it out with task.ignore=, or use task=hub for lists"
        raise DataError(f"holds values of type {type(odd).__name__}", where=where, hint=hint)
    return np.array([value.strip() for value in values], dtype=object)


def open_table(path: Path, key: str, delimiter: str | None, encoding: str | None, least: int = 2) -> Table:
    """Return the table in a file; only its header is read.

    Args:
        path: the file.
        key: setting that names it, for messages.
        delimiter: one character, or `tab`; None infers it from the first records.
        encoding: of the text; None reads UTF-8, and UTF-16 where the file says so.
        least: columns that the table has to have: one alone mostly means another delimiter.

    Raises:
        ConfigError: an invalid delimiter or encoding.
        UnavailableError: .parquet without pyarrow.
    """
    ending = path.suffix.lower()
    first = first_bytes(path, key, _ALLOWED)
    if ending in _PARQUET:
        with _parquet(path, "is not a readable .parquet file") as parquet:
            names = tuple(parquet.read_schema(path, memory_map=True).names)
        # pandas stores a row index under such a name; it is not a column of the table.
        return _checked(
            Table(path, names, frozenset(name for name in names if name.startswith("__index_level_")), "", "")
        )
    if ending not in _TEXT:
        raise DataError(f"'{path.name}' has an unsupported ending", where=key, hint=_ALLOWED)
    # As UTF-8 with an optional byte order mark, which would else become part of the first name.
    encoding = encoding or next((name for mark, name in _MARKS if first.startswith(mark)), "utf-8-sig")
    try:
        "".encode(encoding)
    except (LookupError, TypeError, ValueError) as error:
        hint = "give one such as utf-8, latin-1, cp1252 or utf-16"
        raise ConfigError(f"{encoding!r} is not an encoding", where="task.encoding", hint=hint) from error
    mark = "\t" if delimiter in ("tab", "\\t") else delimiter or ""
    if delimiter is None:
        mark = _inferred_delimiter(path, encoding)
    elif len(mark) != 1 or mark in "\"'\r\n" or mark.isalnum():
        hint = "allowed: one character such as ';', or tab"
        raise ConfigError(f"{delimiter!r} is not a delimiter", where="task.delimiter", hint=hint)
    _, header = next(_records(path, mark, encoding), (0, []))
    if len(header) < least:
        name = "".join(header)
        what = f"has one column only, '{name if len(name) <= 60 else f'{name[:57]}...'}'"
        # Of the readers of tables only task=table has such settings.
        hint = "its first line names the columns; put commas between fields, or with task=table give task.delimiter="
        raise DataError(what, where=str(path), hint=hint)
    columns = tuple(name.strip() or f"column {i}" for i, name in enumerate(header, start=1))
    unnamed = frozenset(column for column, name in zip(columns, header, strict=True) if not name.strip())
    return _checked(Table(path, columns, unnamed, mark, encoding))


def _checked(table: Table) -> Table:
    names = table.columns
    if len(names) > _MAX_COLUMNS:
        raise DataError(f"has {len(names):,} columns, at most {_MAX_COLUMNS:,} are read", where=str(table.path))
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"two columns are named '{twice}'", where=str(table.path), hint="give them distinct names")
    return table


def _inferred_delimiter(path: Path, encoding: str) -> str:
    """Return the delimiter that the file names, or that gives most of the first records the header's number of fields.

    Of several that do equally well it is the one with the most fields; where none gives two fields or more, the comma.
    """
    with _text(path, encoding) as (_, named):
        if named:
            return named
    best, delimiter = (0.5, math.inf), ","  # more than half
    for mark in _DELIMITERS:
        try:
            widths = [len(record) for _, record in islice(_records(path, mark, encoding), _SNIFFED)] or [0]
        except DataError:  # quotes that make sense only with another delimiter
            continue
        rank = (widths.count(widths[0]) / len(widths), widths[0])
        if widths[0] > 1 and rank > best:
            best, delimiter = rank, mark
    return delimiter


def _records(path: Path, mark: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record ends, and its fields; empty lines are skipped."""
    csv.field_size_limit(_LONGEST_FIELD)
    with _text(path, encoding) as (file, named):
        before = 1 if named else 0
        reader = csv.reader(file, delimiter=mark, skipinitialspace=True, strict=True)
        try:
            yield from ((reader.line_num + before, record) for record in reader if record)
        except csv.Error as error:
            what = f"is not a table: {error} at line {reader.line_num + before}"
            raise DataError(what, where=str(path), hint="check its quotes") from error


@contextmanager
def _text(path: Path, encoding: str) -> Iterator[tuple[TextIO, str]]:
    """Yield a text file, past a first line `sep=X` (from which Excel takes the delimiter), and X, or an empty text."""
    try:
        with open(path, encoding=encoding, newline="") as file:
            named = _NAMED.fullmatch(file.readline(_LONGEST_NAMED))
            if named is None:
                file.seek(0)
            yield file, "" if named is None else named[1]
    except UnicodeError as error:
        what = f"is not text in {encoding.removesuffix('-sig')}"
        hint = "store it as UTF-8, or with task=table give task.encoding=, such as latin-1"
        raise DataError(what, where=str(path), hint=hint) from error


@contextmanager
def _parquet(path: Path, what: str = "cannot be read") -> Iterator[ModuleType]:
    """Give what reads .parquet; what it raises for damaged files becomes a DataError."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        hint = "pip install 'orca-transfer[tables]', or give a .csv file"
        raise UnavailableError(".parquet files need the package pyarrow", where="task.train", hint=hint) from error
    try:
        yield parquet
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{what}: {error}", where=str(path), hint="write it again") from error
