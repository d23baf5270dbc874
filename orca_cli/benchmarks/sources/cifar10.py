"""CIFAR-10: 32 x 32 colour images of 10 classes; the paper's source for image bodies (section 4.1).

The images are read from the files that torchvision keeps (folder cifar-10-batches-py), or from an
.npz file with x_train and y_train. The source has the training images only.

Shapes: N images of a split, n images of the source.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import signals
from orca_cli.benchmarks.cifar100 import checked
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.data.published import AGAIN, entries, find
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.interfaces import Examples, SourceData

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FIRST_BATCH = "data_batch_1"
_BATCHES = {
    "train": (_FIRST_BATCH, "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test": ("test_batch",),
}
_OTHERS = ([f"cifar-10-batches-py/{_FIRST_BATCH}"], ["cifar10*.npz"])
_MAX_BYTES = 2**28  # limit on the file of a batch


def load(
    size: Annotated[int, Ge(20)] | None,
    seed: int,
    data_folder: Path,
    path: Annotated[
        str | None,
        "an .npz file with x_train and y_train, or a folder with cifar-10-batches-py; "
        "null: folder cifar10 of the data folder (paths.data)",
    ] = None,
) -> SourceData:
    """Return images [n, 3, 32, 32] in 0..1 and their classes, over which the draw is balanced.

    `path` is an .npz file, or a folder that is or contains cifar-10-batches-py.
    """
    # All 50,000 images and classes, [N, 3, 32, 32] and [N], from which the source is drawn.
    all_x, all_y = read(
        data_folder,
        path,
        # The source has the training images only.
        ["train"],
        key="source.path",
        hint="or use source=digits or metric=none, which need no files",
    )["train"]
    chosen = draw(all_y, size, seed)
    x = all_x[chosen]
    y = all_y[chosen]

    # The images stay bytes until they are used, since bytes take a quarter of the size of float32.
    def examples() -> Examples:
        return Examples(x.astype(np.float32) / np.float32(255), y, NAMES)

    # The digest covers the drawn images themselves and not the files.
    return SourceData("image", facts_digest("cifar10", x, y), examples)


def read(
    data_folder: Path, path: str | None, splits: Sequence[str], key: str, hint: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images [N, 3, 32, 32] uint8 and labels [N] int64 of CIFAR-10's "train" and "test".

    The data are in data_folder/cifar10, or in `path`, a file or folder that the setting `key`
    names. An .npz file has x_SPLIT and y_SPLIT for each split. `hint` is advice for a user without
    the files.

    Raises:
        DataError: files are missing, damaged or have another form.
        UnsafeError: reading a file would execute code.
    """
    (file,) = find(
        data_folder,
        "cifar10",
        [_FIRST_BATCH],
        path,
        hint=f"or use an .npz file with x_train, y_train, ...; {hint}",
        key=key,
        others=_OTHERS,
    )
    # The folder of the first batch contains all other batches.
    if file.name == _FIRST_BATCH:
        return {split: _read_batches(file.parent, split) for split in splits}
    # All names are checked before the first array is read.
    stored = open_arrays(file, str(file), AGAIN)
    arrays_by_split = {}
    for split in splits:
        arrays_by_split[split] = entries(stored, [f"x_{split}", f"y_{split}"], str(file))
    images_by_split = {}
    for split, (x, y) in arrays_by_split.items():
        images_by_split[split] = checked(x.read(), y.read(), len(NAMES), f"{file}[{split}]")
    return images_by_split


def _read_batches(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 3, 32, 32] uint8 and labels [N] int64 of all batches of a split."""
    images = []
    classes = []
    for name in _BATCHES[split]:
        signals.check()
        where = str(folder / name)
        stored = unpickle(folder / name, max_bytes=_MAX_BYTES)
        pixels, labels = entries(stored, ("data", "labels"), where)
        x, y = checked(pixels, labels, len(NAMES), where)
        images.append(x)
        classes.append(y)
    return np.concatenate(images), np.concatenate(classes)
