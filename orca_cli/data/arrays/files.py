"""Find the arrays of each split, or of new data, in .npz and .npy files; only headers are read.

The arrays of a split are a mapping from role (x, y, lengths, group) to array, with one row for each
sample. An .npz file contains several named arrays. The only array of an .npy file has the role of
the setting that names the file. An array `split` may mark the split of each row.
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
# Split -> the setting that names a separate file with its targets.
_LABELS = {"train": "labels", "validation": "validation_labels", "test": "test_labels"}
_SETTINGS = (
    "set the names of your arrays with task.x, task.y, task.lengths and task.group,"
    " or use --part to read one split of a file of new data"
)


@dataclass(frozen=True)
class Roles:
    """The names of the arrays in .npz files by role, and the roles of optional arrays."""

    names: Mapping[str, str]
    optional: Sequence[str]


@dataclass(frozen=True)
class StoredSplits:
    """The arrays of each split by role, and the rows of each split in the training arrays.

    `rows` has train and the splits that an array `split` marks, which have no separate arrays.
    """

    arrays: dict[str, Arrays]
    rows: dict[str, np.ndarray]


def locate(files: Mapping[str, str | None], roles: Roles, data_folder: Path) -> StoredSplits:
    """Return the arrays and rows of each split.

    `files` maps the settings of the splits and of their labels to file names, or to None if they
    are not set. ConfigError for settings that contradict the files. DataError if an array is
    missing or has a wrong length, a split exists twice, or only some splits have lengths.
    """
    paths = file_paths(files, data_folder)
    # The training file first, because it may contain the other splits.
    train_content = _open_split("train", paths, roles)
    splits = _splits_of_training_file(train_content, paths["train"], roles)
    for split_name in ("validation", "test"):
        labels = _LABELS[split_name]
        if split_name not in paths:
            if labels in paths:
                raise ConfigError(
                    f"needs task.{split_name}",
                    where=f"task.{labels}",
                    hint=f"set task.{split_name}=FILE.npy",
                )
            continue
        if split_name in splits.arrays or split_name in splits.rows:
            raise ConfigError(
                "cannot be set, because the training file already contains this split",
                where=f"task.{split_name}",
                hint="remove it",
            )
        content = _open_split(split_name, paths, roles)
        splits.arrays[split_name] = _by_role(content, paths[split_name], roles)
    _check_lengths(splits.arrays)
    return splits


def _open_split(split_name: str, paths: Mapping[str, Path], roles: Roles) -> Arrays:
    """Return the arrays of a split's file by name, with its targets from a separate file if set."""
    path = paths[split_name]
    labels = _LABELS[split_name]
    arrays = open_arrays(path, f"task.{split_name}")
    if "" not in arrays:  # an .npz file; the array of an .npy file has an empty name
        if labels in paths:
            raise ConfigError(
                f"does not apply to '{path.name}', an .npz file, which contains its own targets",
                where=f"task.{labels}",
                hint="remove it",
            )
        return arrays
    if labels not in paths:
        raise ConfigError(
            f"must be set, because '{path.name}' contains the inputs only",
            where=f"task.{labels}",
            hint=f"set task.{labels}=FILE.npy, or store inputs and targets in one .npz file",
        )
    label_arrays = open_arrays(paths[labels], f"task.{labels}")
    # The labels may also be in an .npz file, whose arrays keep their names.
    named_arrays = {name or roles.names["y"]: array for name, array in label_arrays.items()}
    # The inputs come last, so that no array in the file of labels replaces them.
    return named_arrays | {roles.names["x"]: arrays[""]}


def _splits_of_training_file(content: Arrays, path: Path, roles: Roles) -> StoredSplits:
    """Return the splits in the training file, by suffixes of array names and by marks of rows."""
    input_name = roles.names["x"]
    arrays_by_split = {}
    for split_name, ending in _endings(content, input_name).items():
        arrays_by_split[split_name] = _by_role(content, path, roles, ending)
    rows_by_split: dict[str, np.ndarray] = {}  # rows of the splits that are marked
    # Arrays without a suffix contain the training split, and the splits that are marked.
    if "train" not in arrays_by_split or input_name in content:
        shared_arrays = _by_role(content, path, roles)
        rows_by_split = _marked(shared_arrays)
        for split_name in arrays_by_split:
            if split_name == "train" or split_name in rows_by_split:
                raise DataError(
                    f"contains the {split_name} split twice; keep only one copy",
                    where=str(path),
                    hint=_listed(content),
                )
        arrays_by_split["train"] = shared_arrays
    # Without marks, every row is for training.
    if not rows_by_split:
        num_rows = arrays_by_split["train"]["x"].shape[0]
        rows_by_split = {"train": np.arange(num_rows)}
    return StoredSplits(arrays=arrays_by_split, rows=rows_by_split)


def _check_lengths(splits: Mapping[str, Arrays]) -> None:
    """Raise DataError if only some splits have lengths: padding would be read as data."""
    without_lengths = [arrays for arrays in splits.values() if "lengths" not in arrays]
    if without_lengths and len(without_lengths) < len(splits):
        raise DataError(
            "has no lengths, although another split has lengths",
            where=without_lengths[0]["x"].where,
            hint="add lengths to every split, or ignore them with task.padding=none",
        )


def locate_new(
    path: Path, where: str, names: Mapping[str, str], part: str
) -> tuple[Arrays, np.ndarray | None]:
    """Return the arrays of new samples, and the requested rows; None means all rows.

    The arrays have no y if the file has no targets. `part` is the name of a split: the inputs with
    this suffix (x_test), or the rows that an array `split` marks. An empty `part` takes all rows.
    """
    roles = Roles(names=names, optional=("y",))
    # The only array of an .npy file contains the inputs.
    content = {name or names["x"]: array for name, array in open_arrays(path, where).items()}
    endings = _endings(content, names["x"])
    # Arrays with the part in their names take precedence over marked rows.
    if not part or part in endings:
        return _by_role(content, path, roles, endings.get(part, "")), None
    if "split" in content:
        arrays = _by_role(content, path, roles)
        # New data need not mark any row for training.
        rows = _marked(arrays, for_training=False)
        if part in rows:
            return arrays, rows[part]
    raise DataError(f"has no {part} split", where=str(path), hint=_listed(content))


def _listed(content: Arrays) -> str:
    names = ", ".join(sorted(content)) or "no arrays"
    return f"it has: {names}"


def _endings(content: Arrays, input_name: str) -> dict[str, str]:
    """Return the suffix of each split that has a separate array of inputs, such as `_val`.

    If a split has several such arrays, the first suffix is returned.
    """
    # A file may spell a split in several ways; the first spelling in PART_NAMES is used.
    endings = {}
    for split_name, spellings in PART_NAMES.items():
        for spelling in spellings:
            if f"{input_name}_{spelling}" in content:
                endings[split_name] = f"_{spelling}"
                break
    return endings


def _by_role(content: Arrays, path: Path, roles: Roles, ending: str = "") -> Arrays:
    """Return the arrays of a file whose names have a suffix, with the marks of splits if any."""
    arrays: Arrays = {}
    # No setting renames the array of marks.
    names = {**roles.names, "split": "split"}
    for role, name in names.items():
        full_name = name + ending
        if full_name in content:
            arrays[role] = content[full_name]
        elif role != "split" and role not in roles.optional:  # marks are always optional
            raise DataError(
                f"has no array '{full_name}'",
                where=str(path),
                hint=f"{_listed(content)}; {_SETTINGS}",
            )
    inputs = arrays["x"]
    if not inputs.shape or inputs.shape[0] == 0:
        raise DataError("contains no samples", where=inputs.where, hint="name a file with samples")
    for role, array in arrays.items():
        # The other axes of inputs, targets and lengths are checked when these are read.
        has_more_axes = role in ("group", "split") and len(array.shape) > 1
        if array.shape[:1] != inputs.shape[:1] or has_more_axes:
            raise DataError(
                f"has shape {array.shape}, which does not match the inputs' shape {inputs.shape}",
                where=array.where,
                hint="store one row per sample; groups and splits must be one-dimensional arrays",
            )
    return arrays


def _marked(arrays: Arrays, for_training: bool = True) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks; empty without such an array."""
    if "split" not in arrays:
        return {}
    stored_marks = arrays["split"]
    where = stored_marks.where
    # Marks may be stored as bytes.
    marks = as_text(stored_marks.read(), where)
    return marked_rows(marks, where, for_training=for_training)
