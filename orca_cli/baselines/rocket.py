"""MiniRocket's features of series (Dempster et al. 2021, arXiv 2012.08791), by aeon.

A fitted MiniRocket consists of five arrays. They are stored, and put back into aeon's class for new
series.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines.foreign_arrays import taken
from orca_cli.exceptions import UnsafeError, need

AEON = "aeon.transformations.collection.convolution_based"
# Arrays in the order of aeon's `parameters`: the number of channels of every kernel at every
# dilation, and these channels; the dilations, and the number of features of each dilation; the
# features' thresholds.
_FORMS = {
    "channel_counts": (np.int32, "N"),
    "channels": (np.int32, "S"),
    "dilations": (np.int32, "D"),
    "feature_counts": (np.int32, "D"),
    "biases": (np.float32, "F"),
}
_KERNELS = 84
# Length of the kernels, in steps. Shorter series are padded with zeros.
_SHORTEST = 9


@dataclass(frozen=True)
class Rocket:
    """A fitted MiniRocket: its arrays by name."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def fitted_to(cls, x: np.ndarray, seed: int) -> "Rocket":
        """Return a MiniRocket that is fitted to series [n, C, T]."""
        estimator = _estimator(random_state=seed).fit(_long_enough(x))
        return cls(dict(zip(_FORMS, estimator.parameters, strict=True)))

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], prefix: str, shape: list[int]) -> "Rocket":
        """Return a MiniRocket of series of this shape, [C, T], from untrusted arrays.

        Raises:
            UnsafeError: aeon's compiled code, which checks nothing, would index outside the arrays.
        """
        parameters = taken(arrays, _FORMS, prefix, {})
        num_channels, length = shape
        # The padding is at most as long as the series.
        longest = (max(length, _SHORTEST) - 1) // (_SHORTEST - 1)
        for name, least, greatest in (
            ("channel_counts", 1, num_channels),
            ("channels", 0, num_channels - 1),
            ("dilations", 1, longest),
            ("feature_counts", 1, len(parameters["biases"])),
        ):
            if ((parameters[name] < least) | (parameters[name] > greatest)).any():
                raise UnsafeError(
                    f"values of array '{prefix}{name}' must be between {least} and {greatest}"
                )
        for name, expected in (
            ("channel_counts", _KERNELS * len(parameters["dilations"])),
            ("channels", parameters["channel_counts"].sum(dtype=np.int64)),
            ("biases", _KERNELS * parameters["feature_counts"].sum(dtype=np.int64)),
        ):
            if not expected or len(parameters[name]) != expected:
                raise UnsafeError(f"array '{prefix}{name}' does not have {expected} entries")
        return cls(parameters)

    def features(self, x: np.ndarray) -> np.ndarray:
        """Return the features [m, F] of series [m, C, T].

        Raises:
            UnavailableError: aeon is not installed.
        """
        padded = _long_enough(x)
        estimator = _estimator(n_kernels=_KERNELS)
        # aeon accepts parameters only after a fit, to any series of the same shape.
        estimator.fit(padded[:1])
        estimator.parameters = tuple(self.arrays.values())
        return np.asarray(estimator.transform(padded))


def _estimator(**settings: int) -> Any:
    return need(AEON, "minirocket", "peers").MiniRocket(n_jobs=1, **settings)


def _long_enough(x: np.ndarray) -> np.ndarray:
    missing_steps = max(0, _SHORTEST - x.shape[2])
    return np.pad(x, ((0, 0), (0, 0), (0, missing_steps)))
