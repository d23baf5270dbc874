"""Which arrays of which files, and which of their rows, make up train, validation and test, or new data.

The arrays of a split, one row per sample and not yet read, are a mapping from their roles: x, y, lengths, group. `names` are
those of roles in .npz files; the one array of an .npy file takes the name of its role.

Shapes: n samples.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.own_data import check_rules, file_paths
from orca_cli.data.splits import PART_NAMES, group_rows, marked_rows
from orca_cli.data.targets import as_text
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import DataError

Arrays = dict[str, StoredArray]
_OTHER_NAMES = "task.x, task.y, task.lengths and task.group name others"
_LABELS = {"train": "labels", "validation": "validation_labels", "test": "test_labels"}


@dataclass(frozen=True)
class _File:
    """The arrays of a file by name, the names of roles, and the roles that may be absent."""

    path: Path
    arrays: Arrays
    names: Mapping[str, str]
    optional: Container[str]

    def __str__(self) -> str:
        return f"it holds {', '.join(sorted(self.arrays)) or 'nothing'}"

    @property
    def endings(self) -> dict[str, str]:
        """The endings of the splits that have inputs of their own, such as `_val`; the first where there are several."""
        x, held = self.names["x"], self.arrays
        return {part: f"_{word}" for part, words in PART_NAMES.items() for word in words[::-1] if f"{x}_{word}" in held}

    def by_role(self, ending: str, advice: str) -> Arrays:
        """Return the arrays whose names have an ending; where one is absent, `advice` is the hint."""
        names = {role: name + ending for role, name in self.names.items()}
        if absent := [name for role, name in names.items() if name not in self.arrays and role not in self.optional]:
            raise DataError(f"no array '{absent[0]}'", where=str(self.path), hint=f"{self}; {advice}")
        found = {role: self.arrays[name] for role, name in names.items() if name in self.arrays}
        x = found["x"]
        if not x.shape or x.shape[0] == 0:
            raise DataError("no samples", where=x.where, hint="give a file with samples")
        for role, array in found.items():
            if array.shape[:1] != x.shape[:1] or (role in ("group", "split") and len(array.shape) > 1):
                what = f"shape {array.shape} does not match inputs of shape {x.shape}"
                raise DataError(
                    what, where=array.where, hint="arrays need one row per sample, groups and marks one axis"
                )
        return found

    def of_training(self) -> tuple[dict[str, Arrays], dict[str, np.ndarray]]:
        """Return the splits with arrays of their own, and the rows of the splits that an array `split` marks."""
        parts = {part: self.by_role(ending, _OTHER_NAMES) for part, ending in self.endings.items()}
        if "train" in parts and self.names["x"] not in self.arrays:
            return parts, {}
        whole = self.by_role("", _OTHER_NAMES)
        rows = _marked(whole)
        if twice := [part for part in parts if part == "train" or part in rows]:
            raise DataError(f"holds the {twice[0]} split twice", where=str(self.path), hint=str(self))
        return parts | {"train": whole}, rows


def _marked(arrays: Arrays, for_training: bool = True) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks, if there is one; see `marked_rows`."""
    if (marks := arrays.get("split")) is None:
        return {}
    return marked_rows(as_text(marks.read(), marks.where), marks.where, for_training=for_training)


def locate(
    files: Mapping[str, str | None], names: Mapping[str, str], optional: Sequence[str], data_folder: Path
) -> tuple[Arrays, dict[str, np.ndarray], dict[str, Arrays]]:
    """Return the arrays that hold the training split, the rows of them that each split takes, and those of other splits.

    Rows are given for train and for the splits that an array `split` marks. Only headers are read. `files` are the settings of
    the splits and of their labels; roles that are `optional` may be absent from a file.
    """
    paths, parts, rows = file_paths(files, data_folder), dict[str, Arrays](), dict[str, np.ndarray]()
    for part, labels in _LABELS.items():
        path, is_held = paths.get(part), part in parts or part in rows
        check_rules(
            (path is None and labels in paths, labels, "given without its inputs", f"give task.{part}=FILE.npy"),
            (path is not None and is_held, part, "the training file already holds this split", "remove it"),
        )
        if path is None:
            continue
        arrays, alone = open_arrays(path, f"task.{part}"), f"{path.name} is one array, without targets"
        hint = f"give task.{labels}=FILE.npy, or store both in an .npz file"
        check_rules(
            ("" in arrays and labels not in paths, labels, alone, hint),
            (
                "" not in arrays and labels in paths,
                labels,
                "applies to .npy files",
                f"{path.name} holds its own targets",
            ),
        )
        if labels in paths:
            held = open_arrays(paths[labels], f"task.{labels}")
            arrays = {name or names["y"]: array for name, array in held.items()} | {names["x"]: arrays[""]}
        file = _File(path, arrays, {**names, "split": "split"}, (*optional, "split"))
        if part == "train":
            parts, rows = file.of_training()
        else:
            parts[part] = file.by_role("", _OTHER_NAMES)
    lacking = [one["x"].where for one in parts.values() if "lengths" not in one]
    if 0 < len(lacking) < len(parts):  # padding would pass for data
        hint = "add them to every split, or ignore them with task.padding=none"
        raise DataError("has no lengths, but another split has", where=lacking[0], hint=hint)
    base = parts.pop("train")
    return base, rows or {"train": np.arange(base["x"].shape[0])}, parts


def locate_new(path: Path, where: str, names: Mapping[str, str], part: str) -> tuple[Arrays, np.ndarray | None]:
    """Return the arrays of new samples, y only where the file has it, and the rows that are requested; None are all.

    Only headers are read. A part is inputs called so (x_test), or rows that an array `split` marks; empty takes all.
    """
    arrays = {name or names["x"]: array for name, array in open_arrays(path, where).items()}
    file = _File(path, arrays, {**names, "split": "split"}, ("y", "split"))
    endings, found, rows = file.endings, Arrays(), None
    advice = f"take a part of it by --part {[*endings][-1]}" if endings else "the model was trained with it"
    is_marked = bool(part) and part not in endings
    if not is_marked or "split" in arrays:
        found = file.by_role(endings.get(part, ""), advice)
    if is_marked and (rows := _marked(found, for_training=False).get(part)) is None:
        raise DataError(f"has no part '{part}'", where=str(path), hint=str(file))
    return found, rows


def read_groups(
    base: Arrays, rows: dict[str, np.ndarray], others: dict[str, Arrays]
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Return the group of each training array's row, [N] int64, and of the samples of each split; errors of `group_rows`."""
    if "group" not in base:
        return None, {}
    values, where = base["group"].read(), base["group"].where
    held = {part: values[chosen] for part, chosen in rows.items()}
    held |= {part: arrays["group"].read() for part, arrays in others.items()}
    places = {part: f"{where} ({part})" for part in rows}
    records = group_rows(held, places | {part: arrays["group"].where for part, arrays in others.items()})
    order = np.argsort(np.concatenate([*rows.values()]))
    return np.concatenate([records[part] for part in rows])[order], records
