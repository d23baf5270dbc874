"""Tables in .csv, .tsv and .parquet files: column names are read first, entries on demand.

Functions raise DataError for files that are missing, empty, damaged or malformed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_cli import signals
from orca_cli.data.own_data import check_names
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.memory import check_memory
from orca_cli.exceptions import ConfigError, DataError, need

if TYPE_CHECKING:
    import pandas as pd

_ALLOWED = "allowed: .csv, .tsv, .txt and .parquet"
_TEXT = (".csv", ".tsv", ".txt")
_PARQUET = (".parquet", ".pq")
# If several delimiters split the header into most fields, the first of them is used.
_DELIMITERS = (",", ";", "\t", "|")
_NANOSECONDS_PER_DAY = 86_400e9
# Memory of a table of text as a multiple of its file's size.
_TIMES_LARGER = 12
# In characters. The default limit of the module csv is 2**17. Without a limit, a missing quote
# could turn the whole file into one field.
_LONGEST_FIELD = 2**24


@dataclass(frozen=True)
class Table:
    """A table in a file whose header or schema was read; `read` reads the entries."""

    path: Path
    header: tuple[str, ...]  # names of all columns
    delimiter: str = ""  # separator of fields in a text file; empty for .parquet
    encoding: str = ""  # encoding of a text file; empty for .parquet

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that can be read, without empty names and pandas' row numbers."""
        names = []
        for name in self.header:
            if name and not name.startswith("__index_level_"):
                names.append(name)
        return tuple(names)

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns [n] by name: numbers, or objects of type str, empty where missing.

        Columns of text files are always str. In columns of .parquet files, missing numbers are NaN,
        and points in time are days since 1970.

        Raises:
            MemoryExhaustedError: the file does not fit into memory.
        """
        columns = self._read_text(names) if self.delimiter else self._read_parquet(names)
        if not len(columns[names[0]]):
            raise DataError(
                "has no rows below its header", where=str(self.path), hint="name a file with rows"
            )
        return columns

    def _read_text(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        where = str(self.path)
        needed_bytes = _TIMES_LARGER * self.path.stat().st_size
        check_memory(needed_bytes, where, hint="store the table as .parquet, or use task=arrays")
        num_fields = len(self.header)
        positions = list(map(self.header.index, names))
        rows: list[list[str]] = []
        for line, fields in _records(self.path, self.delimiter, self.encoding):
            signals.check()
            if len(fields) != num_fields:
                raise DataError(
                    f"line {line} must have {num_fields} fields like the header, got {len(fields)}",
                    where=where,
                    hint="correct the line, or quote fields that contain the delimiter",
                )
            # Fields of other columns are dropped at once, to save memory.
            row = [fields[position].strip() for position in positions]
            rows.append(row)
        entries = np.array(rows, dtype=object)[1:]  # [n, columns], without the header
        return dict(zip(names, entries.T, strict=True))

    def _read_parquet(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        where = str(self.path)
        with damage(where, ".parquet file"), _parquet().ParquetFile(self.path) as file:
            # A small file can declare a column of any length in which one value is repeated.
            needed_bytes = 16 * file.metadata.num_rows * len(names)
            check_memory(needed_bytes, where, hint="use fewer columns")
            # Only these columns are read from the disk.
            content = file.read(columns=list(names))
            # Metadata of pandas is ignored because it could turn a column into an index. Dates
            # become points in time rather than Python objects.
            frame = content.to_pandas(ignore_metadata=True, date_as_object=False)
        return plain_columns(frame, names, where)


def plain_columns(frame: pd.DataFrame, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """Return columns of a pandas table as `Table.read` does: as numbers, or as objects of type str.

    DataError for other entries, such as lists, and for numbers among texts.
    """
    columns = {}
    for name in names:
        columns[name] = _plain_column(frame[name], f"{where}[{name}]")
    return columns


def _plain_column(column: pd.Series, where: str) -> np.ndarray:
    from pandas.api import types

    if types.is_datetime64_any_dtype(column):
        return _days(column)
    is_whole = types.is_bool_dtype(column) or types.is_integer_dtype(column)
    if is_whole or types.is_float_dtype(column):
        # Integers become floats if entries are missing, or too large for int64.
        if is_whole and not column.hasnans:
            is_too_large = column > np.iinfo(np.int64).max
            if not is_too_large.any():
                return column.to_numpy(np.int64)
        return column.to_numpy(float, na_value=np.nan)
    # Missing entries become empty texts, as in text files.
    filled = column.astype(object).where(column.notna(), "")
    entries = filled.to_numpy(object)
    texts = [entry for entry in entries if isinstance(entry, str)]
    typed = [entry for entry in entries if not isinstance(entry, str)]
    if not typed:
        return np.array(list(map(str.strip, texts)), dtype=object)
    are_numbers = all(isinstance(entry, (bool, int, float, Decimal)) for entry in typed)
    # Empty texts among numbers are missing numbers.
    if are_numbers and not any(texts):
        numbers = []
        for entry in entries:
            number = np.nan if entry == "" else float(entry)
            numbers.append(number)
        return np.array(numbers)
    type_name = type(typed[0]).__name__
    raise DataError(
        f"contains values of type {type_name}; a column may have only numbers, only text,"
        " or only points in time",
        where=where,
        hint="drop the column with task.ignore=[COLUMN], or use task=arrays for lists",
    )


def _days(column: pd.Series) -> np.ndarray:
    """Return points in time as days since 1970, [n] float64, NaN where missing."""
    import pandas as pd

    # The unit of the epoch is seconds, so that the difference has the unit of the column. In
    # nanoseconds, points in time far from 1970 would overflow.
    epoch = pd.Timestamp(0, tz="utc").as_unit("s")
    times = pd.to_datetime(column, utc=True)
    elapsed = (times - epoch).to_numpy()
    # The unit in which the column was stored, from seconds to nanoseconds.
    unit = np.array(1, elapsed.dtype)
    # As floats, because nanoseconds since 1970 overflow integers after the year 2262.
    nanoseconds = elapsed / unit * (unit / np.timedelta64(1, "ns"))
    return nanoseconds / _NANOSECONDS_PER_DAY


def open_table(path: Path, setting: str, delimiter: str | None, encoding: str | None) -> Table:
    """Return the table in the file that a setting names; only its header is read.

    The delimiter is one character, or `tab`; with None, it is the delimiter that splits the header
    into most fields. Without an encoding, text is UTF-8.

    Raises:
        ConfigError: the delimiter or encoding is invalid.
        UnavailableError: the file is .parquet, and pyarrow is not installed.
    """
    # Checked first, so that the error says if the file is really a web page.
    first_bytes(path, setting, _ALLOWED)
    suffix = path.suffix.lower()
    if suffix not in (*_TEXT, *_PARQUET):
        raise DataError(f"'{path.name}' has an unsupported suffix", where=setting, hint=_ALLOWED)
    if suffix in _PARQUET:
        with damage(str(path), ".parquet file"):
            schema = _parquet().read_schema(path, memory_map=True)
            table = Table(path, tuple(schema.names))
    else:
        # UTF-8, in which a byte order mark is skipped.
        table = _open_text(path, delimiter, encoding or "utf-8-sig")
    check_names(table.columns, str(path))
    return table


def _open_text(path: Path, delimiter: str | None, encoding: str) -> Table:
    if delimiter is None:
        delimiter = _infer_delimiter(path, encoding)
    elif delimiter in ("tab", "\\t"):
        delimiter = "\t"
    header = map(str.strip, _first_fields(path, delimiter, encoding))
    return Table(path, tuple(header), delimiter, encoding)


def _infer_delimiter(path: Path, encoding: str) -> str:
    """Return the delimiter that splits the header into most fields; a comma if it is unreadable."""
    widths: dict[str, int] = {}
    for delimiter in _DELIMITERS:
        # With a wrong delimiter, quotes may be malformed.
        with suppress(DataError):
            widths[delimiter] = len(_first_fields(path, delimiter, encoding))
    # Among equal widths, `max` returns the first delimiter.
    return max(widths, key=lambda delimiter: widths[delimiter], default=",")


def _first_fields(path: Path, delimiter: str, encoding: str) -> list[str]:
    """Return the fields of the header; empty if all lines are empty."""
    _, fields = next(_records(path, delimiter, encoding), (0, []))
    return fields


def _records(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line of each record, and the fields of the record.

    Empty lines are skipped.
    """
    # This limit is global to the module csv; a single reader cannot have a limit.
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        # newline="" leaves line ends to the module csv, which handles those inside quotes.
        with open(path, encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(
            f"is not a valid table: {error} at line {reader.line_num}",
            where=str(path),
            hint="check the quotes in this line",
        ) from error
    # Before ValueError, which is its base class.
    except UnicodeError as error:
        message = f"is not text in the encoding {encoding.removesuffix('-sig')}"
        raise DataError(
            message,
            where=str(path),
            hint="store the file as UTF-8; with task=table, you can set its encoding instead,"
            " such as task.encoding=latin-1",
        ) from error
    # The module csv raises TypeError for a delimiter of several characters.
    except TypeError as error:
        raise ConfigError(
            f"must be one character such as ';', or tab, got {delimiter!r}", where="task.delimiter"
        ) from error
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"unknown encoding {encoding!r}",
            where="task.encoding",
            hint="use the name of an encoding, such as utf-8, latin-1, cp1252 or utf-16",
        ) from error


def _parquet() -> Any:
    """Return pyarrow's module for .parquet files, which is imported only if a file needs it."""
    return need("pyarrow.parquet", "task.train", "tables")
