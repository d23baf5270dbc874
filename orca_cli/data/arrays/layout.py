"""Which arrays of which files, and which of their rows, make up train, validation and test, or new data.

A folder holds .npy files, a sequence each, and for training a table that says which file is of which class.

Shapes: n files; a sequence has l steps of its own, and C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from orca_cli.data.own_data import file_path, file_paths, listed
from orca_cli.data.splits import PART_NAMES, group_rows, marked_rows
from orca_cli.data.table.files import open_table
from orca_cli.data.table.target_columns import read_listed
from orca_cli.data.targets import as_text
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind

_TABLES = (".csv", ".tsv", ".parquet")
_MARK = "mark samples with train (or 0)"


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


@dataclass(frozen=True)
class Pair:
    """Inputs, targets, and possibly lengths and groups with one row per sample, not yet read.

    `outputs` are names of labels or numbers, and `note` is on what was not read; both may be empty.
    """

    x: StoredArray | StoredRows
    y: StoredArray
    lengths: StoredArray | None = None
    group: StoredArray | None = None
    outputs: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Names:
    """Names of arrays in .npz files.

    `lengths` may be absent unless `needs_lengths`, and None ignores it; a `group` has to be there.
    """

    x: str
    y: str
    lengths: str | None = None
    needs_lengths: bool = False
    group: str | None = None

    def pair(self, arrays: dict[str, StoredArray], path: Path, ending: str = "") -> Pair:
        """Return the arrays whose names have an ending, such as `_train`."""
        lengths = group = None
        if self.lengths is not None and (self.needs_lengths or self.lengths + ending in arrays):
            lengths = _named(arrays, self.lengths + ending, path)
        if self.group is not None:
            group = _named(arrays, self.group + ending, path, "task.group")
        return Pair(_named(arrays, self.x + ending, path), _named(arrays, self.y + ending, path), lengths, group)


def _named(arrays: dict[str, StoredArray], name: str, path: Path, key: str = "") -> StoredArray:
    if name not in arrays:
        named = f"{key}= names another one" if key else "name inputs and targets with task.x= and task.y="
        raise DataError(f"no array '{name}'", where=str(path), hint=f"{_held(arrays)}; {named}")
    return arrays[name]


def _held(arrays: dict[str, StoredArray]) -> str:
    return f"it holds {', '.join(sorted(arrays)) or 'nothing'}"


def locate(
    files: dict[str, tuple[str | None, str | None]], names: Names, data_folder: Path, kind: Kind, missing: bool
) -> tuple[Pair, dict[str, np.ndarray], dict[str, Pair]]:
    """Return the arrays that hold the training split, the rows of them that each split takes, and those of other splits.

    Rows are given for train and for the splits that an array `split` marks. Only headers are read.

    Args:
        files: train, validation, test -> (file or folder or None, file of its targets or None). Train has a file.
        names: of the arrays in .npz files.
        data_folder: relative file names that do not exist in the working folder are looked for here.
        kind, missing: of the targets, and whether some may be missing, where a table holds them.

    Raises:
        ConfigError: an .npy file without targets, a split that is given twice, or one file for two splits.
    """
    pairs: dict[str, Pair] = {}
    rows: dict[str, np.ndarray] = {}
    for part, path in file_paths({part: file for part, (file, _) in files.items()}, data_folder).items():
        label_file = None if files[part][1] is None else file_path(str(files[part][1]), data_folder)
        label_key = "task.labels" if part == "train" else f"task.{part}_labels"
        marked: dict[str, np.ndarray] = {}
        if path.is_dir():
            pair, marked = _from_folder(path, label_file, label_key, names, kind, missing)
            file_pairs = {part: pair}
            if marked and part == "train" and "train" not in marked:
                raise DataError("no training samples", where=str(path), hint=_MARK)
        elif "" in (arrays := open_arrays(path, f"task.{part}")):
            file_pairs = {part: _from_npy(arrays[""], path, label_file, label_key, names)}
        elif label_file is not None:
            raise ConfigError("applies to .npy files", where=label_key, hint=f"{path.name} holds its own targets")
        elif part == "train":
            file_pairs, marked = _from_training_npz(arrays, names, path)
        else:
            file_pairs = {part: names.pair(arrays, path)}
        if part == "train":
            rows = marked
        elif part in pairs or part in rows:
            raise ConfigError("the training file already holds this split", where=f"task.{part}", hint="remove it")
        pairs |= file_pairs
    _check(pairs)
    base = pairs.pop("train")
    return base, rows or {"train": np.arange(base.x.shape[0])}, pairs


def _check(pairs: dict[str, Pair]) -> None:
    """Refuse pairs without one row per sample, and lengths in only some splits: in the others padding would pass for data."""
    for pair in pairs.values():
        _check_rows(pair.x, pair.y)
        if pair.group is not None and pair.group.shape != pair.x.shape[:1]:
            what = f"has shape {pair.group.shape}, expected {pair.x.shape[:1]}"
            raise DataError(what, where=pair.group.where, hint="one group per sample")
    having = [part for part, pair in pairs.items() if pair.lengths is not None or isinstance(pair.x, StoredRows)]
    lacking = [part for part in pairs if part not in having]
    if having and lacking:
        what = f"has no lengths, but the {having[0]} split has"
        hint = "add them to every split, or ignore them with task.padding=none"
        raise DataError(what, where=pairs[lacking[0]].x.where, hint=hint)


def _check_rows(x: StoredArray | StoredRows, y: StoredArray | None) -> None:
    """Refuse inputs without samples, and targets of another number."""
    if not x.shape or x.shape[0] == 0:
        raise DataError("no samples", where=x.where, hint="give a file with samples")
    if y is not None and y.shape[:1] != x.shape[:1]:
        what = f"shape {y.shape} does not match inputs of shape {x.shape}"
        raise DataError(what, where=y.where, hint="inputs and targets need one row per sample")


def _from_folder(
    path: Path, table: Path | None, key: str, names: Names, kind: Kind, missing: bool
) -> tuple[Pair, dict[str, np.ndarray]]:
    """Return a split that is a folder of files, and the rows of the parts that its table marks.

    Args:
        path: of .npy files; subfolders belong to it.
        table: .csv, .tsv or .parquet, see `read_listed`; None takes the only one in the folder.
        key: the setting that names the table, for messages.
        names, kind, missing: as those of `locate`; inputs and targets are columns of the table.
    """
    if names.lengths is None or names.needs_lengths:
        key = "task.lengths" if names.needs_lengths else "task.padding"
        raise ConfigError("applies to arrays of one shape", where=key, hint=f"remove it: files of {path} have lengths")
    if kind == "dense":
        hint = "store them in one .npz file with an array of lengths"
        raise ConfigError("dense targets do not go with a folder of files", where="task.kind", hint=hint)
    place = {name: name for name in _files(path)}
    if table is None:
        tables = sorted(one for one in path.iterdir() if one.suffix.lower() in _TABLES)
        if len(tables) != 1:
            what = f"{path} holds {len(tables)} tables" if tables else "a value is needed"
            hint = "give the .csv that has a row for each file of the folder, with its target"
            raise ConfigError(what, where=key, hint=hint)
        table = tables[0]
    place |= {name.removesuffix(".npy"): name for name in place}
    columns, keys = (names.x, names.y, names.group), ("task.x", "task.y")
    opened = open_table(table, key, None, None)
    held = read_listed(opened, path, place, "an .npy file", columns, keys, kind, missing)
    x, _ = open_folder(path, held.files)
    outputs = () if kind == "classes" else held.outputs
    marked = {} if held.split is None else rows_of_splits(held.split, held.y.shape[:1])
    return Pair(x, held.y, None, held.group, outputs, "; ".join(held.notes)), marked


def _from_npy(x: StoredArray, path: Path, label_path: Path | None, key: str, names: Names) -> Pair:
    if names.needs_lengths:
        hint = "give task.padding=nan where inputs end in steps of NaN, or store both in an .npz file"
        raise ConfigError(f"{path.name} is one array, which has no lengths", where="task.lengths", hint=hint)
    if names.group is not None:
        hint = "store inputs, targets and groups in an .npz file"
        raise ConfigError(f"{path.name} is one array, which has no groups", where="task.group", hint=hint)
    if label_path is None:
        raise ConfigError("a value is needed", where=key, hint=f"give the file with the targets of {path.name}")
    arrays = open_arrays(label_path, key)
    return Pair(x, arrays[""] if "" in arrays else _named(arrays, names.y, label_path))


def _from_training_npz(
    arrays: dict[str, StoredArray], names: Names, path: Path
) -> tuple[dict[str, Pair], dict[str, np.ndarray]]:
    """Return the parts with arrays of their own, and the rows of the parts that an array `split` marks."""
    pairs: dict[str, Pair] = {}
    for part, words in PART_NAMES.items():
        for word in words:
            if f"{names.x}_{word}" in arrays and part not in pairs:
                pairs[part] = names.pair(arrays, path, f"_{word}")
    rows: dict[str, np.ndarray] = {}
    if "train" not in pairs or names.x in arrays:
        pair = names.pair(arrays, path)
        rows = rows_of_splits(arrays["split"], pair.x.shape[:1]) if "split" in arrays else {}
        if rows and "train" not in rows:
            raise DataError("no training samples", where=arrays["split"].where, hint=_MARK)
        if twice := [part for part in pairs if part == "train" or part in rows]:
            raise DataError(f"holds the {twice[0]} split twice", where=str(path), hint=_held(arrays))
        pairs["train"] = pair
    read = [array for pair in pairs.values() for array in (pair.x, pair.y, pair.lengths, pair.group)]
    left = [name for name, array in arrays.items() if name != "split" and not any(array is one for one in read)]
    if left:
        pairs["train"] = replace(pairs["train"], note=f"not read: {listed(sorted(left))}")
    return pairs, rows


def rows_of_splits(stored: StoredArray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks, of those that have any."""
    if stored.shape != shape:
        raise DataError(f"has shape {stored.shape}, expected {shape}", where=stored.where, hint="one mark per sample")
    marks = as_text(stored.read(), stored.where)
    rows = marked_rows(marks)
    unknown = np.setdiff1d(np.arange(len(marks)), np.concatenate([*rows.values(), []]))
    if len(unknown):
        what = f"'{marks[int(unknown[0])]}' at index {int(unknown[0])} is not a split"
        raise DataError(what, where=stored.where, hint="allowed: train, validation, test, or 0, 1, 2")
    return rows


def read_groups(
    base: Pair, rows: dict[str, np.ndarray], others: dict[str, Pair]
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the group of each training array's row, [N] int64, -1 where no split has it, and of other splits' samples.

    Args:
        base, rows, others: as `locate` returns them.

    Raises:
        DataError: a group is in two splits, or a sample has none.
    """
    if base.group is None:
        return None, {}
    values = base.group.read()
    values_by_part = {part: values[chosen] for part, chosen in rows.items()}
    where = {part: base.group.where + (f" ({part})" if len(rows) > 1 else "") for part in rows}
    for part, pair in others.items():
        assert pair.group is not None
        values_by_part[part], where[part] = pair.group.read(), pair.group.where
    records = group_rows(values_by_part, where)
    groups = np.full(len(values), -1, dtype=np.int64)
    for part, chosen in rows.items():
        groups[chosen] = records[part]
    return groups, records


def locate_new(
    path: Path, where: str, names: tuple[str, str, str | None], part: str
) -> tuple[StoredArray, StoredArray | None, StoredArray | None, np.ndarray | None]:
    """Return inputs, targets and lengths of new samples, of which only headers are read, and the rows that are requested.

    Targets are None if the file has none, lengths if `names` or the file has none, rows if all are requested.

    Args:
        path: .npz file with inputs and possibly targets, or .npy file of inputs.
        where: what names it, for messages.
        names: of inputs, targets and, where sequences have some, lengths in .npz files.
        part: train, validation or test: inputs called so (x_test), or rows that an array `split` marks; empty for all.

    Raises:
        DataError: no such array or part, no samples, or targets of another number.
        ConfigError: a part of an .npy file.
    """
    arrays = open_arrays(path, where)
    if part and "" in arrays:
        raise ConfigError("applies to .npz files", where="--part", hint=f"{path.name} holds one array")
    x_name, y_name, lengths_name = ("", "y", None) if "" in arrays else names
    ending, rows = "", None
    if part:
        word = next((word for word in PART_NAMES[part] if f"{x_name}_{word}" in arrays), None)
        if word is None and x_name in arrays and "split" in arrays:
            rows = rows_of_splits(arrays["split"], arrays[x_name].shape[:1]).get(part)
        if word is None and rows is None:
            raise DataError(f"has no part '{part}'", where=str(path), hint=_held(arrays))
        ending = "" if word is None else f"_{word}"
    elif x_name not in arrays:
        parts = [part for part, words in PART_NAMES.items() if any(f"{x_name}_{word}" in arrays for word in words)]
        advice = f"take a part of it by --part {parts[-1]}" if parts else f"the model was trained on '{x_name}'"
        raise DataError(f"no array '{x_name}'", where=str(path), hint=f"{_held(arrays)}; {advice}")
    x, y, lengths = arrays[x_name + ending], arrays.get(y_name + ending), None
    if lengths_name is not None:
        lengths = arrays.get(lengths_name + ending)
        if lengths is None:
            hint = f"the model was trained on sequences with an array of lengths; {_held(arrays)}"
            raise DataError(f"no array '{lengths_name + ending}'", where=str(path), hint=hint)
    _check_rows(x, y)
    if lengths is not None and lengths.shape != x.shape[:1]:
        raise DataError(f"has shape {lengths.shape}, expected {x.shape[:1]}", where=lengths.where)
    return x, y, lengths, rows


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
    if len(files[0].shape) == 2:  # (C, l), or (l, C): name one of the fewest with other channels
        usual = [Counter(file.shape[axis] for file in files).most_common(1)[0] for axis in (0, 1)]
        axis = 0 if usual[0][1] >= usual[1][1] else 1
        size, count = usual[axis]
        if count < len(files) and 2 * count > len(files):
            odd = next(file for file in files if file.shape[axis] != size)
            what = f"has shape {odd.shape}, where {count} of {len(files)} files have {size} channels on axis {axis}"
            hint = "sequences of a folder have the same channels, on the same axis"
            raise DataError(what, where=odd.where, hint=hint)
    shape = tuple(max(sizes) for sizes in zip(*(file.shape for file in files), strict=True))
    dtype = np.result_type(*{file.dtype for file in files})
    return StoredRows(str(folder), (len(files), *shape), dtype, files), chosen


def _files(folder: Path) -> list[str]:
    """Return the names of the .npy files of a folder and its subfolders, sorted."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    if not names:
        hint = "give an .npz file, or a folder of .npy files, a sequence each"
        raise DataError("is a folder without .npy files", where=str(folder), hint=hint)
    return names
