"""Which arrays of which files make up the splits, or new data; only headers are read here.

The arrays of a split, a row for each sample, are a mapping from their roles: x, y, lengths, group.
Files with the ending .npz hold several arrays by name; the only array of an .npy file has the role
that its setting says. An array `split` may say which of their rows are whose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.own_data import file_paths
from orca_cli.data.splits import PART_NAMES, marked_rows
from orca_cli.data.targets import as_text
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import ConfigError, DataError

Arrays = dict[str, StoredArray]
# The setting of each split's targets, where they have a file of their own.
_LABELS = {"train": "labels", "validation": "validation_labels", "test": "test_labels"}
_SETTINGS = "task.x, task.y, task.lengths and task.group name others, --part one of several splits"


@dataclass(frozen=True)
class Roles:
    """The names of the arrays in .npz files, by role, and the roles that a file may lack."""

    names: Mapping[str, str]
    optional: Sequence[str]


@dataclass(frozen=True)
class StoredSplits:
    """The arrays of each split, by role, and which rows of the training arrays are whose.

    Rows are those of train and of the splits that an array `split` marks, which have no arrays of
    their own.
    """

    arrays: dict[str, Arrays]
    rows: dict[str, np.ndarray]


def locate(files: Mapping[str, str | None], roles: Roles, data_folder: Path) -> StoredSplits:
    """Return where each split is.

    `files` are the settings of the splits and of their labels, None where not given.

    ConfigError for settings that contradict the files; DataError where an array is missing or of
    another length, a split is there twice, or only some splits have lengths.
    """
    paths = file_paths(files, data_folder)
    # The training file first: it may hold the other splits.
    train_content = _open_split("train", paths, roles)
    splits = _splits_of_training_file(train_content, paths["train"], roles)
    for split_name in ("validation", "test"):
        labels = _LABELS[split_name]
        if split_name not in paths:
            if labels in paths:
                raise ConfigError(
                    "given without its inputs",
                    where=f"task.{labels}",
                    hint=f"give task.{split_name}=FILE.npy",
                )
            continue
        if split_name in splits.arrays or split_name in splits.rows:
            raise ConfigError(
                "the training file already holds this split",
                where=f"task.{split_name}",
                hint="remove it",
            )
        content = _open_split(split_name, paths, roles)
        splits.arrays[split_name] = _by_role(content, paths[split_name], roles)
    _check_lengths(splits.arrays)
    return splits


def _open_split(split_name: str, paths: Mapping[str, Path], roles: Roles) -> Arrays:
    """Return the arrays of a split's file by name, with targets from a file of their own."""
    path = paths[split_name]
    labels = _LABELS[split_name]
    arrays = open_arrays(path, f"task.{split_name}")
    if "" not in arrays:  # an .npz file; the array of an .npy file has no name
        if labels in paths:
            raise ConfigError(
                "applies to .npy files",
                where=f"task.{labels}",
                hint=f"{path.name} holds its own targets",
            )
        return arrays
    if labels not in paths:
        raise ConfigError(
            f"{path.name} is one array, without targets",
            where=f"task.{labels}",
            hint=f"give task.{labels}=FILE.npy, or store both in an .npz file",
        )
    label_arrays = open_arrays(paths[labels], f"task.{labels}")
    # The labels may come from an .npz file too; its arrays keep their names.
    named_arrays = {name or roles.names["y"]: array for name, array in label_arrays.items()}
    # Last, so that no array in the file of labels replaces the inputs.
    return named_arrays | {roles.names["x"]: arrays[""]}


def _splits_of_training_file(content: Arrays, path: Path, roles: Roles) -> StoredSplits:
    """Return the splits in the training file: by endings of names, and by marks of rows."""
    input_name = roles.names["x"]
    arrays_by_split = {}
    for split_name, ending in _endings(content, input_name).items():
        arrays_by_split[split_name] = _by_role(content, path, roles, ending)
    rows_by_split: dict[str, np.ndarray] = {}  # of the splits that marks name
    # Arrays without an ending are those of train, and of the splits that marks name.
    if "train" not in arrays_by_split or input_name in content:
        shared_arrays = _by_role(content, path, roles)
        rows_by_split = _marked(shared_arrays)
        for split_name in arrays_by_split:
            if split_name == "train" or split_name in rows_by_split:
                raise DataError(
                    f"holds the {split_name} split twice", where=str(path), hint=_listed(content)
                )
        arrays_by_split["train"] = shared_arrays
    # Without marks, every row is for training.
    if not rows_by_split:
        num_rows = arrays_by_split["train"]["x"].shape[0]
        rows_by_split = {"train": np.arange(num_rows)}
    return StoredSplits(arrays=arrays_by_split, rows=rows_by_split)


def _check_lengths(splits: Mapping[str, Arrays]) -> None:
    """Raise DataError if only some splits have lengths: padding would pass for data."""
    without_lengths = [arrays for arrays in splits.values() if "lengths" not in arrays]
    if without_lengths and len(without_lengths) < len(splits):
        raise DataError(
            "has no lengths, but another split has",
            where=without_lengths[0]["x"].where,
            hint="add them to every split, or ignore them with task.padding=none",
        )


def locate_new(
    path: Path, where: str, names: Mapping[str, str], part: str
) -> tuple[Arrays, np.ndarray | None]:
    """Return the arrays of new samples, and the rows that are requested; None are all.

    There is no y where the file has none. A part is inputs called so (x_test), or rows that an
    array `split` marks; empty takes all.
    """
    roles = Roles(names=names, optional=("y",))
    # The only array of an .npy file is that of the inputs.
    content = {name or names["x"]: array for name, array in open_arrays(path, where).items()}
    endings = _endings(content, names["x"])
    # Arrays named for the part take precedence over marks of rows.
    if not part or part in endings:
        return _by_role(content, path, roles, endings.get(part, "")), None
    if "split" in content:
        arrays = _by_role(content, path, roles)
        # New data need not mark any row for training.
        rows = _marked(arrays, for_training=False)
        if part in rows:
            return arrays, rows[part]
    raise DataError(f"has no part '{part}'", where=str(path), hint=_listed(content))


def _listed(content: Arrays) -> str:
    names = ", ".join(sorted(content)) or "nothing"
    return f"it holds {names}"


def _endings(content: Arrays, input_name: str) -> dict[str, str]:
    """Return the endings of the splits that have inputs of their own, such as `_val`.

    A split with several such endings has the first.
    """
    # A split may have several spellings in a file; PART_NAMES says which one counts.
    endings = {}
    for split_name, spellings in PART_NAMES.items():
        for spelling in spellings:
            if f"{input_name}_{spelling}" in content:
                endings[split_name] = f"_{spelling}"
                break
    return endings


def _by_role(content: Arrays, path: Path, roles: Roles, ending: str = "") -> Arrays:
    """Return the arrays of a file whose names have an ending, with marks of splits if any."""
    arrays: Arrays = {}
    # No setting renames the array of marks.
    names = {**roles.names, "split": "split"}
    for role, name in names.items():
        full_name = name + ending
        if full_name in content:
            arrays[role] = content[full_name]
        elif role != "split" and role not in roles.optional:  # marks are always optional
            raise DataError(
                f"no array '{full_name}'",
                where=str(path),
                hint=f"{_listed(content)}; {_SETTINGS}",
            )
    inputs = arrays["x"]
    if not inputs.shape or inputs.shape[0] == 0:
        raise DataError("no samples", where=inputs.where, hint="give a file with samples")
    for role, array in arrays.items():
        # The other axes of inputs, targets and lengths are checked where these are read.
        has_more_axes = role in ("group", "split") and len(array.shape) > 1
        if array.shape[:1] != inputs.shape[:1] or has_more_axes:
            raise DataError(
                f"shape {array.shape} does not match inputs of shape {inputs.shape}",
                where=array.where,
                hint="arrays need one row per sample, groups and marks one axis",
            )
    return arrays


def _marked(arrays: Arrays, for_training: bool = True) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks; none without such an array."""
    if "split" not in arrays:
        return {}
    stored_marks = arrays["split"]
    where = stored_marks.where
    # Marks may be stored as bytes.
    marks = as_text(stored_marks.read(), where)
    return marked_rows(marks, where, for_training=for_training)
