"""CIFAR-100 (Krizhevsky 2009): 32 x 32 colour images of 100 fine classes, 50,000 for training and 10,000 for test.

Read from the archive of the Python version: the files `train`, `test` and `meta` in it, pickles of Python 2 that are read
without running anything.
"""

import tarfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.pixels import PixelSamples
from orca_cli.data.published import AGAIN, check_array, class_numbers, entries, fault, find
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.pickle import unpickle_bytes
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import TaskData

SIDE = 32
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of the training pixels in 0..1
_CLASSES = 100
ARCHIVE = "cifar-100-python.tar.gz"
_MAX_BYTES = 256 * 2**20  # `train` has 155 MB
_PADDING = 4  # of the random crop in training


def load(
    data_folder: Path,
    path: str | None = None,
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
    augment: bool = True,
) -> TaskData:
    """Return images [n, 3, 32, 32], normalised by the training pixels' mean and deviation, with 100 classes.

    A tenth for validation gives 50 images a class, enough for a standard error of 0.7 points; NAS-Bench-360 takes the last
    10,000.
    """
    (archive,) = find(data_folder, "cifar100", [ARCHIVE], path)
    x, y = read(archive, "train")
    rows, held_out = hold_out(
        y, validation, validation_size, train_size, train_on_validation, split_seed
    )
    samples = partial(PixelSamples, mean=MEAN, std=STD)
    return TaskData(
        kind="classes",
        input_shape=(3, SIDE, SIDE),
        num_outputs=_CLASSES,
        train=samples(x, y, rows, padding=_PADDING if augment else 0, flip=augment),
        validation=samples(x, y, held_out),
        open_test=lambda: samples(*read(archive, "test")),
        class_names=class_names(archive),
        validation_drawn=train_size is None and not train_on_validation,
    )


def read(archive: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images [N, 3, 32, 32] uint8 and fine labels [N] int64 of the file `train` or `test`.

    DataError where archive or file are missing, damaged or of another form; UnsafeError for more than 256 MiB, and for a
    pickle that holds more than data.
    """
    data, labels = _entries(archive, name, "data", "fine_labels")
    return checked(data, labels, _CLASSES, f"{archive}[{name}]")


def checked(
    x: object, labels: object, num_classes: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [N, 3072] or [N, 3, 32, 32], in the latter form, and N labels in 0..num_classes-1 as int64.

    Raises DataError, with `where` (file and entry), if they have another form.
    """
    if isinstance(x, np.ndarray) and x.shape[1:] == (3 * SIDE**2,):
        x = x.reshape(-1, 3, SIDE, SIDE)
    images = check_array(x, ("N", 3, SIDE, SIDE), where, what="images", dtype="uint8")
    return images, class_numbers(labels, len(images), num_classes, where)


def class_names(archive: Path) -> tuple[str, ...]:
    """Return the names of the fine classes, from the file `meta`; errors as those of `read`."""
    (names,) = _entries(archive, "meta", "fine_label_names")
    if not isinstance(names, list) or len(names) != _CLASSES:
        raise fault(f"does not list {_CLASSES} 'fine_label_names'", f"{archive}[meta]")
    return tuple(map(str, names))


def _entries(archive: Path, name: str, *keys: str) -> list[Any]:
    """Return entries of the dict in one file of the archive, read in memory: nothing is unpacked."""
    first_bytes(archive, str(archive), AGAIN)
    with damage(str(archive), "archive"), tarfile.open(archive, "r:*") as tar:
        member = next((entry for entry in tar if entry.name == f"cifar-100-python/{name}"), None)
        file = tar.extractfile(member) if member else None
        if member is None or file is None:
            raise fault(f"holds no file 'cifar-100-python/{name}'", archive)
        if member.size > _MAX_BYTES:
            raise UnsafeError(f"'{name}' has more than {_MAX_BYTES} bytes", where=str(archive))
        content = file.read()
    where = f"{archive}[{name}]"
    return entries(unpickle_bytes(content, where), keys, where)
