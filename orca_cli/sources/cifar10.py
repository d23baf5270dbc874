"""CIFAR-10: 32 x 32 colour images of 10 classes; the paper's source for image bodies (section 4.1).

Read from the files that torchvision keeps (folder cifar-10-batches-py), or from one .npz with x_train and y_train. Only
training images are used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import DataError
from orca_cli.interfaces import SourceData
from orca_cli.sources.balance import check_size, draw, record
from orca_cli.untrusted.arrays import read_arrays
from orca_cli.untrusted.pickle import unpickle

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER = "cifar-10-batches-py"
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_PIXELS = 3 * 32 * 32


def load(size: int | None, seed: int, data_folder: Path, path: str | None = None) -> SourceData:
    """Return images [n, 3, 32, 32] in 0..1 and their classes.

    Args:
        size: number of images, balanced over the classes; None for all.
        seed: of the draw.
        data_folder: the files are looked for in data_folder/cifar10 and data_folder.
        path: another .npz file, or folder that is or holds cifar-10-batches-py.

    Raises:
        ConfigError: `size` is below 20.
        DataError: the files are missing or have another form.
        UnsafeError: a file would run code when read.
    """
    check_settings(size)
    place = _find(data_folder, path)
    images, labels = _read_npz(place) if place.is_file() else _read_batches(place)
    chosen = draw(labels, size, seed)
    return record("image", images[chosen].astype(np.float32) / np.float32(255), labels[chosen], CLASS_NAMES)


def check_settings(size: int | None) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: `size` is below 20.
    """
    check_size(size, len(CLASS_NAMES))


def _find(data_folder: Path, path: str | None) -> Path:
    folder = data_folder / "cifar10"
    places = [Path(path).expanduser()] if path else [folder, data_folder]
    for place in places:
        for candidate in (place, place / _FOLDER):
            if candidate.is_file() or (candidate / _BATCHES[0]).is_file():
                return candidate
        if place.is_dir() and (archives := sorted(place.glob("cifar10*.npz"))):
            return archives[0]
    raise DataError(
        "CIFAR-10 is not there",
        where=f"source.path={path}" if path else str(folder),
        hint=f"put torchvision's folder {_FOLDER}, or a file cifar10.npz with x_train (n, 3, 32, 32) uint8 and y_train, "
        f"into {folder} or name it with source.path=...; source=digits needs no files",
    )


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays = read_arrays(path, ("x_train", "y_train"), max_bytes=2**30)
    return _checked(arrays["x_train"], arrays["y_train"], path)


def _read_batches(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for name in _BATCHES:
        signals.check()
        batch = unpickle(folder / name)
        if not isinstance(batch, dict) or not isinstance(batch.get("data"), np.ndarray) or "labels" not in batch:
            raise DataError("is not a batch of CIFAR-10: no 'data' and 'labels'", where=str(folder / name))
        data = batch["data"]
        if data.ndim != 2 or data.shape[1] != _PIXELS:
            raise DataError(f"data have shape {data.shape}; (n, {_PIXELS}) is expected", where=str(folder / name))
        x, y = _checked(data.reshape(-1, 3, 32, 32), _as_array(batch["labels"]), folder / name)
        images.append(x)
        labels.append(y)
    return np.concatenate(images), np.concatenate(labels)


def _as_array(labels: object) -> np.ndarray:
    try:
        return np.asarray(labels)
    except ValueError:  # ragged lists
        return np.empty(0, dtype=object)


def _checked(images: np.ndarray, labels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    where = str(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (3, 32, 32):
        raise DataError(f"images are {images.dtype} {images.shape}; uint8 (n, 3, 32, 32) is expected", where=where)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels are {labels.dtype} {labels.shape}; integers ({len(images)},) are expected", where=where
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASS_NAMES)))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} labels lie outside 0..9, the first at index {wrong[0]} is {labels[wrong[0]]}", where=where
        )
    return images, labels.astype(np.int64)
