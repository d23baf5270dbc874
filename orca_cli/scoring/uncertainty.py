"""Standard errors and intervals: how far an error may be from the error on many more test samples.

Units are drawn and counted: samples, or records if samples are cut from records.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_cli import seeding
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Error, Score

# More resamples are seldom needed for a standard error (Efron and Tibshirani 1993, chapter 6).
_RESAMPLES = 200
_LEAST = 20  # smallest number of resamples; the deviation of fewer is not reliable
_CELLS = 2**26  # largest number of entries of outputs in all resamples together
_TAIL = 0.025  # probability on either side of a 95 % interval


def standard_error(
    error: Error, models: Sequence[np.ndarray], targets: np.ndarray, groups: np.ndarray | None
) -> float | None:
    """Return the standard error of a model's error, or of the difference of two models' errors.

    It is the standard deviation over test splits like this one, estimated by the bootstrap, which
    is paired for two models (Efron and Tibshirani 1993, chapters 6 and 8).

    Args:
        error: error of the task.
        models: outputs [n, K, ...] of one model or of two models.
        targets: targets of the same n samples.
        groups: records of these samples, [n], or None.

    Returns:
        None if it cannot be computed: for fewer than two units, for outputs too large to be drawn
            20 times, or if the error is undefined on at least half of the resamples.
    """
    rows_of_unit = _rows_of_units(targets, groups)
    count = len(rows_of_unit)
    # Large outputs, such as maps, are drawn fewer times, which bounds the time.
    resamples = min(_RESAMPLES, _CELLS // max(1, models[0].size))
    if count < 2 or resamples < _LEAST:
        return None
    # The seed is fixed, so that a report shows the same interval each time.
    generator = seeding.numpy_generator(0, "report", "bootstrap")
    estimates = []
    for _ in range(resamples):
        # A resample has as many units as the split, drawn with replacement.
        drawn = [rows_of_unit[number] for number in generator.integers(count, size=count)]
        rows = np.concatenate(drawn)
        records = None
        # A record that is drawn twice counts as two records.
        if groups is not None:
            records = np.repeat(np.arange(count), [len(samples) for samples in drawn])
        try:
            # Both models are evaluated on the same rows, which makes the bootstrap paired.
            scores = [error(outputs[rows], targets[rows], records) for outputs in models]
        except OrcaError:
            return None
        errors = [score.value for score in scores if score.value is not None]
        # The error may be undefined on a resample, for example because a class is missing.
        if len(errors) == len(models):
            estimate = errors[-1] - errors[0] if len(models) > 1 else errors[0]
            estimates.append(estimate)
    # The few remaining resamples would be a biased selection.
    if len(estimates) <= resamples / 2:
        return None
    return float(np.std(estimates, ddof=1))


def effective_size(score: Score, targets: np.ndarray, groups: np.ndarray | None) -> float:
    """Return the number of samples of equal weight that are as informative as a test split.

    It is Kish's (sum of weights)^2 / (sum of squared weights). For an error that is a mean over
    samples it is the number of samples. It is less if records have different sizes, or if the error
    is a mean over classes or labels, since a sample of a rare class then weighs more.

    Args:
        score: the error on the split.
        targets, groups: as in `standard_error`.
    """
    weights = np.ones(len(targets))
    is_mean_over_samples = score.n + score.skipped == len(targets)
    if targets.ndim == 1 and targets.dtype.kind != "f":
        # Ignored classes are -100.
        is_known = targets >= 0
        weights = is_known.astype(float)
        if not is_mean_over_samples:
            # Each class weighs 1, which its samples share.
            classes = targets[is_known]
            weights[is_known] = 1 / np.bincount(classes)[classes]
    elif targets.ndim == 2 and not is_mean_over_samples:
        # Each label weighs 1, which the samples that have it share.
        is_present = targets > 0.5
        label_counts = np.maximum(is_present.sum(axis=0), 1)
        weights = (is_present / label_counts).sum(axis=1)
    # The samples of a record are one draw, so their weights add up: [U].
    unit_weights = np.bincount(_units(targets, groups), weights)
    if not unit_weights.any():
        return 1.0
    total = unit_weights.sum()
    return float(total**2 / np.square(unit_weights).sum())


def interval(
    error: Error, score: Score, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
) -> tuple[float, float] | None:
    """Return the 95 % interval of a model's error, `score`.

    For an error in per cent it is Clopper and Pearson's at the effective size (Korn and Graubard
    1998), which is exact for a 0-1 error over samples. For any other it is the bootstrap's, by
    Student's t and on a logarithmic scale, since errors are positive and skewed. The other
    arguments are as in `standard_error`.

    Returns:
        None if it cannot be computed: for an error that is undefined, or that is not in per cent
            and not above its standard error.
    """
    from scipy.special import betaincinv, stdtrit

    if score.value is None:
        return None
    if error.percent and 0 <= score.value <= 1:
        size = effective_size(score, targets, groups)
        # These need not be whole numbers; the beta distribution allows fractions.
        wrong = score.value * size
        right = size - wrong
        # The ends of Clopper and Pearson's interval are quantiles of beta distributions, except 0
        # and 1 at the borders.
        lower = betaincinv(wrong, right + 1, _TAIL) if wrong > 0 else 0.0
        upper = betaincinv(wrong + 1, right, 1 - _TAIL) if right > 0 else 1.0
        return float(lower), float(upper)
    deviation = standard_error(error, [outputs], targets, groups)
    if deviation is None or score.value <= deviation:
        return None
    freedom = count_units(targets, groups) - 1
    # By the delta method, the deviation of log(error) is the deviation of the error over the error.
    half_width = stdtrit(freedom, 1 - _TAIL) * deviation
    factor = math.exp(half_width / score.value)
    return score.value / factor, score.value * factor


def count_units(targets: np.ndarray, groups: np.ndarray | None) -> int:
    """Return the number of samples, or of records if samples are cut from records."""
    return len(np.unique(_units(targets, groups)))


def _units(targets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the unit of each sample, [n] in 0..U-1: the sample itself, or its record."""
    if groups is None:
        return np.arange(len(targets))
    _, unit = np.unique(groups, return_inverse=True)
    return unit.reshape(-1)


def _rows_of_units(targets: np.ndarray, groups: np.ndarray | None) -> list[np.ndarray]:
    """Return the rows of each unit, in order."""
    unit = _units(targets, groups)
    sorted_rows = np.argsort(unit, kind="stable")
    ends = np.bincount(unit).cumsum()
    return np.split(sorted_rows, ends[:-1])
