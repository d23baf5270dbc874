"""Checks of paths, columns and entries of a user's own data, and texts for notes and errors."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.terminal import counted

# Texts in fields of tables that mean a missing entry, in lower case.
MISSING_WORDS = ("", "?", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
_TABLE = "orca_cli.data.table.load"
_SERIES = ("sequence", "id")  # settings of a table whose samples are not single rows
_SHOWN = 10  # largest number of names in a note


def file_path(file: str, data_folder: Path) -> Path:
    """Return a file's path in the working folder, or in the data folder if only that has it."""
    path = Path(file).expanduser()
    path_in_data = data_folder / path
    # If neither folder has the file, the error shows the path as the user wrote it.
    if not path.exists() and path_in_data.exists():
        return path_in_data
    return path


def file_paths(files: Mapping[str, str | None], data_folder: Path) -> dict[str, Path]:
    """Return setting -> path for each setting in `files` that names a file.

    ConfigError if two settings name the same file.
    """
    paths: dict[str, Path] = {}
    settings: dict[Path, str] = {}
    for setting, file in files.items():
        if file is None:
            continue
        path = file_path(file, data_folder)
        # Resolved, because a link or another spelling may lead to the same file.
        earlier_setting = settings.setdefault(path.resolve(), setting)
        if earlier_setting != setting:
            raise ConfigError(
                f"'{path}' is also the file of task.{earlier_setting},"
                " so both splits would have the same samples",
                where=f"task.{setting}",
                hint="name another file, or remove this setting"
                " to draw the split from the training file",
            )
        paths[setting] = path
    return paths


def has_single_rows(task: Mapping[str, object], input_shape: Sequence[int]) -> bool:
    """Return whether each sample of a task with these settings is one row of a table.

    `input_shape` is (C, *E).
    """
    # A sequence column or a long table makes series instead.
    is_row = task.get("_target_") == _TABLE and not any(map(task.get, _SERIES))
    # Inputs with a single position are table rows in another format.
    return is_row or math.prod(input_shape[1:]) == 1


def check_columns(
    names: Iterable[str | None], columns: Sequence[str], key: str, where: str
) -> None:
    """Raise DataError if a named column does not exist; None in `names` is skipped.

    The hint has the closest name, or all names if none is close. `key` is the setting that names
    the column, `where` the name of the table.
    """
    for name in names:
        if name is None or name in columns:
            continue
        hint = suggest(name, columns)
        # Without a similar name, the list of columns helps more.
        if not hint.startswith("did you mean"):
            hint = f"it has: {listed(columns)}"
        raise DataError(f"'{where}' has no column '{name}'", where=key, hint=hint)


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError if two columns have the same name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"has {count} columns named '{name}'", where=where, hint="give them distinct names"
            )


def refuse_rows(missing: np.ndarray, what: str, where: str, hint: str = "") -> None:
    """Raise DataError if rows of a table lack an entry; the message has their number and the first.

    `missing` is [n] bool, `what` a noun for the entry.
    """
    if not missing.any():
        return
    first_row = missing.argmax() + 1
    raise DataError(
        f"has rows without a {what}: {missing.sum()} in total, the first is row {first_row}",
        where=where,
        hint=hint,
    )


def refuse_entry(wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str) -> None:
    """Raise DataError if entries of a column are wrong; the message names the first such entry.

    `wrong` is [n] bool, `what` a predicate such as "is not a number".
    """
    if not wrong.any():
        return
    first_row = wrong.argmax()
    entry = values[first_row]
    raise DataError(f"'{entry}' in row {first_row + 1} {what}", where=where, hint=hint)


def is_missing(text: str) -> bool:
    """Return whether a text means that the entry is missing."""
    return text.lower() in MISSING_WORDS


def check_labels(labels: np.ndarray, where: str) -> None:
    """Raise DataError if text labels [n] are missing; the message has their number."""
    is_absent = np.array(list(map(is_missing, labels.tolist())), dtype=bool)
    if not is_absent.any():
        return
    label = labels[is_absent.argmax()]
    missing_noun = "target"
    hint = "remove these rows"
    # An empty field is certainly missing, while a word such as "none" may be a class.
    if label:
        missing_noun = f"target ('{label}')"
        hint = f"{hint}; if '{label}' is a class, rename the class"
    refuse_rows(is_absent, missing_noun, where, hint)


def listed(names: Iterable[object], limit: int = _SHOWN) -> str:
    """Return the first `limit` names with commas between them, and the number of further names."""
    texts = list(map(str, names))
    shown = ", ".join(texts[:limit])
    if len(texts) <= limit:
        return shown
    return f"{shown} and {len(texts) - limit} more"


def described(sample: tuple[int, ...]) -> str:
    """Return the shape (C, *E) of inputs as text, such as 3 channels of 8 x 8."""
    channels, *extent = sample
    return f"{counted(channels, 'channel')} of {described_extent(extent)}"


def described_extent(extent: Sequence[int]) -> str:
    """Return an extent *E as text, such as 8 x 8."""
    return " x ".join(map(str, extent))
