"""Settings, paths, columns and numbers of own data, and the words that notes and refusals share."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.terminal import counted

MISSING_WORDS = (
    "",
    "?",
    ".",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "nan",
    "null",
    "none",
)  # in fields of tables
_SHOWN = 10  # names in a note
Rule = tuple[
    bool, str, str, str
]  # whether settings break it, the setting to name, what is wrong with it, what to do


def check_rules(*rules: Rule) -> None:
    """Raise ConfigError for the first rule, of settings that exclude or need each other, that is broken."""
    for is_broken, setting, what, hint in rules:
        if is_broken:
            raise ConfigError(what, where=f"task.{setting}", hint=hint)


def files_rule(origin: str, path: str | None) -> Rule:
    """Return the rule that a folder of files is given only where data come from files."""
    is_broken = path is not None and origin != "files"
    return is_broken, "path", "is for task.origin=files", f"with task.origin={origin} leave it out"


def file_path(file: str, data_folder: Path) -> Path:
    """Return a file's path from the working folder, or from the data folder where it exists only there."""
    path = Path(file).expanduser()
    inside = data_folder / path
    return inside if not path.exists() and inside.exists() else path


def file_paths(files: Mapping[str, str | None], data_folder: Path) -> dict[str, Path]:
    """Return the path of each split's setting that has a file; raise ConfigError where two have the same one."""
    paths = {key: file_path(file, data_folder) for key, file in files.items() if file is not None}
    seen: dict[Path, str] = {}
    for key, path in paths.items():
        first = seen.setdefault(path.resolve(), key)
        what = f"'{path}' is also the file of task.{first}; its samples would be in both splits"
        hint = "name another file, or omit this one and the split is drawn from the training file"
        check_rules((first != key, key, what, hint))
    return paths


def check_columns(
    names: Iterable[str | None], columns: Sequence[str], key: str, where: str
) -> None:
    """Raise DataError, with the closest name or all of them, where a column does not exist; None is no column."""
    if absent := [name for name in names if name is not None and name not in columns]:
        close = suggest(absent[0], columns)
        hint = close if close.startswith("did you mean") else f"columns: {listed(columns)}"
        raise DataError(f"{where} has no column '{absent[0]}'", where=key, hint=hint)


def refuse_if(is_wrong: object, what: str, where: str, hint: str = "") -> None:
    """Raise DataError if something is wrong with data."""
    if is_wrong:
        raise DataError(what, where=where, hint=hint)


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError where two columns have the same name."""
    for name, count in Counter(names).items():
        refuse_if(count > 1, f"two columns are named '{name}'", where, "give them distinct names")


def refuse_rows(missing: np.ndarray, what: str, where: str, hint: str = "") -> None:
    """Raise DataError if rows of a table lack an entry (`missing`, [n] bool); it counts them and names the first."""
    if missing.any():
        problem = f"{int(missing.sum())} rows have no {what}, the first is row {int(missing.argmax()) + 1}"
        raise DataError(problem, where=where, hint=hint)


def refuse_entry(wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str) -> None:
    """Raise DataError if entries of a column are wrong ([n] bool); it names the first."""
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(f"'{values[first]}' in row {first + 1} {what}", where=where, hint=hint)


def is_missing(text: str) -> bool:
    """Return whether a text stands for a missing entry."""
    return text.lower() in MISSING_WORDS


def check_labels(labels: np.ndarray, where: str) -> None:
    """Raise DataError where text labels [n] stand for missing entries; it counts them and names the first."""
    missing = np.array([is_missing(text) for text in labels.tolist()], dtype=bool)
    if not missing.any():
        return
    hint, word = "remove these rows", labels[int(missing.argmax())]
    if not word:
        refuse_rows(missing, "target", where, hint)
    hint = f"{hint}; if '{word}' is a class, give it another name"
    refuse_rows(missing, f"target ('{word}')", where, hint)


def listed(names: Iterable[object], most: int = _SHOWN) -> str:
    """Return names with commas between, cut after the first ones."""
    texts = list(map(str, names))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def described(sample: tuple[int, ...]) -> str:
    """Return the shape (C, *E) of inputs in words."""
    return f"{counted(sample[0], 'channel')} of {' x '.join(map(str, sample[1:]))}"
