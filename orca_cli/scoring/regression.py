"""Errors of dense regression as neural operators have them, over a whole split. Targets of NaN are left out."""

from __future__ import annotations

import math

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import differences, mean_constant

_TAKES = "outputs and real-valued targets of one shape (n, K, *E)"


class RelativeL2:
    """Mean over samples of |output - target| / |target|, both Euclidean norms over all channels and positions.

    The usual error of neural operators. Samples whose target is zero or unknown everywhere are skipped.
    """

    name = "relative l2"
    percent = False

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` and `skipped` count samples."""
        difference, known = differences(outputs, targets, _TAKES)
        norm = np.linalg.norm(_flat(np.where(known, targets, 0.0)), axis=1)
        counted = norm > 0
        n = int(counted.sum())
        value = float((np.linalg.norm(_flat(difference), axis=1)[counted] / norm[counted]).mean()) if n else None
        return Score(value, n, len(norm) - n)

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
            return np.zeros(train_targets.shape[1:], np.float32)
        floor = 1e-9 * norm.mean()
        median = _weighted_mean(target, known, weights)
        for _ in range(50):
            distance = np.maximum(_distances(target, known, median), floor)
            median = _weighted_mean(target, known, weights / distance)
        nearest = target[_distances(target, known, median).argmin()]
        candidates = [median, nearest, _weighted_mean(target, known, np.ones_like(norm)), np.zeros_like(median)]
        costs = [_distances(target, known, one) @ weights for one in candidates]
        return candidates[int(np.argmin(costs))].reshape(train_targets.shape[1:]).astype(np.float32)


class MeanSquared:
    """Mean of (output - target)^2 over all known entries, in squared units of the task."""

    name, percent, constant = "MSE", False, mean_constant

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` and `skipped` count entries."""
        difference, known = differences(outputs, targets, _TAKES)
        n = int(known.sum())
        return Score(float(np.square(_flat(difference)).sum()) / n if n else None, n, targets.size - n)


def _flat(x: np.ndarray) -> np.ndarray:
    """Return [n, entries] float64."""
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)


def _distances(target: np.ndarray, known: np.ndarray, constant: np.ndarray) -> np.ndarray:
    return np.linalg.norm((target - constant) * known, axis=1)


def _weighted_mean(target: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights @ known
    return weights @ target / np.where(total > 0, total, 1.0)
