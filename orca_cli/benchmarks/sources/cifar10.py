"""CIFAR-10: 32 x 32 colour images of 10 classes; the paper's source for image bodies (section 4.1).

Read from the files that torchvision keeps (folder cifar-10-batches-py), or from one .npz with x_train and y_train. Only
training images are used.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.data.untrusted.cifar import CIFAR10_NAMES, read_cifar10
from orca_cli.interfaces import Examples, SourceData

_WITHOUT = "`orca data get cifar10` fetches it; without it: source=digits, which needs no files, or metric=none"


def load(size: Annotated[int, Ge(20)] | None, seed: int, data_folder: Path, path: str | None = None) -> SourceData:
    """Return images [n, 3, 32, 32] in 0..1 and their classes, balanced over these.

    A `path` is another .npz file, or folder that is or holds cifar-10-batches-py.
    """
    images = read_cifar10(data_folder, path, ["train"], "source.path", _WITHOUT)["train"]
    chosen = draw(images.y, size, seed)
    x, y = images.x[chosen], images.y[chosen].astype(np.int64)

    def read() -> Examples:
        return Examples(x.astype(np.float32) / np.float32(255), y, CIFAR10_NAMES)

    return SourceData("image", facts_digest("cifar10", x, y), read)
