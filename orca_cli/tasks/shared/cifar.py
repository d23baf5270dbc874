"""Labelled sets of small colour images, and CIFAR-10 with its test images, which the spherical task projects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.untrusted.arrays import read_arrays
from orca_cli.untrusted.pickle import unpickle

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
_FOLDER = "cifar-10-batches-py"
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class LabelledImages:
    """One set of images.

    Args:
        x: [N, 3, 32, 32] uint8.
        y: [N] int64.
    """

    x: np.ndarray
    y: np.ndarray

    def digest(self) -> str:
        """Return a SHA-256 over images and labels."""
        digest = hashlib.sha256(f"{self.x.shape}".encode())
        for array in (self.x, self.y):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def checked(x: object, labels: object, num_classes: int, where: str) -> LabelledImages:
    """Return a set of images after a look at its form.

    Args:
        x: uint8 [N, 3072] or [N, 3, 32, 32].
        labels: N integers in 0..num_classes-1.
        num_classes: K.
        where: file and entry, for messages.

    Raises:
        DataError: they have another form.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape[1:] not in ((3 * SIDE**2,), (3, SIDE, SIDE)):
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise DataError(f"images are {found}; uint8 (N, 3, {SIDE}, {SIDE}) is expected", where=where)
    try:
        y = np.asarray(labels)
    except ValueError:  # ragged lists
        y = np.empty(0, dtype=object)
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or not len(x):
        raise DataError(f"labels are {y.dtype} {y.shape}; integers ({len(x)},) are expected", where=where)
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(wrong):
        raise DataError(f"label {y[wrong[0]]} at index {wrong[0]} is not in 0..{num_classes - 1}", where=where)
    return LabelledImages(x.reshape(-1, 3, SIDE, SIDE), y.astype(np.int64))


def read_cifar10(data_folder: Path, path: str | None = None) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Return train and test of CIFAR-10, and the names of its classes.

    Args:
        data_folder: the files are looked for in data_folder/cifar10.
        path: another folder, from the working folder or else from `data_folder`, that is or holds torchvision's
            cifar-10-batches-py; or an .npz file with x_train, y_train, x_test and y_test.

    Raises:
        DataError: files are missing, damaged or have another form.
        UnsafeError: a file would run code when read.
    """
    place = _find(data_folder, path)
    if place.is_file():
        arrays = read_arrays(place, _ARRAYS, max_bytes=2**30)
        return {
            part: checked(arrays[f"x_{part}"], arrays[f"y_{part}"], 10, f"{place}[{part}]") for part in _BATCHES
        }, CIFAR10_NAMES
    parts = {}
    for part, names in _BATCHES.items():
        batches = [_batch(place / name) for name in names]
        x, y = (np.concatenate([getattr(batch, field) for batch in batches]) for field in ("x", "y"))
        parts[part] = LabelledImages(x, y)
    return parts, CIFAR10_NAMES


def _batch(path: Path) -> LabelledImages:
    record = unpickle(path, max_bytes=2**28)
    if not isinstance(record, dict):
        raise DataError(f"holds a {type(record).__name__}, not a batch of CIFAR-10", where=str(path))
    return checked(record.get("data"), record.get("labels"), 10, str(path))


def _find(data_folder: Path, path: str | None) -> Path:
    given = Path(path).expanduser() if path else Path("cifar10")
    places = [given, data_folder / given] if path else [data_folder / given]
    for place in places:
        for candidate in (place, place / _FOLDER):
            if candidate.is_file() or (candidate / "test_batch").is_file():
                return candidate
        if place.is_dir() and (archives := sorted(place.glob("cifar10*.npz"))):
            return archives[0]
    raise DataError(
        "CIFAR-10 is not there",
        where=f"task.images={path}" if path else str(places[0]),
        hint=f"put torchvision's folder {_FOLDER}, or a file cifar10.npz with {', '.join(_ARRAYS)}, there, or name it with "
        "task.images=...",
    )
