"""Which arrays of which files, and which of their rows, make up train, validation and test, or new data.

Shapes: n samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.own_data import file_paths
from orca_cli.data.settings import check_rules
from orca_cli.data.splits import PART_NAMES, group_rows, marked_rows
from orca_cli.data.targets import as_text
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import ConfigError, DataError


@dataclass(frozen=True)
class Pair:
    """Inputs, targets, and possibly lengths and groups with one row per sample, not yet read."""

    x: StoredArray
    y: StoredArray
    lengths: StoredArray | None = None
    group: StoredArray | None = None


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
        x, y = _named(arrays, self.x + ending, path), _named(arrays, self.y + ending, path)
        lengths = arrays.get(f"{self.lengths}{ending}")
        if self.needs_lengths:
            lengths = _named(arrays, f"{self.lengths}{ending}", path)
        return Pair(x, y, lengths, None if self.group is None else _named(arrays, self.group + ending, path))


def _named(arrays: dict[str, StoredArray], name: str, path: Path) -> StoredArray:
    if name not in arrays:
        hint = f"{_held(arrays)}; task.x, task.y, task.lengths and task.group name others"
        raise DataError(f"no array '{name}'", where=str(path), hint=hint)
    return arrays[name]


def _held(arrays: dict[str, StoredArray]) -> str:
    return f"it holds {', '.join(sorted(arrays)) or 'nothing'}"


def locate(
    files: dict[str, tuple[str | None, str | None]], names: Names, data_folder: Path
) -> tuple[Pair, dict[str, np.ndarray], dict[str, Pair]]:
    """Return the arrays that hold the training split, the rows of them that each split takes, and those of other splits.

    Rows are given for train and for the splits that an array `split` marks. Only headers are read. `files` has a file, or
    None, and the file of its targets, or None, of each split.

    Raises:
        ConfigError: an .npy file without targets, a split that is given twice, or one file for two splits.
    """
    pairs: dict[str, Pair] = {}
    rows: dict[str, np.ndarray] = {}
    label_keys = {part: "labels" if part == "train" else f"{part}_labels" for part in files}
    label_paths = file_paths({label_keys[part]: labels for part, (_, labels) in files.items()}, data_folder)
    if alone := [part for part, (file, labels) in files.items() if file is None and labels is not None]:
        hint = f"give task.{alone[0]}=FILE.npy"
        raise ConfigError("given without its inputs", where=f"task.{label_keys[alone[0]]}", hint=hint)
    for part, path in file_paths({part: file for part, (file, _) in files.items()}, data_folder).items():
        label_key, label_path = f"task.{label_keys[part]}", label_paths.get(label_keys[part])
        arrays = open_arrays(path, f"task.{part}")
        if part in pairs or part in rows:
            raise ConfigError("the training file already holds this split", where=f"task.{part}", hint="remove it")
        if "" in arrays:
            pairs[part] = _from_npy(arrays[""], path, label_path, label_key, names)
        elif label_path is not None:
            raise ConfigError("applies to .npy files", where=label_key, hint=f"{path.name} holds its own targets")
        elif part == "train":
            pairs, rows = _from_training_npz(arrays, names, path)
        else:
            pairs[part] = names.pair(arrays, path)
    for pair in pairs.values():
        _check_rows(pair.x, pair.y, pair.group)
        if pair.group is not None and len(pair.group.shape) != 1:
            raise DataError(f"has shape {pair.group.shape}", where=pair.group.where, hint="one group per sample")
    lacking = [pair.x.where for pair in pairs.values() if pair.lengths is None]
    if 0 < len(lacking) < len(pairs):  # padding would pass for data
        hint = "add them to every split, or ignore them with task.padding=none"
        raise DataError("has no lengths, but another split has", where=lacking[0], hint=hint)
    base = pairs.pop("train")
    return base, rows or {"train": np.arange(base.x.shape[0])}, pairs


def _from_npy(x: StoredArray, path: Path, label_path: Path | None, label_key: str, names: Names) -> Pair:
    """Return the inputs of an .npy file and the targets of another file."""
    hint = f"{path.name} is one array: store all in an .npz file"
    check_rules(
        (names.needs_lengths, "lengths", "applies to .npz files", hint),
        (names.group is not None, "group", "applies to .npz files", hint),
    )
    if label_path is None:
        what, hint = (
            f"{path.name} is one array, without targets",
            f"give {label_key}=FILE.npy, or store both in an .npz file",
        )
        raise ConfigError(what, where=label_key, hint=hint)
    labels = open_arrays(label_path, label_key)
    return Pair(x, labels[""] if "" in labels else _named(labels, names.y, label_path))


def _check_rows(x: StoredArray, *others: StoredArray | None) -> None:
    """Refuse inputs without samples, and other arrays of another number."""
    if not x.shape or x.shape[0] == 0:
        raise DataError("no samples", where=x.where, hint="give a file with samples")
    for other in others:
        if other is not None and other.shape[:1] != x.shape[:1]:
            what = f"shape {other.shape} does not match inputs of shape {x.shape}"
            raise DataError(what, where=other.where, hint="all arrays need one row per sample")


def _from_training_npz(
    arrays: dict[str, StoredArray], names: Names, path: Path
) -> tuple[dict[str, Pair], dict[str, np.ndarray]]:
    """Return the parts with arrays of their own, and the rows of the parts that an array `split` marks."""
    pairs: dict[str, Pair] = {}
    for part in PART_NAMES:
        if ending := _ending(arrays, names.x, part):
            pairs[part] = names.pair(arrays, path, ending)
    rows: dict[str, np.ndarray] = {}
    if "train" not in pairs or names.x in arrays:
        pair = names.pair(arrays, path)
        rows = _rows_of_splits(arrays["split"], pair.x.shape[:1]) if "split" in arrays else {}
        if twice := [part for part in pairs if part == "train" or part in rows]:
            raise DataError(f"holds the {twice[0]} split twice", where=str(path), hint=_held(arrays))
        pairs["train"] = pair
    return pairs, rows


def _ending(arrays: dict[str, StoredArray], name: str, part: str) -> str:
    """Return the ending of the arrays of a split, such as `_val`; empty where the inputs of this name have none."""
    return next((f"_{word}" for word in PART_NAMES[part] if f"{name}_{word}" in arrays), "")


def _rows_of_splits(stored: StoredArray, shape: tuple[int, ...], for_training: bool = True) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks; see `marked_rows`."""
    if stored.shape != shape:
        raise DataError(f"has shape {stored.shape}, expected {shape}", where=stored.where, hint="one mark per sample")
    return marked_rows(as_text(stored.read(), stored.where), stored.where, for_training=for_training)


def read_groups(
    base: Pair, rows: dict[str, np.ndarray], others: dict[str, Pair]
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the group of each training array's row, [N] int64, -1 where no split has it, and of other splits' samples.

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

    Targets are None if the file has none, lengths if `names` (of inputs, targets and lengths) has none, rows if all are
    requested. A part is inputs called so (x_test), or rows that an array `split` marks; empty takes all.

    Raises:
        DataError: no such array or part, no samples, or targets of another number.
        ConfigError: a part of an .npy file.
    """
    arrays = open_arrays(path, where)
    if part and "" in arrays:
        raise ConfigError("applies to .npz files", where="--part", hint=f"{path.name} holds one array")
    x_name, y_name, lengths_name = ("", "y", None) if "" in arrays else names
    ending, rows = _ending(arrays, x_name, part) if part else "", None
    if part and not ending and x_name in arrays and "split" in arrays:
        rows = _rows_of_splits(arrays["split"], arrays[x_name].shape[:1], for_training=False).get(part)
    if part and not ending and rows is None:
        raise DataError(f"has no part '{part}'", where=str(path), hint=_held(arrays))
    for name in (x_name, lengths_name):
        if name is not None and name + ending not in arrays:
            parts = [part for part in PART_NAMES if _ending(arrays, x_name, part)]
            advice = f"take a part of it by --part {parts[-1]}" if parts else "the model was trained with it"
            raise DataError(f"no array '{name}{ending}'", where=str(path), hint=f"{_held(arrays)}; {advice}")
    x, y = arrays[x_name + ending], arrays.get(y_name + ending)
    lengths = None if lengths_name is None else arrays[lengths_name + ending]
    _check_rows(x, y, lengths)
    return x, y, lengths, rows
