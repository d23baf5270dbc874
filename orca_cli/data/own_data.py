"""Settings, paths, columns and numbers of own data, and texts that notes and refusals share."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.terminal import counted

# Fields of tables that say that an entry is missing, in lower case.
MISSING_WORDS = ("", "?", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
_TABLE = "orca_cli.data.table.load"
_SERIES = ("sequence", "id")  # settings of a table whose samples are not single rows
_SHOWN = 10  # names in a note


def file_path(file: str, data_folder: Path) -> Path:
    """Return a file's path in the working folder, or in the data folder if it is only there."""
    path = Path(file).expanduser()
    path_in_data = data_folder / path
    # A file that is in neither folder keeps its path as typed, for the error.
    if not path.exists() and path_in_data.exists():
        return path_in_data
    return path


def file_paths(files: Mapping[str, str | None], data_folder: Path) -> dict[str, Path]:
    """Return the path of each split's setting that names a file.

    ConfigError where two settings name the same file.
    """
    paths: dict[str, Path] = {}
    settings: dict[Path, str] = {}
    for setting, file in files.items():
        if file is None:
            continue
        path = file_path(file, data_folder)
        # Links and other spellings lead to the same file.
        earlier_setting = settings.setdefault(path.resolve(), setting)
        if earlier_setting != setting:
            raise ConfigError(
                f"'{path}' is also the file of task.{earlier_setting};"
                " its samples would be in both splits",
                where=f"task.{setting}",
                hint="name another file,"
                " or omit this one and the split is drawn from the training file",
            )
        paths[setting] = path
    return paths


def has_single_rows(task: Mapping[str, object], input_shape: Sequence[int]) -> bool:
    """Return whether a sample is a row of a table, by its task's settings and shape (C, *E)."""
    # A sequence column or a long table makes series instead.
    is_row = task.get("_target_") == _TABLE and not any(map(task.get, _SERIES))
    # Inputs with a single position are rows of a table in another format.
    return is_row or math.prod(input_shape[1:]) == 1


def check_columns(
    names: Iterable[str | None], columns: Sequence[str], key: str, where: str
) -> None:
    """Raise DataError, with the closest name or all of them, for a column that does not exist.

    None names no column.
    """
    for name in names:
        if name is None or name in columns:
            continue
        hint = suggest(name, columns)
        # Without a similar name, the list of columns helps more.
        if not hint.startswith("did you mean"):
            hint = f"columns: {listed(columns)}"
        raise DataError(f"{where} has no column '{name}'", where=key, hint=hint)


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError where two columns have the same name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"two columns are named '{name}'", where=where, hint="give them distinct names"
            )


def refuse_rows(missing: np.ndarray, what: str, where: str, hint: str = "") -> None:
    """Raise DataError if rows of a table lack an entry; it counts them and names the first.

    `missing` is [n] bool.
    """
    if not missing.any():
        return
    first_row = missing.argmax() + 1
    raise DataError(
        f"{missing.sum()} rows have no {what}, the first is row {first_row}", where=where, hint=hint
    )


def refuse_entry(wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str) -> None:
    """Raise DataError if entries of a column are wrong ([n] bool); it names the first."""
    if not wrong.any():
        return
    first_row = wrong.argmax()
    entry = values[first_row]
    raise DataError(f"'{entry}' in row {first_row + 1} {what}", where=where, hint=hint)


def is_missing(text: str) -> bool:
    """Return whether a text says that an entry is missing."""
    return text.lower() in MISSING_WORDS


def check_labels(labels: np.ndarray, where: str) -> None:
    """Raise DataError where text labels [n] say that they are missing; it counts them."""
    is_absent = np.array(list(map(is_missing, labels.tolist())), dtype=bool)
    if not is_absent.any():
        return
    label = labels[is_absent.argmax()]
    missing_noun = "target"
    hint = "remove these rows"
    # An empty field is surely missing, while a word such as "none" may be a class.
    if label:
        missing_noun = f"target ('{label}')"
        hint = f"{hint}; if '{label}' is a class, give it another name"
    refuse_rows(is_absent, missing_noun, where, hint)


def listed(names: Iterable[object], limit: int = _SHOWN) -> str:
    """Return names with commas between them; of more than `limit`, the number of the others."""
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
