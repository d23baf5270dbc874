"""CIFAR-100 (Krizhevsky 2009): 32 x 32 colour images of 100 fine classes, 50,000 for training and 10,000 for test.

Read from the archive of the Python version, or from the folder that it unpacks to: the files `train`, `test` and `meta`,
pickles of Python 2 that are read without running anything.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.pixels import PixelSamples
from orca_cli.data.published import entries, find, note
from orca_cli.data.splits import describe, hold_out
from orca_cli.data.untrusted.cifar import SIDE, LabelledImages, checked
from orca_cli.data.untrusted.first_bytes import first_bytes
from orca_cli.data.untrusted.pickle import unpickle, unpickle_bytes
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.interfaces import Reporter, TaskData

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of the training pixels in 0..1
_CLASSES = 100
_FOLDER, _ARCHIVE = "cifar-100-python", "cifar-100-python.tar.gz"
_MEMBERS = ("train", "test", "meta")
_MAX_BYTES = 256 * 2**20  # `train` has 155 MB
_AGAIN = "`orca data get cifar100` fetches it again"
_PADDING = 4  # of the random crop in training


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Literal["classes"] = "classes",
    path: str | None = None,
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
    augment: bool = True,
    permute: bool = False,
) -> TaskData:
    """Return images [n, 3, 32, 32], normalised by the training pixels' mean and deviation, with 100 classes.

    conf/task/cifar100.yaml explains the settings. A tenth for validation gives 50 images a class, enough for a standard error
    of 0.7 points; NAS-Bench-360 takes the last 10,000. Bit-reversed rows and columns (permute) destroy locality.
    """
    place = locate(data_folder, path)
    train = read(place, "train")
    rows, held_out = hold_out(train.y, validation, validation_size, train_size, train_on_validation, split_seed)
    order = bit_reversal(SIDE) if permute else None

    def samples(images: LabelledImages, chosen: np.ndarray | None = None, random: bool = False) -> PixelSamples:
        chosen = np.arange(len(images.y)) if chosen is None else chosen
        padding = _PADDING if random else 0
        return PixelSamples(images.x, images.y, chosen, mean=MEAN, std=STD, padding=padding, flip=random, order=order)

    text = note(
        f"CIFAR-100: {describe(rows, held_out, validation, split_seed)}",
        "rows and columns in bit-reversed order" if permute else "",
    )
    reporter.say(text)
    return TaskData(
        kind="classes",
        input_shape=(3, SIDE, SIDE),
        num_outputs=_CLASSES,
        train=samples(train, rows, augment),
        validation=samples(train, held_out),
        open_test=lambda: samples(read(place, "test")),
        class_names=class_names(place),
        note=text,
        validation_drawn=train_size is None and not train_on_validation,
    )


def bit_reversal(size: int) -> np.ndarray:
    """Return the permutation [size] that reads the bits of each index backwards, such as 0 4 2 6 1 5 3 7; size is 2^n."""
    bits = size.bit_length() - 1
    if size != 1 << bits:
        raise ValueError(f"{size} is not a power of two")
    return np.array([int(f"{index:0{bits}b}"[::-1], 2) if bits else 0 for index in range(size)])


def locate(data_folder: Path, path: str | None = None) -> Path:
    """Return the folder cifar-100-python, or else the archive; below data_folder/cifar100 where no `path` is given."""
    base = data_folder / "cifar100" if path is None else find(data_folder, "cifar100", ["."], path)[0]
    for folder in (base, base / _FOLDER):
        if all((folder / name).is_file() for name in _MEMBERS):
            return folder
    archive = base / _ARCHIVE
    return archive if archive.is_file() else find(data_folder, "cifar100", [_ARCHIVE], path)[0]


def read(place: Path, name: str) -> LabelledImages:
    """Return the images and fine labels of the file `train` or `test`."""
    (data, labels), where = _entries(place, name, "data", "fine_labels")
    return checked(data, labels, _CLASSES, where)


def class_names(place: Path) -> tuple[str, ...]:
    """Return the names of the fine classes, from the file `meta`."""
    (names,), where = _entries(place, "meta", "fine_label_names")
    if not isinstance(names, list) or len(names) != _CLASSES or not all(isinstance(name, str) for name in names):
        raise DataError(f"'fine_label_names' is not a list of {_CLASSES} names", where=where, hint=_AGAIN)
    return tuple(names)


def _entries(place: Path, name: str, *keys: str) -> tuple[list[Any], str]:
    """Return entries of a file's dict, and the file's name for messages."""
    if place.is_dir():
        where = str(place / name)
        return entries(unpickle(place / name, max_bytes=_MAX_BYTES), keys, where, _AGAIN), where
    where = f"{place}[{_FOLDER}/{name}]"
    return entries(unpickle_bytes(_member(place, f"{_FOLDER}/{name}"), where), keys, where, _AGAIN), where


def _member(archive: Path, name: str) -> bytes:
    """Return one file of the archive, read in memory: nothing is unpacked."""
    first_bytes(archive, str(archive), _AGAIN)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == name and entry.isfile():
                    if entry.size > _MAX_BYTES:
                        raise UnsafeError(f"'{name}' has more than {_MAX_BYTES} bytes", where=str(archive))
                    file = tar.extractfile(entry)
                    assert file is not None
                    return file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"is damaged ({error})", where=str(archive), hint=_AGAIN) from error
    raise DataError(f"holds no file '{name}'", where=str(archive), hint=_AGAIN)
