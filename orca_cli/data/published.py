"""What readers of published data sets share: finding files, checking content, notes on both."""

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
    """Return the files or folders of a data set, in the order of their names.

    DataError where one is missing.

    Args:
        data_folder, task: where its folder is, and the name of both.
        names: relative to its folder; those without a suffix, or with .lmdb, are those of folders
            too; with a star it is a pattern, of which the first file counts.
        path: another folder, from the working folder or else from `data_folder`; or, of one name,
            the file itself.
        hint: what else to do, besides getting the files or giving `path`, which the setting `key`
            does.
        others: further lists of names, since archives and mirrors put the same files into different
            folders. The first list that is complete counts.
    """
    folder = Path(path or data_folder / task).expanduser()
    if not folder.exists():
        folder = data_folder / folder
    # The setting names the file itself, whatever it is called.
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
    get = f"`orca data list {task}` says where it is from and how to get it"
    raise DataError(
        f"no file {' or '.join(missing)}",
        where=str(folder),
        hint="; ".join(filter(None, [get, f"or give {key}=FOLDER", hint])),
    )


def _find_in(folder: Path, name: str) -> Path | None:
    """Return the file of this name or pattern in a folder, see `find`.

    None where there is no such file.
    """
    # Sorted, so that the same file counts on every machine.
    candidates = sorted(folder.glob(name)) if "*" in name else [folder / name]
    # Unpacked archives have names without a suffix, and LMDB data sets are folders.
    may_be_folder = Path(name).suffix in ("", ".lmdb")
    for path in candidates:
        if path.is_file() or (may_be_folder and path.is_dir()):
            return path
    return None


def file_identity(path: Path) -> dict[str, int | float | str]:
    """Return path, size and modification time of a file.

    They are what a copy in the cache depends on (see `generated.folder_of`).
    """
    # The content is not read: that would take minutes for files of gigabytes.
    state = path.stat()
    return {"file": str(path.resolve()), "size": state.st_size, "modified": state.st_mtime_ns}


def load_arrays(folder: Path, names: Sequence[str], mapped: bool = False) -> list[np.ndarray]:
    """Return the arrays NAME.npy of a folder in the cache, in memory or as read-only maps."""
    return [
        np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        for name in names
    ]


def fault(what: str, where: object) -> DataError:
    """Return the error for a file, or a part of one, that is not what its data set has."""
    return DataError(what, where=str(where), hint=AGAIN)


def entries(record: object, names: Sequence[str], where: str) -> list[Any]:
    """Return the named entries of a dict that a file holds.

    DataError where it is not a dict or lacks one.
    """
    expected = f"expected a dict with {' and '.join(names)}"
    if not isinstance(record, dict):
        raise fault(f"holds a {type(record).__name__}; {expected}", where)
    if not set(names) <= record.keys():
        keys = ", ".join(map(str, [*record][:10]))
        raise fault(f"holds {keys}; {expected}", where)
    return [record[name] for name in names]


def check_array(
    array: object,
    shape: Sequence[int | str],
    where: str,
    what: str = "",
    dtype: str = "numbers",
    holds: Literal["anything", "finite", "binary"] = "anything",
) -> np.ndarray:
    """Return what a file holds if it is an array of this type and shape, and of such values.

    DataError otherwise.

    Args:
        shape: a number for a fixed length, a name for one that is free but not 0; equal names are
            equal lengths.
        where, what: origin and name of the array in messages; the name is empty where the origin
            says it.
        dtype: of NumPy; "numbers" is real numbers and booleans of any type.
        holds: "finite" refuses NaN and infinity, "binary" all but 0 and 1.
    """
    # As Python writes a shape: (3,) or (3, 4).
    sizes = ", ".join(map(str, shape))
    form = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
    subject = f"{what} is " if what else ""
    if not isinstance(array, np.ndarray):
        raise fault(f"{subject}a {type(array).__name__}; expected {dtype} {form}", where)
    # Booleans, integers and floats: neither complex numbers nor objects.
    has_type = array.dtype.kind in "biuf" if dtype == "numbers" else array.dtype == dtype
    if not has_type or not _has_shape(array, shape):
        raise fault(f"{subject}{array.dtype} {array.shape}; expected {dtype} {form}", where)
    if holds == "finite" and not np.isfinite(array).all():
        raise fault(f"{what} has values that are NaN or infinite".strip(), where)
    if holds == "binary" and not np.isin(array, (0, 1)).all():
        raise fault(f"{what} has other values than 0 and 1".strip(), where)
    return array


def _has_shape(array: np.ndarray, shape: Sequence[int | str]) -> bool:
    """Return whether an array has a shape.

    A name is a length that is free but not 0, the same wherever it occurs.
    """
    if array.ndim != len(shape):
        return False
    lengths: dict[str, int] = {}  # of names that have occurred; -1 is no length
    for size, length in zip(shape, array.shape, strict=True):
        expected = size if isinstance(size, int) else lengths.setdefault(size, length or -1)
        if expected != length:
            return False
    return True


def class_numbers(
    labels: object, n: int, num_classes: int, where: str, first: int = 0
) -> np.ndarray:
    """Return class labels as [n] int64 from 0 on.

    They are n whole numbers (n,) or (n, 1) in first..first+num_classes-1. DataError for labels of
    another form, and for the first one that is out of range.
    """
    try:
        values = np.asarray(labels)
    except ValueError:  # ragged lists
        values = np.empty(0, object)
    # Floats pass here; fractions and NaN are refused with the classes out of range.
    if values.shape not in ((n,), (n, 1)) or values.dtype.kind not in "iuf":
        raise fault(f"labels are {values.dtype} {values.shape}; expected ({n},)", where)
    values = values.reshape(-1)
    is_class = np.isin(values, np.arange(first, first + num_classes))
    if not is_class.all():
        # The first that is False.
        i = is_class.argmin()
        last = first + num_classes - 1
        raise fault(f"label {values[i]} at index {i} is not an integer in {first}..{last}", where)
    return values.astype(np.int64) - first
