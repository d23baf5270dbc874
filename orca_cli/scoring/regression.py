"""Errors of real-valued targets, over a whole split; targets of NaN are left out.

RMSE, MAE, OneMinusR2 and NormalisedRMSE are scikit-learn's, with `multioutput="uniform_average"`: each of the K outputs has
its own, and the error is their mean. Positions count like samples. An output without a known target is skipped.
"""

import math

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import differences, mean, mean_constant


class RelativeL2:
    """Mean over samples of |output - target| / |target|, both Euclidean norms over all channels and positions.

    The usual error of neural operators. Samples whose target is zero or unknown everywhere are skipped.
    """

    name = "relative l2"
    percent = False

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count samples."""
        difference, known = differences(outputs, targets)
        norm = np.linalg.norm(_flat(np.where(known, targets, 0.0)), axis=1)
        return mean(np.linalg.norm(_flat(difference), axis=1) / np.where(norm > 0, norm, np.nan))

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K, *E]: the map whose mean relative error over the training targets is least, nearly.

        It is the geometric median with weights 1 / |target|: the best of 50 Weiszfeld steps from the weighted mean, the
        target nearest to where they end (near a target they come slowly), the mean, and zero.
        """
        target = _flat(train_targets)
        known = ~np.isnan(target)
        target = np.where(known, target, 0.0)
        norm = np.linalg.norm(target, axis=1)
        weights = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
        if not weights.any():  # targets of zero, or none known
            return np.zeros(train_targets.shape[1:], train_targets.dtype)
        floor = 1e-9 * norm.mean()
        median = _weighted_mean(target, known, weights)
        for _ in range(50):
            distance = np.maximum(_distances(target, known, median), floor)
            median = _weighted_mean(target, known, weights / distance)
        nearest = target[_distances(target, known, median).argmin()]
        candidates = [
            median,
            nearest,
            _weighted_mean(target, known, np.ones_like(norm)),
            np.zeros_like(median),
        ]
        costs = [_distances(target, known, one) @ weights for one in candidates]
        best = candidates[int(np.argmin(costs))].reshape(train_targets.shape[1:])
        return best.astype(train_targets.dtype)


class MeanSquared:
    """Mean of (output - target)^2 over all known entries, in squared units of the task."""

    name, percent, constant = "MSE", False, mean_constant

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count entries."""
        difference, known = differences(outputs, targets)
        n = int(known.sum())
        return Score(
            float(np.square(_flat(difference)).sum()) / n if n else None, n, targets.size - n
        )


class _Values:
    """Base of scikit-learn's errors; each score has the other ones in `others`."""

    name: str
    percent, constant = False, mean_constant

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` counts known targets, `skipped` the others, and all of outputs for which it is undefined."""
        difference, known = (
            np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in differences(outputs, targets)
        )
        target = np.moveaxis(targets, 1, 0).reshape(known.shape).astype(np.float64)
        count = known.sum(1)
        centre = np.where(known, target, 0.0).sum(1) / np.maximum(count, 1)
        around = np.where(known, target - centre[:, None], 0.0)
        # Equal targets differ from their computed mean by rounding.
        around[np.abs(around) <= 1e-12 * np.abs(centre)[:, None]] = 0.0
        squares, spread = np.square(difference).sum(1), np.square(around).sum(1)
        with np.errstate(invalid="ignore"):  # of outputs without a known target
            # Undefined where all targets are equal: nothing is to be explained.
            unexplained = squares / np.where(spread > 0, spread, np.nan)
            values = {
                "RMSE": np.sqrt(squares / count),
                "MAE": np.abs(difference).sum(1) / count,
                "1 - R2": unexplained,
                "RMSE / deviation": np.sqrt(unexplained),
            }
        n = int(count[~np.isnan(values[self.name])].sum())
        others = {name: mean(each).value for name, each in values.items()}
        return Score(others.pop(self.name), n, targets.size - n, others)


class RMSE(_Values):
    """Root of the mean squared difference, in the task's units."""

    name = "RMSE"


class MAE(_Values):
    """Mean absolute difference, in the task's units."""

    name = "MAE"

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K, *E]: the lower median of the training targets at every position; that of all where none is known."""
        median = _median(train_targets)
        if np.isnan(median).any():
            median = np.where(
                np.isnan(median), np.nan_to_num(_median(train_targets.reshape(-1))), median
            )
        return median.astype(train_targets.dtype)


class OneMinusR2(_Values):
    """One minus the coefficient of determination: squared differences over those from the mean of the split's own targets.

    0 is perfect, 1 is as good as that mean, and more is worse.
    """

    name = "1 - R2"


class NormalisedRMSE(_Values):
    """Root mean squared difference over the deviation of the split's own targets; 1 is as good as their mean."""

    name = "RMSE / deviation"


def _flat(x: np.ndarray) -> np.ndarray:
    """Return [n, entries] float64."""
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)


def _distances(target: np.ndarray, known: np.ndarray, constant: np.ndarray) -> np.ndarray:
    return np.linalg.norm((target - constant) * known, axis=1)


def _weighted_mean(target: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights @ known
    return weights @ target / np.where(total > 0, total, 1.0)


def _median(targets: np.ndarray) -> np.ndarray:
    """Return the lower median over the first axis of what is known; NaN where nothing is."""
    middle = np.maximum((~np.isnan(targets)).sum(0) - 1, 0) // 2
    return np.take_along_axis(np.sort(targets, axis=0), middle[None], 0)[
        0
    ]  # NaN are sorted to the end
