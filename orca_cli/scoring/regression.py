"""Errors of real-valued targets, over a whole split; targets of NaN are left out.

RMSE, MAE, OneMinusR2 and NormalisedRMSE are scikit-learn's, with `multioutput="uniform_average"`:
each of the K outputs has an error, and their mean is reported. Positions count like samples. An
output without a known target is skipped.
"""

import math

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import differences, mean, mean_constant


class RelativeL2:
    """Mean over samples of |output - target| / |target|, the usual error of neural operators.

    |.| is the Euclidean norm over channels and positions. Samples whose target is zero or unknown
    everywhere are skipped.
    """

    name = "relative l2"
    percent = False

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count samples."""
        difference, is_known = differences(outputs, targets)
        norm = np.linalg.norm(_flat(np.where(is_known, targets, 0.0)), axis=1)
        distance = np.linalg.norm(_flat(difference), axis=1)
        # A target of zero has no relative error: NaN, which `mean` skips.
        return mean(distance / np.where(norm > 0, norm, np.nan))

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K, *E]: nearly the map with the lowest mean relative error over training targets.

        This map is the geometric median with weights 1 / |target|. The best of four candidates is
        returned: the end of 50 Weiszfeld steps from the weighted mean; the target nearest to this
        end, since the steps become slow near a target; the mean; and zero.
        """
        map_shape = train_targets.shape[1:]
        target = _flat(train_targets)  # [n, entries]
        is_known = ~np.isnan(target)
        target = np.where(is_known, target, 0.0)
        norm = np.linalg.norm(target, axis=1)
        weights = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
        if not weights.any():  # all targets are zero or unknown
            return np.zeros(map_shape, train_targets.dtype)
        # A distance of zero would give a target an infinite weight.
        floor = 1e-9 * norm.mean()
        median = _weighted_mean(target, is_known, weights)
        # Weiszfeld's step is a mean in which targets that are farther away have lower weights.
        for _ in range(50):
            distance = np.maximum(_distances(target, is_known, median), floor)
            median = _weighted_mean(target, is_known, weights / distance)
        nearest = target[_distances(target, is_known, median).argmin()]
        plain_mean = _weighted_mean(target, is_known, np.ones_like(norm))
        candidates = [median, nearest, plain_mean, np.zeros_like(median)]
        # The sum of the relative errors over training, for each candidate.
        costs = [_distances(target, is_known, candidate) @ weights for candidate in candidates]
        best = candidates[np.argmin(costs)]
        return best.reshape(map_shape).astype(train_targets.dtype)


class MeanSquared:
    """Mean of (output - target)^2 over all known entries, in squared units of the task."""

    name = "MSE"
    percent = False
    constant = mean_constant

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count entries."""
        difference, is_known = differences(outputs, targets)
        known_count = int(is_known.sum())
        average = None
        if known_count:
            # Unknown entries add 0.
            squares = np.square(_flat(difference))
            average = float(squares.sum()) / known_count
        return Score(value=average, n=known_count, skipped=targets.size - known_count)


class _Values:
    """Base class of scikit-learn's errors; a score has the other errors in `others`."""

    name: str
    percent = False
    constant = mean_constant

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error.

        `n` counts the known targets of outputs whose error is defined, `skipped` all other targets.
        """
        difference, is_known = map(_by_output, differences(outputs, targets))  # [K, n * positions]
        # [K, n * positions], like the differences.
        target = np.where(is_known, _by_output(targets), 0.0).astype(np.float64)
        count = is_known.sum(1)  # [K]
        # The mean of the known targets of each output, [K].
        centre = target.sum(1) / np.maximum(count, 1)
        deviation = np.where(is_known, target - centre[:, None], 0.0)
        # Equal targets may differ from their mean by rounding.
        rounding = 1e-12 * np.abs(centre)
        deviation[np.abs(deviation) <= rounding[:, None]] = 0.0
        # The sums over each output, [K].
        squares = np.square(difference).sum(1)
        distances = np.abs(difference).sum(1)
        spread = np.square(deviation).sum(1)
        # An output without a known target has errors of NaN.
        with np.errstate(invalid="ignore"):
            # Undefined if all targets are equal, since there is no spread to explain.
            unexplained = squares / np.where(spread > 0, spread, np.nan)
            errors = {
                "RMSE": np.sqrt(squares / count),
                "MAE": distances / count,
                "1 - R2": unexplained,
                "RMSE / deviation": np.sqrt(unexplained),
            }
        is_defined = ~np.isnan(errors[self.name])
        counted = int(count[is_defined].sum())
        # Means over outputs; `mean` skips outputs whose error is undefined.
        means = {name: mean(by_output).value for name, by_output in errors.items()}
        reported = means.pop(self.name)
        return Score(value=reported, n=counted, skipped=targets.size - counted, others=means)


class RMSE(_Values):
    """Root of the mean squared difference, in the task's units."""

    name = "RMSE"


class MAE(_Values):
    """Mean absolute difference, in the task's units."""

    name = "MAE"

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K, *E]: the lower median of the training targets at every position.

        A position without a known target gets the median of all targets.
        """
        median = _median(train_targets)
        if np.isnan(median).any():
            # 0 where no target is known at all.
            overall = np.nan_to_num(_median(train_targets.reshape(-1)))
            median = np.where(np.isnan(median), overall, median)
        return median.astype(train_targets.dtype)


class OneMinusR2(_Values):
    """One minus the coefficient of determination, against the mean of the split's own targets.

    0 is perfect, 1 is as good as that mean, and more is worse.
    """

    name = "1 - R2"


class NormalisedRMSE(_Values):
    """Root mean squared difference divided by the standard deviation of the split's own targets.

    1 is as good as predicting their mean.
    """

    name = "RMSE / deviation"


def _flat(entries: np.ndarray) -> np.ndarray:
    """Return entries [n, ...] as [n, entries of a sample], float64."""
    # Computed instead of -1, which would be ambiguous without samples.
    sample_size = math.prod(entries.shape[1:])
    return entries.reshape(len(entries), sample_size).astype(np.float64)


def _by_output(entries: np.ndarray) -> np.ndarray:
    """Return entries [n, K, *E] as [K, n * positions]."""
    return np.moveaxis(entries, 1, 0).reshape(entries.shape[1], -1)


def _distances(target: np.ndarray, is_known: np.ndarray, constant: np.ndarray) -> np.ndarray:
    return np.linalg.norm((target - constant) * is_known, axis=1)


def _weighted_mean(target: np.ndarray, is_known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights @ is_known
    # Unknown targets are 0 here, so an entry that is never known has a mean of 0.
    return weights @ target / np.where(total > 0, total, 1.0)


def _median(targets: np.ndarray) -> np.ndarray:
    """Return the lower median of the known targets over the first axis; NaN where none is known."""
    # The place of the lower median among the known targets, which sort before NaN: [*E].
    known_count = np.sum(~np.isnan(targets), axis=0)
    middle = np.maximum(known_count - 1, 0) // 2
    ordered = np.sort(targets, axis=0)  # NaN at the end
    return np.take_along_axis(ordered, middle[None], 0)[0]
