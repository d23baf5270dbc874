"""CIFAR-10: 32 x 32 colour images of 10 classes; the paper's source for image bodies (section 4.1).

Read from the files that torchvision keeps (folder cifar-10-batches-py), or from one .npz with x_train and y_train. The source
is the training images.
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
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_FIRST = "data_batch_1"
_OTHERS = ([f"cifar-10-batches-py/{_FIRST}"], ["cifar10*.npz"])


def load(
    size: Annotated[int, Ge(20)] | None, seed: int, data_folder: Path, path: str | None = None
) -> SourceData:
    """Return images [n, 3, 32, 32] in 0..1 and their classes, balanced over these.

    A `path` is another .npz file, or folder that is or holds cifar-10-batches-py.
    """
    x, y = read(
        data_folder,
        path,
        ["train"],
        "source.path",
        "source=digits needs no files, nor does metric=none",
    )["train"]
    chosen = draw(y, size, seed)
    x, y = x[chosen], y[chosen]

    def examples() -> Examples:
        return Examples(x.astype(np.float32) / np.float32(255), y, NAMES)

    return SourceData("image", facts_digest("cifar10", x, y), examples)


def read(
    data_folder: Path, path: str | None, parts: Sequence[str], key: str, hint: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images [N, 3, 32, 32] uint8 and labels [N] int64 of the parts, "train" and "test", of CIFAR-10.

    They are in data_folder/cifar10, or in `path`, which the setting `key` gives: the file or folder. An .npz has x_PART and
    y_PART for each part. `hint` says what to do without them.

    Raises:
        DataError: files are missing, damaged or have another form.
        UnsafeError: reading a file would execute code.
    """
    (place,) = find(
        data_folder,
        "cifar10",
        [_FIRST],
        path,
        f"or an .npz with x_train, y_train, ...; {hint}",
        key,
        _OTHERS,
    )
    if place.name != _FIRST:
        stored = open_arrays(place, str(place), AGAIN)
        named = {part: entries(stored, [f"x_{part}", f"y_{part}"], str(place)) for part in parts}
        return {
            part: checked(x.read(), y.read(), 10, f"{place}[{part}]")
            for part, (x, y) in named.items()
        }
    images = {}
    for part in parts:
        batches = []
        for file in map(place.with_name, _BATCHES[part]):
            signals.check()
            data, labels = entries(unpickle(file, max_bytes=2**28), ("data", "labels"), str(file))
            batches.append(checked(data, labels, 10, str(file)))
        x, y = map(np.concatenate, zip(*batches, strict=True))
        images[part] = x, y
    return images
