"""Functions for readers of published data sets: finding files, checking content, error messages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.exceptions import DataError

AGAIN = "get the file again; `orca data list` shows its address"


def find(
    data_folder: Path,
    task: str,
    names: Sequence[str],
    path: str | None = None,
    hint: str = "",
    key: str = "task.path",
    others: Sequence[Sequence[str]] = (),
) -> list[Path]:
    """Return the files or folders of a data set, in the order of `names`.

    DataError if a file is missing.

    Args:
        data_folder: folder of all data sets.
        task: name of the task, and of the data set's folder in `data_folder`.
        names: paths below the data set's folder. A name without a suffix, or with .lmdb, may be a
            folder. A name with a star is a pattern; the first matching file is used.
        path: another folder, in the working folder or else in `data_folder`; with a single name,
            also the file itself.
        hint: further advice for the error, in addition to getting the files and setting `path`.
        key: the setting that gives `path`.
        others: alternative lists of names, because archives and mirrors put the same files into
            different folders. The first list whose files all exist is used.
    """
    folder = Path(path or data_folder / task).expanduser()
    if not folder.exists():
        folder = data_folder / folder
    # The setting may name the file itself, with any file name.
    if folder.is_file() and len(names) == 1:
        return [folder]
    missing = []
    for file_names in (names, *others):
        paths = [_find_in(folder, name) for name in file_names]  # None for a missing file
        present = [path for path in paths if path is not None]
        if len(present) == len(file_names):
            return present
        # The first missing name of each list is enough for the message.
        missing.append(f"'{file_names[paths.index(None)]}'")
    get = f"`orca data list {task}` shows the address of the file and how to get it"
    raise DataError(
        f"has no file {' or '.join(missing)}",
        where=str(folder),
        hint="; ".join(filter(None, [get, f"or set {key}=FOLDER", hint])),
    )


def _find_in(folder: Path, name: str) -> Path | None:
    """Return the file of this name or pattern in a folder (see `find`).

    None if no such file exists.
    """
    # Sorted, so that every machine uses the same file.
    candidates = sorted(folder.glob(name)) if "*" in name else [folder / name]
    # Unpacked archives have names without a suffix, and LMDB data sets are folders.
    may_be_folder = Path(name).suffix in ("", ".lmdb")
    for path in candidates:
        if path.is_file() or (may_be_folder and path.is_dir()):
            return path
    return None


def file_identity(path: Path) -> dict[str, int | float | str]:
    """Return path, size and modification time of a file.

    A copy in the cache depends on them (see `generated.folder_of`).
    """
    # The content is not read, because that takes minutes for files of gigabytes.
    state = path.stat()
    return {"file": str(path.resolve()), "size": state.st_size, "modified": state.st_mtime_ns}


def load_arrays(folder: Path, names: Sequence[str], mapped: bool = False) -> list[np.ndarray]:
    """Return the arrays NAME.npy of a folder in the cache, in memory or `mapped` for reading."""
    return [
        np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        for name in names
    ]


def fault(what: str, where: object) -> DataError:
    """Return the error for a file, or a part of a file, whose content is not as published."""
    return DataError(what, where=str(where), hint=AGAIN)


def entries(record: object, names: Sequence[str], where: str) -> list[Any]:
    """Return the named entries of a dict from a file.

    DataError if the record is not a dict or lacks an entry.
    """
    expected = f"expected a dict with {' and '.join(names)}"
    if not isinstance(record, dict):
        raise fault(f"contains an object of type {type(record).__name__}; {expected}", where)
    if not set(names) <= record.keys():
        keys = ", ".join(map(str, [*record][:10]))
        raise fault(f"contains a dict with the keys {keys}; {expected}", where)
    return [record[name] for name in names]


def check_array(
    array: object,
    shape: Sequence[int | str],
    where: str,
    what: str = "",
    dtype: str = "numbers",
    holds: Literal["anything", "finite", "binary"] = "anything",
) -> np.ndarray:
    """Return an object from a file if it is an array of this shape and type with allowed values.

    DataError otherwise.

    Args:
        array: the object.
        shape: for each axis, its length, or a name if any length except 0 is allowed; axes with the
            same name must have the same length.
        where: origin of the array, for messages.
        what: name of the array, for messages; empty if `where` includes it.
        dtype: name of a NumPy dtype, or "numbers" for real numbers and booleans of any type.
        holds: allowed values; "finite" refuses NaN and infinity, "binary" all but 0 and 1.
    """
    # As Python writes a shape: (3,) or (3, 4).
    sizes = ", ".join(map(str, shape))
    form = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
    subject = what or "array"
    expected = f"expected {dtype} of shape {form}"
    if not isinstance(array, np.ndarray):
        raise fault(f"{subject} is of type {type(array).__name__}; {expected}", where)
    # Booleans, integers and floats: neither complex numbers nor objects.
    has_type = array.dtype.kind in "biuf" if dtype == "numbers" else array.dtype == dtype
    if not has_type or not _has_shape(array, shape):
        raise fault(f"{subject} has dtype {array.dtype} and shape {array.shape}; {expected}", where)
    if holds == "finite" and not np.isfinite(array).all():
        raise fault(f"{what} contains NaN or infinite values".strip(), where)
    if holds == "binary" and not np.isin(array, (0, 1)).all():
        raise fault(f"{what} contains values other than 0 and 1".strip(), where)
    return array


def _has_shape(array: np.ndarray, shape: Sequence[int | str]) -> bool:
    """Return whether an array has a shape, as `check_array` describes it.

    A name is any length except 0, and the same length wherever the name occurs.
    """
    if array.ndim != len(shape):
        return False
    lengths: dict[str, int] = {}  # name -> its length; -1 equals no length, so that 0 fails
    for size, length in zip(shape, array.shape, strict=True):
        expected = size if isinstance(size, int) else lengths.setdefault(size, length or -1)
        if expected != length:
            return False
    return True


def class_numbers(
    labels: object, n: int, num_classes: int, where: str, first: int = 0
) -> np.ndarray:
    """Return class labels as [n] int64 in 0..num_classes-1.

    The labels must be n whole numbers of shape (n,) or (n, 1) in first..first+num_classes-1.
    DataError otherwise; the message names the first label that is out of range.
    """
    try:
        values = np.asarray(labels)
    except ValueError:  # ragged lists
        values = np.empty(0, object)
    # Floats pass this check; fractions and NaN are refused below, as labels out of range.
    if values.shape not in ((n,), (n, 1)) or values.dtype.kind not in "iuf":
        raise fault(
            f"labels have dtype {values.dtype} and shape {values.shape};"
            f" expected integers of shape ({n},)",
            where,
        )
    values = values.reshape(-1)
    is_class = np.isin(values, np.arange(first, first + num_classes))
    if not is_class.all():
        # The first label that is not a class.
        i = is_class.argmin()
        last = first + num_classes - 1
        raise fault(
            f"label at index {i} must be an integer in {first}..{last}, got {values[i]}", where
        )
    return values.astype(np.int64) - first
