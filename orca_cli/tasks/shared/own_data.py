"""What the readers of own data share: finding files, checks of settings, columns and sizes, and words for notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from orca_cli.exceptions import ConfigError, DataError, suggest

_MIN_SAMPLES = 10
_SHOWN = 10  # names in a note
_SHOWN_COLUMNS = 20


def own_path(file: str, data_folder: Path) -> Path:
    """Return a file's path from the working folder, or from the data folder where it exists only there."""
    path = Path(file).expanduser()
    inside = data_folder / path
    return inside if not path.exists() and inside.exists() else path


def own_paths(files: dict[str, str | None], data_folder: Path) -> dict[str, Path]:
    """Return the path of each split that has a file.

    Raises:
        ConfigError: one file for two splits.
    """
    paths = {part: own_path(file, data_folder) for part, file in files.items() if file is not None}
    seen: dict[Path, str] = {}
    for part, path in paths.items():
        first = seen.setdefault(path.resolve(), part)
        if first != part:
            raise ConfigError(
                f"'{path}' is also the file of task.{first}; its samples would be in both splits",
                where=f"task.{part}",
                hint="name another file, or omit this one and the split is drawn from the training file",
            )
    return paths


def check_missing_targets(kind: str, missing_targets: bool) -> None:
    """Refuse missing targets where every sample needs a class.

    Raises:
        ConfigError: they are allowed with kind=classes.
    """
    if missing_targets and kind == "classes":
        raise ConfigError(
            "does not apply to task.kind=classes",
            where="task.missing_targets",
            hint="remove it, and remove samples without a class from the data",
        )


def check_enough(count: int, what: str, where: str) -> None:
    """Refuse training data with fewer than 10 samples.

    Raises:
        DataError: naming their number.
    """
    if count < _MIN_SAMPLES:
        raise DataError(f"too few {what}: {count}", where=where, hint=f"provide {_MIN_SAMPLES} or more for training")


def check_column(name: str, columns: Sequence[str], key: str, where: str) -> None:
    """Refuse the name of a column that does not exist.

    Raises:
        DataError: with the closest name, or all of them.
    """
    if name not in columns:
        close = suggest(name, columns)
        hint = close if close.startswith("did you mean") else f"columns: {listed(columns, _SHOWN_COLUMNS)}"
        raise DataError(f"{where} has no column '{name}'", where=key, hint=hint)


def listed(names: Iterable[object], most: int = _SHOWN) -> str:
    """Return names with commas between, cut after the first ones."""
    texts = list(map(str, names))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def counted(count: int, word: str) -> str:
    """Return a number with its noun, such as "1 channel" and "2 channels"."""
    return f"{count} {word}{'' if count == 1 else 's'}"
