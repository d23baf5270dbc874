"""A folder of .npy files, a sequence each, and a table that says which file is of which class.

Shapes: n files, C channels, K outputs; a sequence has l steps of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind
from orca_cli.tasks.table.files import open_table
from orca_cli.tasks.table.listed_files import ListedFiles, read_listed
from orca_cli.untrusted.arrays import StoredArray, open_arrays

_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class StoredRows(Sequence[np.ndarray]):
    """Sequences in files whose headers were read and found harmless; each is mapped when it is asked for.

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

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice) -> StoredRows: ...
    def __getitem__(self, key: int | slice) -> np.ndarray | StoredRows:
        """Return one array, or some of them unread."""
        return replace(self, files=self.files[key]) if isinstance(key, slice) else self.files[key].read()

    def read(self) -> StoredRows:
        """Return the sequences, as those of `StoredArray`."""
        return self


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
    _check_channels(files)
    shape = tuple(max(sizes) for sizes in zip(*(file.shape for file in files), strict=True))
    dtype = np.result_type(*{file.dtype for file in files})
    return StoredRows(str(folder), (len(files), *shape), dtype, files), chosen


def _check_channels(files: Sequence[StoredArray]) -> None:
    """Refuse files [C, l] or [l, C] with different numbers of channels, and name one of the fewest."""
    if len(files[0].shape) != 2:
        return
    usual = [Counter(file.shape[axis] for file in files).most_common(1)[0] for axis in (0, 1)]
    axis = 0 if usual[0][1] >= usual[1][1] else 1
    size, count = usual[axis]
    if count < len(files) and 2 * count > len(files):
        odd = next(file for file in files if file.shape[axis] != size)
        what = f"has shape {odd.shape}, where {count} of {len(files)} files have {size} channels on axis {axis}"
        raise DataError(what, where=odd.where, hint="sequences of a folder have the same channels, on the same axis")


def open_labelled(
    folder: Path, table_file: Path | None, key: str, names: tuple[str, str, str | None], kind: Kind, missing: bool
) -> tuple[StoredRows, ListedFiles]:
    """Return the sequences of a folder that a table names, in its order, and their targets; see `read_listed`.

    Args:
        folder: of .npy files; subfolders belong to it.
        table_file: .csv, .tsv or .parquet; None takes the only one in the folder.
        key: the setting that names the table, for messages.
        names: of the columns of files, targets and, where there are any, groups.
        kind, missing: of the targets, and whether some may be empty.

    Raises:
        ConfigError: no table, or dense targets.
    """
    if kind == "dense":
        hint = "store them in one .npz file with an array of lengths"
        raise ConfigError("dense targets do not go with a folder of files", where="task.kind", hint=hint)
    place = {name: name for name in _files(folder)}
    if table_file is None:
        tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLES)
        if len(tables) != 1:
            what = f"{folder} holds {len(tables)} tables" if tables else "a value is needed"
            hint = "give the .csv that has a row for each file of the folder, with its target"
            raise ConfigError(what, where=key, hint=hint)
        table_file = tables[0]
    table = open_table(table_file, key, None, None)
    place |= {name.removesuffix(".npy"): name for name in place}
    held = read_listed(table, folder, place, "an .npy file", names, ("task.x", "task.y"), kind, missing)
    return open_folder(folder, held.files)[0], held


def _files(folder: Path) -> list[str]:
    """Return the names of the .npy files of a folder and its subfolders, sorted."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    if not found:
        hint = "give an .npz file, or a folder of .npy files, a sequence each"
        raise DataError("is a folder without .npy files", where=str(folder), hint=hint)
    return found
