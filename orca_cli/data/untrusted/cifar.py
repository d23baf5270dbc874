"""Labelled sets of 32 x 32 colour images, and the files of CIFAR-10, which a source and a task read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from orca_cli import signals
from orca_cli.data.published import check_array, class_numbers, entries
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
_FOLDER = "cifar-10-batches-py"
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


@dataclass(frozen=True)
class LabelledImages:
    """One set of images x [N, 3, 32, 32] uint8, with labels y [N] int64."""

    x: np.ndarray
    y: np.ndarray

    def digest(self) -> str:
        """Return a SHA-256 over images and labels."""
        digest = hashlib.sha256(f"{self.x.shape}".encode())
        for array in (self.x, self.y):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def checked(x: object, labels: object, num_classes: int, where: str) -> LabelledImages:
    """Return images x, uint8 [N, 3072] or [N, 3, 32, 32], with N labels in 0..num_classes-1, as a set.

    Raises DataError, with `where` (file and entry), if they have another form.
    """
    if isinstance(x, np.ndarray) and x.shape[1:] == (3 * SIDE**2,):
        x = x.reshape(-1, 3, SIDE, SIDE)
    images = check_array(x, ("N", 3, SIDE, SIDE), where, what="images", dtype="uint8")
    return LabelledImages(images, class_numbers(labels, len(images), num_classes, where))


def read_cifar10(
    data_folder: Path, path: str | None, parts: Sequence[str], key: str, hint: str = ""
) -> dict[str, LabelledImages]:
    """Return parts of CIFAR-10.

    Args:
        data_folder: the files are looked for in data_folder/cifar10 and in data_folder.
        path: another folder, from the working folder or else from `data_folder`, that is or holds torchvision's
            cifar-10-batches-py; or an .npz file with x_PART and y_PART for each part.
        parts: "train", "test".
        key: the setting that gives `path`, for messages.
        hint: what to do if there are no files.

    Raises:
        DataError: files are missing, damaged or have another form.
        UnsafeError: reading a file would execute code.
    """
    names = [f"{axis}_{part}" for part in parts for axis in "xy"]
    location = Path(path).expanduser() if path else Path("cifar10")
    places = [location, data_folder / location] if path else [data_folder / location, data_folder]
    forms = [form for one in places for form in (one, one / _FOLDER, *sorted(one.glob("cifar10*.npz")))]
    found = (form.is_file() or all((form / _BATCHES[part][0]).is_file() for part in parts) for form in forms)
    place = next(compress(forms, found), None)
    if place is None:
        advice = f"put torchvision's folder {_FOLDER}, or a file cifar10.npz with {', '.join(names)}, there, or give {key}=..."
        where = f"{key}={path}" if path else str(data_folder / location)
        raise DataError("CIFAR-10 is not there", where=where, hint=f"{advice}; {hint}" if hint else advice)
    if place.is_file():
        arrays = read_arrays(place, names, max_bytes=2**30)
        return {part: checked(arrays[f"x_{part}"], arrays[f"y_{part}"], 10, f"{place}[{part}]") for part in parts}
    images = {}
    for part in parts:
        batches = []
        for file in (place / name for name in _BATCHES[part]):
            signals.check()
            data, labels = entries(unpickle(file, max_bytes=2**28), ("data", "labels"), str(file))
            batches.append(checked(data, labels, 10, str(file)))
        images[part] = LabelledImages(*(np.concatenate([getattr(batch, axis) for batch in batches]) for axis in "xy"))
    return images
