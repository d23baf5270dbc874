"""How far an error on a few test samples may be from the error on many: standard errors, intervals.

What is drawn or counted are samples, or whole records where samples are cut from records.
"""

import math
from collections.abc import Sequence

import numpy as np

from orca_cli import seeding
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Error, Score

_RESAMPLES = 200
_LEAST = 20  # resamples: fewer say nothing of a deviation
_CELLS = 2**26  # of outputs that all resamples together measure
_TAIL = 0.025  # on either side of an interval of 95 %


def standard_error(
    error: Error, models: Sequence[np.ndarray], targets: np.ndarray, groups: np.ndarray | None
) -> float | None:
    """Return the deviation of one model's error, or of the difference of two, over test sets like this one.

    It is the bootstrap's, paired for two models (Efron and Tibshirani 1993, chapters 6 and 8).

    Args:
        error: of the task.
        models: outputs [n, K, ...] of one model or of two.
        targets, groups: of the same n samples; `groups` [n] are their records, or None.

    Returns:
        None where it cannot be computed: for fewer than two samples or records, for outputs too
            large to be measured 20 times, or where the error is undefined on half of the drawn
            sets.
    """
    unit = _units(targets, groups)
    count = count_units(targets, groups)
    resamples = min(_RESAMPLES, _CELLS // max(1, models[0].size))
    if count < 2 or resamples < _LEAST:
        return None
    by_unit = np.split(np.argsort(unit, kind="stable"), np.bincount(unit).cumsum()[:-1])
    generator = seeding.numpy_generator(0, "report", "bootstrap")
    values = []
    for _ in range(resamples):
        drawn = [by_unit[place] for place in generator.integers(count, size=count)]
        rows, records = np.concatenate(drawn), None
        if groups is not None:
            records = np.repeat(np.arange(count), [len(samples) for samples in drawn])
        try:
            scores = [error(outputs[rows], targets[rows], records) for outputs in models]
        except OrcaError:
            return None
        errors = [score.value for score in scores if score.value is not None]
        if len(errors) == len(models):
            values.append(errors[-1] - errors[0] if len(models) > 1 else errors[0])
    return float(np.std(values, ddof=1)) if len(values) > resamples / 2 else None


def effective_size(score: Score, targets: np.ndarray, groups: np.ndarray | None) -> float:
    """Return as how many samples of equal weight a test split counts: Kish's (sum of weights)^2 / (sum of squared weights).

    It is the number of samples for an error that is a mean over samples. It is less where records
    are of unequal size, and where the error is a mean over classes or labels, since a sample of a
    rare class then weighs more.

    Args:
        score: the error on the split.
        targets, groups: of its n samples, as of `standard_error`.
    """
    weights = np.ones(len(targets))
    is_mean_over_samples = score.n + score.skipped == len(targets)
    if targets.ndim == 1 and targets.dtype.kind != "f":
        known = targets >= 0
        weights = known.astype(float)
        if not is_mean_over_samples:
            weights[known] = 1 / np.bincount(targets[known])[targets[known]]
    elif targets.ndim == 2 and not is_mean_over_samples:
        is_present = targets > 0.5
        weights = (is_present / np.maximum(is_present.sum(axis=0), 1)).sum(axis=1)
    by_unit = np.bincount(_units(targets, groups), weights)
    return float(by_unit.sum() ** 2 / np.square(by_unit).sum()) if by_unit.any() else 1.0


def interval(
    error: Error, score: Score, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
) -> tuple[float, float] | None:
    """Return the 95 % interval of a model's error, `score`.

    The other arguments are as of `standard_error`.

    Of an error in per cent it is Clopper and Pearson's for its effective size (Korn and Graubard
    1998), so exact for a 0-1 error over samples. Of others it is the bootstrap's, by Student's t
    and on a logarithmic scale, since errors are positive and skewed.

    Returns:
        None where it cannot be computed: for an error that is undefined, or no per cent and not
            above its standard error.
    """
    from scipy.special import betaincinv, stdtrit

    if score.value is None:
        return None
    if error.percent and 0 <= score.value <= 1:
        size = effective_size(score, targets, groups)
        wrong = score.value * size
        right = size - wrong
        low = betaincinv(wrong, right + 1, _TAIL) if wrong > 0 else 0.0
        high = betaincinv(wrong + 1, right, 1 - _TAIL) if right > 0 else 1.0
        return float(low), float(high)
    deviation = standard_error(error, [outputs], targets, groups)
    if deviation is None or score.value <= deviation:
        return None
    freedom = count_units(targets, groups) - 1
    factor = math.exp(stdtrit(freedom, 1 - _TAIL) * deviation / score.value)
    return score.value / factor, score.value * factor


def count_units(targets: np.ndarray, groups: np.ndarray | None) -> int:
    """Return the number of samples, or of records where there are such."""
    return len(targets if groups is None else np.unique(groups))


def _units(targets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the unit of each sample, [n] in 0..U-1: the sample itself, or its record."""
    if groups is None:
        return np.arange(len(targets))
    return np.unique(groups, return_inverse=True)[1].reshape(-1)
