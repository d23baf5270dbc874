"""What the readers of published data sets share: finding files, checking their content, and the note on what was read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.exceptions import DataError

AGAIN = "get the file again; `orca data list` says from where"


def find(
    data_folder: Path,
    task: str,
    names: Sequence[str],
    path: str | None = None,
    hint: str = "",
    key: str = "task.path",
    others: Sequence[Sequence[str]] = (),
) -> list[Path]:
    """Return the files or folders of a data set, in the order of their names; DataError where one is missing.

    Args:
        data_folder, task: where its folder is, and the name of both.
        names: relative to its folder; those without a suffix, or with .lmdb, are those of folders too; with a star it is a
            pattern, of which the first file counts.
        path: another folder, from the working folder or else from `data_folder`; or, of one name, the file itself.
        hint: what else to do, besides getting the files or giving `path`, which the setting `key` does.
        others: further lists of names, since archives and mirrors put the same files into different folders. The first list
            that is complete counts.
    """
    place = Path(path or data_folder / task).expanduser()
    place = place if place.exists() else data_folder / place
    if place.is_file() and len(names) == 1:
        return [place]

    def held(name: str) -> Path | None:
        matches = sorted(place.glob(name)) if "*" in name else [place / name]
        is_folder = Path(name).suffix in ("", ".lmdb")
        return next((one for one in matches if one.is_file() or (is_folder and one.is_dir())), None)

    missing = []
    for listed in (names, *others):
        present = [one for one in map(held, listed) if one is not None]
        if len(present) == len(listed):
            return present
        missing.append(next(f"'{name}'" for name in listed if held(name) is None))
    get = f"`orca data get {task}` fetches what can be fetched, `orca data list {task}` says where it is from"
    raise DataError(
        f"no file {' or '.join(missing)}",
        where=str(place),
        hint=note(get, f"or give {key}=FOLDER", hint),
    )


def file_identity(path: Path) -> dict[str, int | float | str]:
    """Return path, size and modification time of a file: what a copy in the cache depends on (see `generated.folder_of`)."""
    state = path.stat()
    return {"file": str(path.resolve()), "size": state.st_size, "modified": state.st_mtime_ns}


def load_arrays(folder: Path, names: Sequence[str], mapped: bool = False) -> list[np.ndarray]:
    """Return the arrays NAME.npy of a folder in the cache, in memory or as read-only memory maps."""
    return [
        np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        for name in names
    ]


def fault(what: str, where: object) -> DataError:
    """Return the error for a file, or a part of one, that is not what its data set has."""
    return DataError(what, where=str(where), hint=AGAIN)


def refuse(is_wrong: object, what: str, where: object) -> None:
    """Raise DataError where a file, or a part of one, is not what its data set has."""
    if is_wrong:
        raise fault(what, where)


def entries(record: object, names: Sequence[str], where: str) -> list[Any]:
    """Return the named entries of a dict that a file holds; DataError where it is not a dict or lacks one."""
    if not isinstance(record, dict) or not set(names) <= record.keys():
        held = (
            ", ".join(map(str, [*record][:10]))
            if isinstance(record, dict)
            else f"a {type(record).__name__}"
        )
        raise fault(f"holds {held}; expected a dict with {' and '.join(names)}", where)
    return [record[name] for name in names]


def check_array(
    array: object,
    shape: Sequence[int | str],
    where: str,
    what: str = "",
    dtype: str = "numbers",
    holds: Literal["anything", "finite", "binary"] = "anything",
) -> np.ndarray:
    """Return what a file holds if it is an array of this type and shape, and of such values; else raise DataError.

    Args:
        shape: a number for a fixed length, a name for one that is free but not 0; equal names are equal lengths.
        where, what: origin and name of the array in messages; the name is empty where the origin says it.
        dtype: of NumPy; "numbers" is real numbers and booleans of any type.
        holds: "finite" refuses NaN and infinity, "binary" all but 0 and 1.
    """
    lengths: dict[str, int] = {}
    if isinstance(array, np.ndarray) and array.ndim == len(shape):
        expected = [
            size if isinstance(size, int) else lengths.setdefault(size, extent or -1)
            for size, extent in zip(shape, array.shape, strict=True)
        ]
        typed = array.dtype.kind in "biuf" if dtype == "numbers" else array.dtype == dtype
        if typed and list(array.shape) == expected:
            if holds == "finite" and not np.isfinite(array).all():
                raise fault(f"{what} has values that are NaN or infinite".strip(), where)
            if holds == "binary" and not np.isin(array, (0, 1)).all():
                raise fault(f"{what} has other values than 0 and 1".strip(), where)
            return array
    actual = (
        f"{array.dtype} {array.shape}"
        if isinstance(array, np.ndarray)
        else f"a {type(array).__name__}"
    )
    form = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    raise fault(f"{what} is {actual}; expected {dtype} {form}".removeprefix(" is "), where)


def class_numbers(
    labels: object, n: int, num_classes: int, where: str, first: int = 0
) -> np.ndarray:
    """Return class labels, n whole numbers (n,) or (n, 1) in first..first+num_classes-1, as [n] int64 from 0 on.

    DataError for labels of another form, and for the first one that is out of range.
    """
    try:
        values = np.asarray(labels)
    except ValueError:  # ragged lists
        values = np.empty(0, object)
    if values.shape not in ((n,), (n, 1)) or values.dtype.kind not in "iuf":
        raise fault(f"labels are {values.dtype} {values.shape}; expected ({n},)", where)
    values = np.array(values).reshape(-1)
    if len(wrong := np.flatnonzero(~np.isin(values, np.arange(first, first + num_classes)))):
        what = f"label {values[wrong[0]]} at index {wrong[0]} is not an integer in {first}..{first + num_classes - 1}"
        raise fault(what, where)
    return values.astype(np.int64) - first


def note(*parts: str) -> str:
    """Return parts of a task's note, or of a hint, in one line and without the empty ones."""
    return "; ".join(part for part in parts if part)
