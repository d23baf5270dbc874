"""A folder of .npy files, a sequence each, and a table that says which file is of which class.

Shapes: n files, C channels, K outputs; a sequence has l steps of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.tasks.shared.own_data import check_column, listed
from orca_cli.tasks.table.files import Table, open_table
from orca_cli.tasks.table.target_columns import raw_targets, refuse_measurements
from orca_cli.untrusted.arrays import StoredArray, open_arrays

_TABLES = (".csv", ".tsv", ".parquet")
_SPLIT = "split"


class Rows(Sequence[np.ndarray]):
    """Arrays in files of their own, mapped when they are asked for."""

    def __init__(self, files: Sequence[StoredArray]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice) -> Rows: ...
    def __getitem__(self, key: int | slice) -> np.ndarray | Rows:
        """Return one array, or some of them unread."""
        return Rows(self._files[key]) if isinstance(key, slice) else self._files[key].read()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each array, without reading it."""
        return [file.shape for file in self._files]


@dataclass(frozen=True)
class StoredRows:
    """Sequences in files whose headers were read and found harmless; as `StoredArray`.

    Args:
        where: the folder, for messages.
        shape: (n, ...), along every axis the largest of all files.
        dtype: that holds all of them.
        files: of the sequences.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    files: tuple[StoredArray, ...]

    def read(self) -> Rows:
        """Return the sequences."""
        return Rows(self.files)


@dataclass(frozen=True)
class Labelled:
    """The sequences of a folder that a table names, in its order.

    Args:
        x: the sequences.
        y: their targets.
        outputs: names of the target columns.
        group: the column of groups; None where there is none.
        split: the column `split`; None where there is none.
        note: on files that the table does not name; empty where there are none.
    """

    x: StoredRows
    y: StoredArray
    outputs: tuple[str, ...]
    group: StoredArray | None
    split: StoredArray | None
    note: str


def open_folder(folder: Path, names: Sequence[str] | None = None) -> tuple[StoredRows, list[str]]:
    """Return the sequences of a folder and its subfolders, by name or as given, and their names.

    Raises:
        DataError: there are none, one is damaged, or they have different numbers of axes.
    """
    chosen = _files(folder) if names is None else list(names)
    files = tuple(open_arrays(folder / name, str(folder / name))[""] for name in chosen)
    for file in files:
        if 0 in file.shape:
            raise DataError(f"has shape {file.shape}: no steps", where=file.where, hint="remove this sequence")
        if len(file.shape) != len(files[0].shape):
            what = f"has shape {file.shape}, {chosen[0]} has {files[0].shape}"
            raise DataError(what, where=file.where, hint="sequences are (l), or (C, l) with any number of steps l")
    shape = tuple(max(sizes) for sizes in zip(*(file.shape for file in files), strict=True))
    dtype = np.result_type(*{file.dtype for file in files})
    return StoredRows(str(folder), (len(files), *shape), dtype, files), chosen


def open_labelled(
    folder: Path, table_file: Path | None, key: str, names: tuple[str, str, str | None], kind: str, missing: bool
) -> Labelled:
    """Return the sequences of a folder with their targets.

    The table has a column of files, named as `names` says or recognised by what it holds, and the target as its other column,
    or as `names` says; all others for labels and values. A column `split` says train, validation or test.

    Args:
        folder: of .npy files; subfolders belong to it.
        table_file: .csv, .tsv or .parquet; None takes the only one in the folder.
        key: the setting that names the table, for messages.
        names: of the columns of files, targets and, where there are any, groups.
        kind: of the targets: classes, labels or values.
        missing: whether targets may be empty.

    Raises:
        ConfigError: no table, or columns that cannot be told apart.
        DataError: a file that is named does not exist, or the targets are not of that kind.
    """
    if kind == "dense":
        hint = "store them in one .npz file with an array of lengths"
        raise ConfigError("dense targets do not go with a folder of files", where="task.kind", hint=hint)
    place = {name: name for name in _files(folder)}
    table = open_table(table_file or _only_table(folder, key), key, None, None)
    place |= {name.removesuffix(".npy"): name for name in place}
    columns, where = table.read(table.columns), str(table.path)
    of_files = _file_column(table, columns, names[0], place.__contains__, folder)
    group = names[2]
    if group is not None:
        check_column(group, table.columns, "task.group", table.path.name)
    others = [name for name in table.columns if name not in (of_files, _SPLIT, group) and name not in table.unnamed]
    outputs = [names[1]] if names[1] in others else others
    if not outputs or (kind == "classes" and len(outputs) > 1):
        what = f"which column is the target? It has {listed(others) or 'no other column'}"
        raise ConfigError(what, where=where, hint="name it with task.y=COLUMN")
    texts = columns[of_files]
    absent = [row for row, name in enumerate(texts) if str(name) not in place]
    if absent:
        what = f"'{texts[absent[0]]}' in row {absent[0] + 1} is not an .npy file of {folder} ({len(absent)} rows)"
        raise DataError(what, where=f"{where}[{of_files}]", hint="correct the name, or remove the row")
    files = [place[str(name)] for name in texts]
    if len(set(files)) < len(files):
        twice = next(name for i, name in enumerate(files) if name in files[:i])
        raise DataError(f"names '{twice}' twice", where=f"{where}[{of_files}]", hint="remove one of the rows")
    x, _ = open_folder(folder, files)
    targets, origin = raw_targets(columns, kind, outputs, missing, where, ".")
    if kind == "classes":
        refuse_measurements(targets, origin)
    split = _stored(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]") if _SPLIT in table.columns else None
    unnamed = len(set(place.values())) - len(files)
    note = f"{unnamed} files of {folder.name} have no row in {table.path.name} and are not read" if unnamed else ""
    groups = None if group is None else _stored(columns[group].astype(str), f"{where}[{group}]")
    return Labelled(x, _stored(targets, origin), tuple(outputs), groups, split, note)


def _files(folder: Path) -> list[str]:
    """Return the names of the .npy files of a folder and its subfolders, sorted."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    if not found:
        hint = "give an .npz file, or a folder of .npy files, a sequence each"
        raise DataError("is a folder without .npy files", where=str(folder), hint=hint)
    return found


def _only_table(folder: Path, key: str) -> Path:
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLES)
    if len(tables) != 1:
        what = f"{folder} holds {len(tables)} tables" if tables else "a value is needed"
        hint = "give the .csv that has a row for each file of the folder, with its target"
        raise ConfigError(what, where=key, hint=hint)
    return tables[0]


def _file_column(
    table: Table, columns: dict[str, np.ndarray], name: str, is_file: Callable[[str], bool], folder: Path
) -> str:
    """Return the column of files: the one of that name, or else the first of which most entries are files."""
    if name in columns:
        return name
    share = {column: np.mean([is_file(str(value)) for value in values]) for column, values in columns.items()}
    best = max(table.columns, key=lambda column: share[column])
    if share[best] == 0:
        what = f"no column names files of {folder}"
        raise ConfigError(what, where=str(table.path), hint="name it with task.x=COLUMN; allowed: a.npy, or a")
    return best


def _stored(values: np.ndarray, where: str) -> StoredArray:
    """Return an array that is in memory as if it were in a file."""
    return StoredArray(
        where, values.shape, values.dtype, lambda: values, lambda: lambda start, stop: values[start:stop]
    )
