"""New rows for a model that was trained on a table: of a file, read in parts, or of a table in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, suggest
from orca_cli.interfaces import NewData
from orca_cli.tasks.shared.own_data import counted, listed
from orca_cli.tasks.table.columns import is_missing
from orca_cli.tasks.table.files import Table, as_columns, plain_columns
from orca_cli.tasks.table.series import Grouped

_PART = 4096  # rows that are read at once from .parquet
_SHOWN = 20  # columns named in a message

Columns = Mapping[str, np.ndarray]


def new_rows(
    table: Table, features: Sequence[str], targets: Sequence[str], encode: Callable[[Columns, str], np.ndarray]
) -> NewData:
    """Return the rows of a file.

    Args:
        table: the file, whose header was read.
        features: columns that the model takes.
        targets: columns that it predicts; where one is absent or all are empty, the rows have no targets.
        encode: makes targets [n, ...] of these columns; it is given their origin as well.

    Raises:
        DataError: a feature is missing, or there are no rows.
    """
    where = str(table.path)
    _check_features(features, table.columns, where)
    count = table.count()
    if count == 0:
        raise DataError("has no rows", where=where, hint="give a file with rows below its header")

    def encoded() -> np.ndarray | None:
        if not set(targets) <= set(table.columns):
            return None
        columns = table.read(list(targets))
        return None if all(_is_empty(column) for column in columns.values()) else encode(columns, where)

    return NewData(count, _Parts(table, features), encoded, where)


def new_series(
    table: Table,
    features: Sequence[str],
    targets: Sequence[str],
    encode: Callable[[Columns, str], np.ndarray],
    group: Callable[[Columns, str], Grouped | None],
) -> NewData:
    """Return the series of a file, which is read at once: the rows of a series may stand anywhere in it.

    Args:
        table, features, targets, encode: as those of `new_rows`; the features include those that say what belongs together.
        group: finds the series in columns.
    """
    where = str(table.path)
    _check_features(features, table.columns, where)
    has_targets = set(targets) <= set(table.columns)
    columns = table.read([*features, *(targets if has_targets else ())])

    def encoded() -> np.ndarray | None:
        known = has_targets and not all(_is_empty(columns[name]) for name in targets)
        return encode(columns, where) if known else None

    return _series({name: columns[name] for name in features}, encoded, where, group)


def given_series(
    x: Any, features: Sequence[str], where: str, group: Callable[[Columns, str], Grouped | None]
) -> NewData:
    """Return the series of a pandas table or a mapping name -> column; arguments as those of `new_series`."""
    if not (isinstance(x, Mapping) or hasattr(x, "columns")):
        what = f"is a {type(x).__name__}, which does not say which series a row is a step of"
        raise DataError(what, where=where, hint=f"give a table with the columns {listed(features, _SHOWN)}")
    rows = given_rows(x, features, where)
    return _series(rows.inputs(0, len(rows)), lambda: None, where, group)


def _series(
    columns: Columns,
    targets: Callable[[], np.ndarray | None],
    where: str,
    group: Callable[[Columns, str], Grouped | None],
) -> NewData:
    grouped = group(columns, where)
    assert grouped is not None

    def inputs(start: int, stop: int) -> Columns:
        rows = grouped.order[grouped.starts[start] : grouped.ends[stop - 1]]
        return {name: column[rows] for name, column in columns.items()}

    return NewData(len(grouped.names), inputs, targets, where, [str(name) for name in grouped.names])


def given_rows(x: Any, features: Sequence[str], where: str) -> NewData:
    """Return the rows of a pandas table, a mapping name -> column, or an array [n, columns] in the order of `features`.

    One row may be a mapping name -> entry or a pandas series, several a list of such mappings.
    """
    import pandas as pd

    x = _of_one_row(x, features)
    try:
        is_named = isinstance(x, Mapping) or hasattr(x, "columns") or _is_records(x)
        frame = pd.DataFrame(x) if is_named else pd.DataFrame(np.asarray(x))
    except ValueError as error:  # columns of different lengths, or more than two axes
        hint = f"give rows with the columns {listed(features, _SHOWN)}"
        raise DataError(f"is not a table ({error})", where=where, hint=hint) from error
    if is_named:
        frame.columns = [str(name) for name in frame.columns]
        _check_features(features, list(frame.columns), where)
        twice = [name for name in features if list(frame.columns).count(name) > 1]
        if twice:
            raise DataError(f"two columns are named '{twice[0]}'", where=where, hint="give them distinct names")
    else:
        if frame.shape[1] != len(features):
            what = f"has {counted(frame.shape[1], 'column')}, the model takes {len(features)}"
            raise DataError(what, where=where, hint=f"in this order: {listed(features, _SHOWN)}")
        frame.columns = list(features)
    if not len(frame):
        raise DataError("has no rows", where=where, hint="give one row or more")
    columns = plain_columns(frame, features, where)

    def inputs(start: int, stop: int) -> Columns:
        return {name: column[start:stop] for name, column in columns.items()}

    return NewData(len(frame), inputs, lambda: None, where)


def _of_one_row(x: Any, features: Sequence[str]) -> Any:
    """Return a mapping or series of single entries as a list of one mapping, and anything else as it is."""
    import pandas as pd

    if isinstance(x, pd.Series) and set(features) & {str(name) for name in x.index}:
        return [x.to_dict()]
    return [x] if isinstance(x, Mapping) and x and all(np.ndim(entry) == 0 for entry in x.values()) else x


def _is_records(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and bool(x) and all(isinstance(row, Mapping) for row in x)


def _check_features(features: Sequence[str], columns: Sequence[str], where: str) -> None:
    missing = [name for name in features if name not in columns]
    if missing:
        what = f"has no column {listed(map(repr, missing))}"
        close = suggest(missing[0], columns)
        hint = f"{close} " if close.startswith("did you mean") else ""
        raise DataError(what, where=where, hint=f"{hint}the model was trained on {listed(features, _SHOWN)}")


def _is_empty(column: np.ndarray) -> bool:
    if column.dtype.kind == "O":
        return all(map(is_missing, column))
    return bool(np.isnan(column.astype(np.float64)).all())


class _Parts:
    """Columns of rows start..stop-1 by name; going back starts at the first row again."""

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        self._table, self._names = table, names
        self._at = 0
        self._rows: Iterator[Any] | None = None  # fields of a row each, or record batches
        self._rest: Any = None  # of a batch of which not all was asked for

    def __call__(self, start: int, stop: int) -> Columns:
        table, names = self._table, self._names
        if self._rows is None or start < self._at:
            self._at, self._rest = 0, None
            self._rows = table.text_rows(names) if table.delimiter else table.batches(names, _PART)
        skipped, self._at = start - self._at, stop
        if table.delimiter:
            fields = list(islice(self._rows, skipped, skipped + stop - start))
            found, count = as_columns(fields, names), len(fields)
        else:
            batches = list(self._batches(self._rows, skipped, stop - start))
            found, count = table.joined(batches, names), sum(map(len, batches))
        if count < stop - start:
            raise DataError("has changed while it was read", where=str(table.path), hint="repeat the command")
        return found

    def _batches(self, rows: Iterator[Any], skipped: int, count: int) -> Iterator[Any]:
        """Yield the record batches of the next `count` rows after `skipped` ones."""
        while count > 0:
            batch = self._rest if self._rest is not None else next(rows, None)
            if batch is None:
                return
            first, last = min(skipped, len(batch)), min(skipped + count, len(batch))
            self._rest = batch.slice(last) if last < len(batch) else None
            skipped -= first
            count -= last - first
            yield batch.slice(first, last - first)
