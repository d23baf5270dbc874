"""scikit-learn's 1,797 handwritten digits as images: a source for image bodies that needs no download."""

from typing import Annotated

import numpy as np
from annotated_types import Ge
from sklearn.datasets import load_digits

from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.interfaces import Examples, SourceData


def load(size: Annotated[int, Ge(20)] | None, seed: int) -> SourceData:
    """Return grey 8 x 8 images [n, 3, 8, 8] in 0..1, the grey value in all three channels; 10 classes.

    A size is balanced over the digits; None is all 1,797.
    """
    data = load_digits()
    chosen = draw(data.target, size, seed)

    def read() -> Examples:
        grey = (data.images[chosen] / 16.0).astype(np.float32)  # stored as 0..16
        images = np.repeat(grey[:, None], 3, axis=1)
        return Examples(
            images, data.target[chosen].astype(np.int64), tuple(map(str, data.target_names))
        )

    return SourceData("image", facts_digest("digits", data.images, data.target, chosen), read)
