"""CIFAR-100 (Krizhevsky 2009): 32 x 32 colour images of 100 fine classes.

The data set has 50,000 training images and 10,000 test images. They are read from the archive of
the Python version, whose files `train`, `test` and `meta` are pickles of Python 2. The reader does
not run any code of these pickles.

Shapes: N images of a file, n of a split.
"""

import tarfile
from pathlib import Path
from typing import Annotated, Any, Literal

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
# Mean and deviation of the training pixels in 0..1: red, green, blue.
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)
_CLASSES = 100
ARCHIVE = "cifar-100-python.tar.gz"
_MAX_BYTES = 2**28  # 256 MiB, limit on a file in the archive; `train` has 155 MB
_PADDING = 4  # pixels around an image for random crops in training


def load(
    data_folder: Path,
    path: Annotated[
        str | None, "folder with the archive; null: folder cifar100 of the data folder (paths.data)"
    ] = None,
    validation: Annotated[
        Literal["stratified", "last"],
        "choice of the validation images. stratified: drawn from the 50,000 training images with "
        "the proportions of the classes; last: the last training images",
    ] = "stratified",
    validation_size: Annotated[
        Count | Fraction,
        "validation images to take from the training images: a fraction (below 1) or a number (1 "
        "or more)",
    ] = 0.1,
    train_size: Annotated[
        Count | None,
        "number of training images, stratified by class: 1 or more; null: all images that are not "
        "in the validation split",
    ] = None,
    train_on_validation: Annotated[
        bool,
        "true: train on the validation images as well, as in experiments without a validation "
        "split",
    ] = False,
    split_seed: Annotated[
        Seed,
        "seed of the draw of validation and training images, 0..2147483647; "
        "not the seed of the run",
    ] = 0,
    augment: Annotated[
        bool,
        "true: in optimizer steps, images are mirrored at random, framed by 4 zero pixels on each "
        "side, and cropped at random",
    ] = True,
) -> TaskData:
    """Return images [n, 3, 32, 32], normalised by the training pixels' mean and deviation.

    The images have 100 classes. A tenth of them for validation is 50 images of each class, which
    gives a standard error of 0.7 points; NAS-Bench-360 uses the last 10,000 images.
    """
    (archive,) = find(data_folder, "cifar100", [ARCHIVE], path)
    x, y = read(archive, "train")  # [50000, 3, 32, 32], [50000]
    train_rows, validation_rows = hold_out(
        y,
        validation=validation,
        validation_size=validation_size,
        train_size=train_size,
        train_on_validation=train_on_validation,
        split_seed=split_seed,
    )
    return TaskData(
        kind="classes",
        input_shape=(3, SIDE, SIDE),
        num_outputs=_CLASSES,
        train=PixelSamples(
            x, y, train_rows, mean=MEAN, std=STD, padding=_PADDING if augment else 0, flip=augment
        ),
        validation=PixelSamples(x, y, validation_rows, mean=MEAN, std=STD),
        # A function, so that the test images are read only when the test split is opened.
        open_test=lambda: PixelSamples(*read(archive, "test"), mean=MEAN, std=STD),
        class_names=class_names(archive),
        validation_drawn=train_size is None and not train_on_validation,
    )


def read(archive: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 3, 32, 32] uint8 and fine labels [N] int64 of the file `train` or `test`.

    Raises DataError if the archive or the file is missing, damaged or of another form. Raises
    UnsafeError for more than 256 MiB, and for a pickle that contains more than data.
    """
    pixels, labels = _entries(archive, name, "data", "fine_labels")  # pixels [N, 3072]
    return checked(pixels, labels, _CLASSES, f"{archive}[{name}]")


def checked(
    x: object, labels: object, num_classes: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return images as uint8 [N, 3, 32, 32] and N labels in 0..num_classes-1 as int64.

    Images may also be stored as [N, 3072]. Raises DataError if images or labels have another form;
    the message names `where` (file and entry).
    """
    flat = (3 * SIDE**2,)
    if isinstance(x, np.ndarray) and x.shape[1:] == flat:
        # An image has all red pixels, then all green, then all blue pixels, each in rows.
        x = x.reshape(-1, 3, SIDE, SIDE)
    images = check_array(x, ("N", 3, SIDE, SIDE), where, "images", dtype="uint8")
    return images, class_numbers(labels, len(images), num_classes, where)


def class_names(archive: Path) -> tuple[str, ...]:
    """Return the names of the fine classes, from the file `meta`; errors as in `read`."""
    (names,) = _entries(archive, "meta", "fine_label_names")
    if not isinstance(names, list) or len(names) != _CLASSES:
        raise fault(f"must have {_CLASSES} names in 'fine_label_names'", f"{archive}[meta]")
    return tuple(map(str, names))


def _entries(archive: Path, name: str, *keys: str) -> list[Any]:
    """Return entries of the dict in one file of the archive."""
    where = f"{archive}[{name}]"
    record = unpickle_bytes(_content(archive, name), where)
    return entries(record, keys, where)


def _content(archive: Path, name: str) -> bytes:
    """Return the content of one file of the archive; read it in memory without unpacking."""
    member_name = f"cifar-100-python/{name}"
    # A saved web page instead of the archive gets its own message, not the message on damage.
    first_bytes(archive, str(archive), AGAIN)
    with damage(str(archive), "archive"), tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.name != member_name:
                continue
            file = tar.extractfile(member)
            if file is None:  # a folder or a link has no content
                break
            # Checked before the content is read.
            if member.size > _MAX_BYTES:
                message = f"'{name}' has more bytes than the limit of {_MAX_BYTES:,}"
                raise UnsafeError(message, where=str(archive))
            return file.read()
        raise fault(f"has no file '{member_name}'", archive)
