"""scikit-learn's 1,797 handwritten digits: a source for image bodies that needs no download."""

from typing import Annotated

import numpy as np
from annotated_types import Ge
from sklearn.datasets import load_digits

from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.interfaces import Examples, SourceData


def load(size: Annotated[int, Ge(20)] | None, seed: int) -> SourceData:
    """Return grey 8 x 8 images [n, 3, 8, 8] in 0..1, the grey value in all three channels.

    The images have 10 classes. A draw of `size` images is balanced over the digits; None means all
    1,797 images.
    """
    digits = load_digits()
    chosen = draw(digits.target, size, seed)

    def read() -> Examples:
        grey = digits.images[chosen] / 16.0  # [n, 8, 8], stored as 0..16
        images = np.repeat(grey[:, None], 3, axis=1)  # [n, 3, 8, 8]
        return Examples(
            inputs=images.astype(np.float32),
            labels=digits.target[chosen].astype(np.int64),
            class_names=tuple(map(str, digits.target_names)),
        )

    return SourceData("image", facts_digest("digits", digits.images, digits.target, chosen), read)
