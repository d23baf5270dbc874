"""Errors of real-valued targets, over a whole split: each of the K outputs has its own, and the error is their mean.

Outputs and targets are [n, K] or [n, K, *E], in the task's units; positions count like samples. Targets of NaN are left out,
and an output without a known target is skipped. These are scikit-learn's, with `multioutput="uniform_average"`.
"""

from __future__ import annotations

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import differences, mean_constant


class _Values:
    """Base of the errors below; each score has the other errors in `others`."""

    name: str
    percent, constant = False, mean_constant

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` counts known targets, `skipped` the others, and all of outputs for which it is undefined."""
        takes = "outputs and real-valued targets of one shape (n, K) or (n, K, *E)"
        difference, known = (np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in differences(outputs, targets, takes))
        target = np.moveaxis(targets, 1, 0).reshape(known.shape).astype(np.float64)
        count = known.sum(1)
        mean = np.where(known, target, 0.0).sum(1) / np.maximum(count, 1)
        around = np.where(known, target - mean[:, None], 0.0)
        # Equal targets differ from their computed mean by rounding.
        around[np.abs(around) <= 1e-12 * np.abs(mean)[:, None]] = 0.0
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
        defined = {name: each[~np.isnan(each)] for name, each in values.items()}
        others = {name: float(each.mean()) if len(each) else None for name, each in defined.items()}
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
            median = np.where(np.isnan(median), np.nan_to_num(_median(train_targets.reshape(-1))), median)
        return median.astype(np.float32)


class OneMinusR2(_Values):
    """One minus the coefficient of determination: squared differences over those from the mean of the split's own targets.

    0 is perfect, 1 is as good as that mean, and more is worse.
    """

    name = "1 - R2"


class NormalisedRMSE(_Values):
    """Root mean squared difference over the deviation of the split's own targets; 1 is as good as their mean."""

    name = "RMSE / deviation"


def _median(targets: np.ndarray) -> np.ndarray:
    """Return the lower median over the first axis of what is known; NaN where nothing is."""
    middle = np.maximum((~np.isnan(targets)).sum(0) - 1, 0) // 2
    return np.take_along_axis(np.sort(targets, axis=0), middle[None], 0)[0]  # NaN are sorted to the end
