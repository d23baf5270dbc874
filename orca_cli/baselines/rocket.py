"""MiniRocket's features of series (Dempster et al. 2021, arXiv 2012.08791), by aeon.

What it has learned are five arrays. They are kept, and put back into aeon's class for new series.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines.foreign_arrays import ForeignArrays
from orca_cli.exceptions import need

AEON = "aeon.transformations.collection.convolution_based"
# In the order of aeon's `parameters`: of every kernel at every dilation the number of its channels,
# and these channels; the dilations, and how many features each makes; the features' thresholds.
_PARAMETERS = {
    "channel_counts": np.int32,
    "channels": np.int32,
    "dilations": np.int32,
    "feature_counts": np.int32,
    "biases": np.float32,
}
_KERNELS = 84
# Steps: the length of the kernels. Shorter series are padded with zeros.
_SHORTEST = 9


@dataclass(frozen=True)
class Rocket:
    """A fitted MiniRocket."""

    # In the order of `_PARAMETERS`.
    parameters: tuple[np.ndarray, ...]

    @classmethod
    def fitted_to(cls, x: np.ndarray, seed: int) -> "Rocket":
        """Return a MiniRocket that is fitted to series [n, C, T]."""
        estimator = importlib.import_module(AEON).MiniRocket(random_state=seed, n_jobs=1)
        return cls(estimator.fit(_long_enough(x)).parameters)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Return its arrays by name."""
        return dict(zip(_PARAMETERS, self.parameters, strict=True))

    @classmethod
    def read(cls, arrays: ForeignArrays, shape: tuple[int, ...]) -> "Rocket":
        """Return a MiniRocket of series of this shape, (C, T), from arrays that may be forged.

        Raises:
            UnsafeError: aeon's compiled code, which checks nothing, would leave the arrays.
        """
        num_channels, length = shape
        rocket = cls(tuple(arrays.take(name, _PARAMETERS[name], (None,)) for name in _PARAMETERS))
        channel_counts, channels, dilations, feature_counts, biases = rocket.parameters
        # As MiniRocket draws them: half of a series at most is padding.
        longest = (max(length, _SHORTEST) - 1) // (_SHORTEST - 1)
        if not len(dilations) or (dilations < 1).any() or (dilations > longest).any():
            raise arrays.error("dilations", f"is not within 1 to {longest}")
        num_kernels = _KERNELS * len(dilations)
        is_counted = (channel_counts >= 1).all() and (channel_counts <= num_channels).all()
        if len(channel_counts) != num_kernels or not is_counted:
            raise arrays.error("channel_counts", f"is not {num_kernels} numbers of channels")
        is_within = (channels >= 0).all() and (channels < num_channels).all()
        if len(channels) != channel_counts.sum(dtype=np.int64) or not is_within:
            raise arrays.error("channels", f"does not name channels out of {num_channels}")
        num_features = _KERNELS * feature_counts.sum(dtype=np.int64)
        is_split = len(feature_counts) == len(dilations) and (feature_counts >= 1).all()
        if not is_split or num_features != len(biases):
            raise arrays.error("feature_counts", f"does not divide the {len(biases)} features")
        return rocket

    @property
    def width(self) -> int:
        """Return the number of features of a series."""
        return len(self.parameters[-1])

    def features(self, x: np.ndarray) -> np.ndarray:
        """Return the features [m, F] of series [m, C, T]; UnavailableError without aeon."""
        padded = _long_enough(x)
        estimator: Any = need(AEON, "minirocket", "peers").MiniRocket(n_kernels=_KERNELS, n_jobs=1)
        # aeon accepts parameters once it is fitted, to whatever series of the same shape.
        estimator.fit(padded[:1])
        estimator.parameters = self.parameters
        return np.asarray(estimator.transform(padded))


def _long_enough(x: np.ndarray) -> np.ndarray:
    missing_steps = max(0, _SHORTEST - x.shape[2])
    return np.pad(x, ((0, 0), (0, 0), (0, missing_steps)))
