"""Statistics of paired differences: interval of the mean, exact sign-flip test, no effect, Holm.

A difference is the control's error less the arm's, on the same seed or data set. All differences of
a call have one unit. numpy and scipy are imported where they are used, to keep `orca report` fast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LARGEST_P = 0.05
# 5 differences of the same sign have p = 2/2^5 = 0.0625, and 6 have p = 2/2^6 = 0.031.
LEAST = 6  # fewer differences cannot have a two-sided p of at most 0.05
# The first sign is fixed, so 20 differences have 2^19 sums, 4 MB.
_MOST_EXACT = 20  # up to this number of differences, all 2^n sign patterns are counted
# With this number of patterns, a p of 0.05 has a standard error of 0.0007.
_FLIPS = 100_000  # number of sign patterns that are drawn for more differences
# Float64 rounds gains of 100 points to 1e-14.
ROUNDING = 1e-12  # smaller gains differ from 0 by rounding only
_SAME = 1e-12  # numbers with a smaller relative difference differ by rounding only


@dataclass(frozen=True)
class Effect:
    """The mean of n paired differences, in their unit; `effect` makes it.

    Args:
        deviation: sample standard deviation; 0 for a single difference.
        interval: 95 % interval of the mean; None for a single difference.
        p: two-sided p of the sign-flip test: the share of sign patterns whose mean is at least as
            far from 0 as the observed mean.
        smallest: smallest possible p with this number of differences other than 0.
    """

    n: int
    mean: float
    deviation: float
    interval: tuple[float, float] | None
    p: float
    smallest: float


def effect(differences: Sequence[float]) -> Effect:
    """Return the effect of one or more differences."""
    deviation = stdev(differences) if len(differences) > 1 else 0.0
    # A difference of 0 is the same under both signs, so it adds no sign pattern. If all are 0, the
    # bound of 1 applies.
    n_nonzero = len(differences) - differences.count(0)
    smallest = min(1.0, 2.0 ** (1 - n_nonzero))
    return Effect(
        n=len(differences),
        mean=fmean(differences),
        deviation=deviation,
        interval=interval(differences),
        p=sign_flip(differences),
        smallest=smallest,
    )


def signs(gains: Sequence[float]) -> dict[str, int]:
    """Return how many gains are wins, ties (0 except for rounding) and losses."""
    wins = 0
    losses = 0
    for gain in gains:
        wins += gain > ROUNDING
        losses += gain < -ROUNDING
    return {"wins": wins, "ties": len(gains) - wins - losses, "losses": losses}


def no_effect(observed: Effect, margin: float) -> float:
    """Return the p of two one-sided t tests that the true mean is within the margin.

    A p of at most 0.05 shows that the true mean is between -margin and margin (Schuirmann 1987); if
    it is exactly at the margin, normal differences give such a p in 5 % of all cases. A single
    difference has p = 1. Equal differences have p = 0 if they are within the margin, else p = 1.
    """
    # Distance to the nearer end, whose test has the larger p.
    distance = margin - abs(observed.mean)
    if observed.n < 2:
        return 1.0
    # Without a spread t would be infinite.
    if not observed.deviation:
        return float(distance <= 0)
    from scipy.special import stdtr

    # -distance / standard error; p is the lower tail with n - 1 degrees of freedom.
    student_t = -distance * math.sqrt(observed.n) / observed.deviation
    return float(stdtr(observed.n - 1, student_t))


def relative(base: float, error: float) -> float:
    """Return base - error divided by the mean of both sizes, in [-2, 2].

    It is above 0 if `error` is lower, and 0 if the two differ by rounding only. It orders pairs of
    positive errors as log(base / error) does, and is about as large if they are close. Unlike the
    logarithm, it is defined for an error of 0.
    """
    if math.isclose(base, error, rel_tol=_SAME):
        return 0.0
    # Two errors of 0 are close, so the sum of sizes here is above 0.
    return 2 * (base - error) / (abs(base) + abs(error))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t; None for one value.

    The interval of a BCa bootstrap would be too short for few values: for three normal values it
    contains the mean in 72 % of all cases.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean = fmean(values)
    standard_error = stdev(values) / math.sqrt(len(values))
    # 2.5 % lie beyond each end.
    half_width = float(stdtrit(len(values) - 1, 0.975)) * standard_error
    return mean - half_width, mean + half_width


def sign_flip(values: Sequence[float]) -> float:
    """Return the two-sided p of the sign-flip test that values are symmetric about 0.

    It is the share of all sign patterns of the values whose sum is at least as far from 0 as the
    observed sum. It is exact for up to 20 values other than 0; for more values, 100,000 patterns
    are drawn with seed 0. It is 1 if all values are 0.
    """
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    # [n]; a 0 is the same under both signs, so it changes no sum.
    nonzero = numbers[numbers != 0]
    if not len(nonzero):
        return 1.0
    # Sums of the same numbers in another order may differ in the last bits.
    rounding = _SAME * float(np.abs(nonzero).sum())
    bound = abs(math.fsum(nonzero)) - rounding
    if len(nonzero) <= _MOST_EXACT:
        # [1], then [2], [4], ..., [2^(n-1)]: each further difference is added and subtracted.
        sums = nonzero[:1]  # every pattern has its mirror image, so the first sign is fixed
        for value in nonzero[1:]:
            sums = np.concatenate([sums + value, sums - value])
        is_far = np.abs(sums) >= bound
        return float(np.mean(is_far))
    # The seed is fixed, so that the same runs have the same p in every report.
    generator = np.random.default_rng(0)
    patterns = generator.choice([-1.0, 1.0], size=(_FLIPS, len(nonzero)))  # [flips, n]
    is_far = np.abs(patterns @ nonzero) >= bound
    n_far = int(np.sum(is_far))
    # The observed pattern is counted as well, so that p is never 0.
    return (n_far + 1) / (_FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for testing all of them (Holm 1979), in the given order."""
    corrected = list(p_values)
    largest = 0.0
    # The smallest p is multiplied by the number of tests, the next larger by that number less 1,
    # and so on.
    rising = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, position in enumerate(rising):
        multiplied = (len(p_values) - rank) * p_values[position]
        # A corrected p is never below that of a smaller p.
        largest = max(largest, min(1.0, multiplied))
        corrected[position] = largest
    return corrected
