"""The features of MiniRocket, by aeon (Dempster et al. 2021); `linear.ridge` and `linear.numbers` learn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_SHORTEST = 9  # steps: the length of its kernels; shorter series are padded with zeros


def transformed(x: np.ndarray, seed: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return the features [n, F] of training series [n, C, L], and what makes those of new series."""
    from aeon.transformations.collection.convolution_based import MiniRocket

    rocket: Any = MiniRocket(random_state=seed, n_jobs=1)
    return rocket.fit_transform(_long_enough(x)), lambda new: rocket.transform(_long_enough(new))


def _long_enough(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (0, max(0, _SHORTEST - x.shape[2]))))
