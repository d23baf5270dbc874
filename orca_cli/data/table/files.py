"""Tables in .csv, .tsv and .parquet files: names of the columns first, values on demand.

Functions raise DataError for files that are missing, empty, damaged or of another form.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orca_cli import signals
from orca_cli.data.own_data import check_names, refuse_if
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.memory import check_memory
from orca_cli.exceptions import ConfigError, DataError, need

if TYPE_CHECKING:
    import pandas as pd

_ALLOWED = "allowed: .csv, .tsv, .txt and .parquet"
_TEXT = (".csv", ".tsv", ".txt")
_PARQUET = (".parquet", ".pq")
_parquet = partial(
    need, "pyarrow.parquet", "task.train", "tables"
)  # imported where a file asks for it
_DELIMITERS = (",", ";", "\t", "|")
_DAY = 86_400e9  # nanoseconds
_TIMES_LARGER = 12  # how much larger fields of text are in memory than in a file
_LONGEST_FIELD = (
    2**24
)  # characters; the module csv stops at 2**17, and a lost quote would take the whole file


@dataclass(frozen=True)
class Table:
    """A table in a file whose first record, or schema, was read: the names of all its columns are `header`.

    Delimiter and encoding are empty for .parquet.
    """

    path: Path
    header: tuple[str, ...]
    delimiter: str = ""
    encoding: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that can be read: row numbers that pandas wrote have none."""
        return tuple(name for name in self.header if name and not name.startswith("__index_level_"))

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns [n] by name: numbers, or objects of type str, empty where missing.

        Text files give text only. Of .parquet, missing numbers are NaN and points in time are days since 1970.

        Raises:
            MemoryExhaustedError: the file does not fit into memory.
        """
        where = str(self.path)
        if self.delimiter:
            check_memory(
                _TIMES_LARGER * self.path.stat().st_size,
                where,
                "store it as .parquet, or use task=arrays",
            )
            places, rows = [self.header.index(name) for name in names], list[list[str]]()
            for line, record in _records(self.path, self.delimiter, self.encoding):
                signals.check()
                what = f"line {line} has {len(record)} fields, the header has {len(self.header)}"
                refuse_if(
                    len(record) != len(self.header),
                    what,
                    where,
                    "quote fields that contain the delimiter",
                )
                rows.append([record[place].strip() for place in places])
            values = np.array(rows, dtype=object)[1:]
            columns = {name: values[:, i] for i, name in enumerate(names)}
        else:
            with damage(where, ".parquet file"), _parquet().ParquetFile(self.path) as file:
                # A few bytes can declare a column of any length that repeats one value.
                check_memory(16 * file.metadata.num_rows * len(names), where, "name fewer columns")
                frame = file.read(columns=list(names)).to_pandas(
                    ignore_metadata=True, date_as_object=False
                )
            columns = {name: plain_column(frame[name], f"{where}[{name}]") for name in names}
        refuse_if(
            not len(columns[names[0]]),
            "has no rows",
            where,
            "give a file with rows below its header",
        )
        return columns


def plain_column(column: pd.Series, where: str) -> np.ndarray:
    """Return a typed column of pandas as those of a .parquet file: as numbers, or as objects of type str.

    DataError for other values, such as lists, and for numbers among texts.
    """
    import pandas as pd
    from pandas.api import types

    if types.is_datetime64_any_dtype(column):
        since = (
            pd.to_datetime(column, utc=True) - pd.Timestamp(0, tz="utc").as_unit("s")
        ).to_numpy()
        unit = np.array(1, since.dtype)
        # As numbers of nanoseconds; as integers these end in the year 2262.
        return since / unit * (unit / np.timedelta64(1, "ns")) / _DAY
    whole = types.is_bool_dtype(column) or types.is_integer_dtype(column)
    if whole or types.is_float_dtype(column):
        whole = whole and not column.hasnans and not (column > np.iinfo(np.int64).max).any()
        return column.to_numpy(np.int64) if whole else column.to_numpy(float, na_value=np.nan)
    values = column.astype(object).where(column.notna(), "").to_numpy(object)
    odd = [value for value in values if not isinstance(value, str)]
    if not odd:
        return np.array([value.strip() for value in values], dtype=object)
    texts = [value for value in values if isinstance(value, str)]
    if not any(texts) and all(isinstance(value, (bool, int, float, Decimal)) for value in odd):
        return np.array([np.nan if isinstance(value, str) else float(value) for value in values])
    hint = "allowed: numbers, text and points in time; leave it out with task.ignore=, or store lists as arrays"
    raise DataError(f"holds values of type {type(odd[0]).__name__}", where=where, hint=hint)


def open_table(path: Path, key: str, delimiter: str | None, encoding: str | None) -> Table:
    """Return the table in a file that the setting `key` names; only its header is read.

    The delimiter is one character, or `tab`; None takes the one that parts the header most often, and UTF-8.

    Raises:
        ConfigError: an invalid delimiter or encoding.
        UnavailableError: .parquet without pyarrow.
    """
    first_bytes(path, key, _ALLOWED)
    if path.suffix.lower() in _PARQUET:
        with damage(str(path), ".parquet file"):
            table = Table(path, tuple(_parquet().read_schema(path, memory_map=True).names))
    elif path.suffix.lower() in _TEXT:
        encoding = encoding or "utf-8-sig"  # a byte order mark is no text
        mark = "\t" if delimiter in ("tab", "\\t") else delimiter or ""
        if delimiter is None:
            widths: dict[str, int] = {}
            for mark in _DELIMITERS:
                with suppress(DataError):  # quotes that make sense only with another delimiter
                    widths[mark] = len(next(_records(path, mark, encoding), (0, []))[1])
            mark = max(widths, key=lambda mark: widths[mark], default=",")
        _, header = next(_records(path, mark, encoding), (0, []))
        table = Table(path, tuple(name.strip() for name in header), mark, encoding)
    else:
        raise DataError(f"'{path.name}' has an unsupported ending", where=key, hint=_ALLOWED)
    check_names(table.columns, str(path))
    return table


def _records(path: Path, mark: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record ends, and its fields; empty lines are skipped."""
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with open(path, encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=mark, skipinitialspace=True, strict=True)
            yield from ((reader.line_num, record) for record in reader if record)
    except csv.Error as error:
        what = f"is not a table: {error} at line {reader.line_num}"
        raise DataError(what, where=str(path), hint="check its quotes") from error
    except UnicodeError as error:
        hint = "store it as UTF-8, or with task=table give task.encoding=, such as latin-1"
        raise DataError(
            f"is not text in {encoding.removesuffix('-sig')}", where=str(path), hint=hint
        ) from error
    except TypeError as error:
        hint = "allowed: one character such as ';', or tab"
        raise ConfigError(
            f"{mark!r} is not a delimiter", where="task.delimiter", hint=hint
        ) from error
    except (LookupError, ValueError) as error:
        hint = "give one such as utf-8, latin-1, cp1252 or utf-16"
        raise ConfigError(
            f"{encoding!r} is not an encoding", where="task.encoding", hint=hint
        ) from error
