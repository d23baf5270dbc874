"""The columns of a table that are to be predicted: their kind, and their values as targets; also of a table that names files.

DataError for values that are not of that kind.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.own_data import check_column, listed, refuse_entry, refuse_rows
from orca_cli.data.table.columns import as_numbers, decimal_mark, has_decimal_commas, is_missing
from orca_cli.data.table.files import Table
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind

_SPLIT = "split"
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
_NAME = re.compile(r"[+-]?0[0-9].*")  # 01 and 007 are names
_BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_MOST_CLASSES = 20  # different numbers that may be classes
_POINTS = "beside \"task.decimal=','\" points part thousands: write its numbers with a comma"
_ALLOW = "remove these rows, or set task.missing_targets=true to leave them out of the loss"
_COMMAS = "write decimal points, or with task=table give \"task.decimal=','\""


def infer_kind(
    values: Mapping[str, np.ndarray], names: Sequence[str], decimal: str, where: str
) -> tuple[Kind, list[str]]:
    """Return the kind of the columns to be predicted, and a note on it: numbers are values, text is classes.

    Whole numbers of at most 20 different values are classes, where there is one column. Several columns are labels if they
    hold nothing but 0 and 1 (or false and true), or else numbers.

    Raises:
        DataError: one of several columns is text.
    """
    if len(names) > 1:
        if all(not _unread_bits(values[name])[1].any() for name in names):
            return "labels", [f"{listed(names)} read as labels (task.kind=values predicts numbers)"]
        text = [name for name in names if as_numbers(values[name], decimal)[1].any()]
        if text:
            hint = "several columns are labels of 0 and 1, or numbers; give one with task.target="
            raise DataError(f"'{text[0]}' holds text", where=f"{where}[{text[0]}]", hint=hint)
        return "values", [f"{listed(names)} read as numbers to predict (task.kind=values)"]
    column = values[names[0]]
    numbers, wrong = as_numbers(column, decimal)
    known = numbers[~np.isnan(numbers)]
    is_text = column.dtype.kind not in "fiub"
    what, place = "is a number only with a decimal", f"{where}[{names[0]}]"
    if wrong.any() and has_decimal_commas(column, decimal):
        hint = f"{_COMMAS}; task.kind=classes reads names of classes"
        refuse_entry(wrong, column, f"{what} comma", place, hint)
    if decimal_mark(column, decimal) != decimal:
        refuse_entry(wrong, column, f"{what} point", place, f"{_POINTS}, or give task.kind=classes")
    if wrong.any() or not len(known) or (is_text and any(_NAME.fullmatch(text) for text in column)):
        return "classes", []
    if len(distinct := np.unique(known)) <= _MOST_CLASSES and (distinct == np.round(distinct)).all():
        return "classes", [f"{names[0]}: whole numbers read as classes (task.kind=values predicts the number)"]
    return "values", [f"{names[0]} read as numbers to predict (task.kind=values; task.kind=classes for classes)"]


def raw_targets(
    values: Mapping[str, np.ndarray],
    kind: str,
    names: Sequence[str],
    missing: bool,
    where: str,
    decimal: str,
    text: bool | None = None,
) -> tuple[np.ndarray, str]:
    """Return target columns as class labels [n], or as bits or numbers [n, K]; and their origin, for messages.

    `text` says whether classes are text in the training rows; None infers it from the values.
    """
    if kind == "classes":
        place = f"{where}[{names[0]}]"
        return _class_labels(values[names[0]], place, text), place
    if kind == "values":
        columns = [_target_numbers(values[name], decimal, f"{where}[{name}]", missing) for name in names]
        return np.stack(columns, axis=1), f"{where}[{names[0]}]" if len(names) == 1 else where
    return np.stack([_bits(values[name], f"{where}[{name}]", missing) for name in names], axis=1), where


def _class_labels(values: np.ndarray, where: str, text: bool | None) -> np.ndarray:
    """Return class labels [n] as numbers where all of them are integers, or else as text.

    In text only the form tells numbers from names: 1, 2 and 3.0 are integers, 01 and 1.5 are names.
    """
    if values.dtype.kind in "fiub":
        refuse_rows(np.isnan(values.astype(np.float64)), "target", where, "remove these rows")
        return values
    refuse_rows(values == "", "target", where, "remove these rows")
    if text is None:
        text = not all(_INTEGER.fullmatch(value) for value in values)
    if text:
        return values.astype(str)
    try:
        return values.astype(np.float64)
    except ValueError:
        return values.astype(str)  # truths, or refused beside training labels that are numbers


def refuse_measurements(labels: np.ndarray, where: str) -> None:
    """Refuse numbers with a fraction where too many differ for names of classes."""
    distinct = np.unique(labels)
    if labels.dtype.kind in "iub" or len(distinct) <= _MOST_CLASSES:
        return
    try:
        numbers = distinct.astype(np.float64)
    except ValueError:
        return
    broken = numbers != np.round(numbers)
    if broken.any():
        what = f"holds {len(distinct)} different numbers, such as {distinct[broken.argmax()]}, which are not classes"
        raise DataError(what, where=where, hint="predict the number with task.kind=values, or bin it into classes")


def _target_numbers(values: np.ndarray, decimal: str, where: str, missing: bool) -> np.ndarray:
    """Return a column as [n] float64; NaN for empty fields."""
    numbers, wrong = as_numbers(values, decimal)
    if wrong.any():
        hint = "correct it, or use task.kind=classes for names of classes"
        hint = _COMMAS if has_decimal_commas(values, decimal) else hint
        hint = _POINTS if decimal_mark(values, decimal) != decimal else hint
        refuse_entry(wrong, values, "is not a number", where, hint)
    if not missing:
        refuse_rows(np.isnan(numbers), "target", where, _ALLOW)
    return numbers


def _bits(values: np.ndarray, where: str, missing: bool) -> np.ndarray:
    """Return a label as [n] float64 of 0, 1 and, for empty fields, NaN."""
    bits, unread = _unread_bits(values)
    if values.dtype.kind in "fiub":  # numbers are refused when they are encoded, with their place
        bits, unread = values.astype(np.float64), np.zeros(len(values), dtype=bool)
    hint = "labels are 0 and 1, or false and true; for numbers use kind=values, for one class per row kind=classes"
    refuse_entry(unread, values, "is neither 0 nor 1", where, hint)
    if not missing:
        refuse_rows(np.isnan(bits), "target", where, _ALLOW)
    return bits


def _unread_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as [n] float64 of 0 and 1, NaN elsewhere; and [n] bool, True for what is neither 0, 1 nor empty."""
    if values.dtype.kind in "fiub":
        bits = values.astype(np.float64)
        unread = (bits != 0) & (bits != 1) & ~np.isnan(bits)
        return np.where(unread, np.nan, bits), unread
    bits = np.array([_BITS.get(text.lower(), np.nan) for text in values])
    return bits, np.isnan(bits) & ~np.array([is_missing(text) for text in values], dtype=bool)


@dataclass(frozen=True)
class ListedFiles:
    """The files that a table names, in its order.

    Args:
        files: n of them, as the folder has them.
        kind: of the targets.
        y: targets as the table holds them: [n] class labels, or [n, K] bits or numbers.
        outputs: names of the target columns.
        group: the column of groups; None where there is none.
        split: the column `split`; None where there is none.
        notes: on the kind where it was inferred, and on files that the table does not name.
    """

    files: tuple[str, ...]
    kind: Kind
    y: StoredArray
    outputs: tuple[str, ...]
    group: StoredArray | None
    split: StoredArray | None
    notes: tuple[str, ...]


def read_listed(
    table: Table,
    folder: Path,
    place: Mapping[str, str],
    what: str,
    names: tuple[str | None, str | None, str | None],
    keys: tuple[str, str],
    kind: Kind | None,
    missing: bool,
    *,
    must_exist: bool = False,
) -> ListedFiles:
    """Return the files that a table names, with their targets.

    The table has a column of files, named or recognised by what it holds, and the target as its other column, or as named;
    all others for labels and values. A column `split` says train, validation or test.

    Args:
        table, folder: of the files, and where these are.
        place: names that a row may give a file -> the file.
        what: what the files are, such as "an .npy file", for messages.
        names: of the columns of files, targets and groups; None where they are not given.
        keys: settings that name the first two, such as task.x and task.y.
        kind, missing: of targets, None infers it as for tables; and whether targets may be empty.
        must_exist: whether a named column of files or targets has to be there; else it is a guess.

    Raises:
        ConfigError: columns that cannot be told apart.
        DataError: a file that is named does not exist, or the targets are not of that kind.
    """
    columns, where, (file, target, group) = table.read(table.columns), str(table.path), names
    for key, name in zip(keys, (file, target), strict=True):
        if must_exist and name is not None:
            check_column(name, table.columns, key, table.path.name)
    if group is not None:
        check_column(group, table.columns, "task.group", table.path.name)
    file = file if file is not None and file in columns else _file_column(columns, place, keys[0], folder, where)
    others = [name for name in table.columns if name not in (file, _SPLIT, group) and name not in table.unnamed]
    outputs = [target] if target is not None and target in others else others
    if not outputs or (kind == "classes" and len(outputs) > 1):
        problem = f"which column is the target? It has {listed(others) or 'no other column'}"
        raise ConfigError(problem, where=where, hint=f"name it with {keys[1]}=COLUMN")
    texts, file_place = list(map(str, columns[file])), f"{where}[{file}]"
    if absent := [row for row, name in enumerate(texts) if name not in place]:
        problem = f"'{texts[absent[0]]}' in row {absent[0] + 1} is not {what} of {folder} ({len(absent)} rows)"
        raise DataError(problem, where=file_place, hint="correct the name, or remove the row")
    files = tuple(place[name] for name in texts)
    if len(set(files)) < len(files):
        seen: set[str] = set()
        twice = next(name for name in files if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"names '{twice}' twice", where=file_place, hint="remove one of the rows")
    chosen, notes = (kind, []) if kind else infer_kind(columns, outputs, ".", where)
    targets, origin = raw_targets(columns, chosen, outputs, missing, where, ".")
    if chosen == "classes":
        refuse_measurements(targets, origin)
    if unnamed := len(set(place.values())) - len(files):
        notes = [*notes, f"{unnamed} files of {folder.name} have no row in {table.path.name} and are not read"]
    split = _stored(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]") if _SPLIT in table.columns else None
    groups = None if group is None else _stored(columns[group].astype(str), f"{where}[{group}]")
    return ListedFiles(files, chosen, _stored(targets, origin), tuple(outputs), groups, split, tuple(notes))


def _file_column(
    columns: Mapping[str, np.ndarray], place: Mapping[str, str], key: str, folder: Path, where: str
) -> str:
    """Return the first of the columns of which most entries are files."""
    share = {name: float(np.mean([str(value) in place for value in values])) for name, values in columns.items()}
    file = max(share, key=lambda name: share[name])
    if share[file] == 0:
        hint = f"name it with {key}=COLUMN; names may be without their ending"
        raise ConfigError(f"no column names files of {folder}", where=where, hint=hint)
    return file


def _stored(values: np.ndarray, where: str) -> StoredArray:
    """Return an array that is in memory as if it were in a file."""
    return StoredArray(where, values.shape, values.dtype, lambda: values)
