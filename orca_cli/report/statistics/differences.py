"""What paired differences say: a bootstrap interval of their mean, exact tests of their signs, Holm's correction.

numpy is imported when it is needed: `orca report --help` must not wait for it. scipy.stats is not imported at all, since that
alone takes as long as the rest of a report; tests compare with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

LEVEL = 0.95
LARGEST_P = 0.05
LEAST = 6  # differences: fewer cannot have a two-sided p of at most 0.05
POWER = 0.8  # of the number of differences that `needed` returns
RESAMPLES = 10_000
MOST_EXACT = 20  # differences whose 2^n sign patterns are all looked at
FLIPS = 100_000  # drawn sign patterns of more differences
_SAME = 1e-12  # of their size: numbers that differ by less differ by rounding only


@dataclass(frozen=True)
class Effect:
    """The mean of n paired differences.

    Args:
        n: how many.
        mean: theirs.
        interval: 95 % BCa bootstrap interval of the mean; None for a single difference.
        p: two-sided p of the sign-flip test: the share of sign patterns whose mean is at least as far from 0.
        smallest: the smallest p possible with this number of nonzero differences.
        nonzero: how many are not 0.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float
    smallest: float
    nonzero: int


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of one or more values, summed without loss."""
    found = list(values)
    return math.fsum(found) / len(found)


def effect(differences: Sequence[float]) -> Effect:
    """Return the effect of one or more differences."""
    p, smallest = sign_flip(differences)
    nonzero = sum(value != 0 for value in differences)
    return Effect(len(differences), mean_of(differences), interval(differences), p, smallest, nonzero)


def difference(base: float, mine: float) -> float:
    """Return base - mine; 0 where they differ by rounding only."""
    return 0.0 if math.isclose(base, mine, rel_tol=_SAME) else base - mine


def relative(base: float, mine: float) -> float:
    """Return the difference over the mean of both errors, in [-2, 2].

    It orders pairs as log(base / mine) does and is about as large for small ones, but an error of 0 has one too.
    """
    found = difference(base, mine)
    return 2 * found / (abs(base) + abs(mine)) if found else 0.0


def as_share(found: float) -> float:
    """Return a relative difference as the share of the baseline's error, in per cent: 100 for 2, minus infinity for -2."""
    return 200 * found / (2 + found) if found > -2 else -math.inf


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % BCa bootstrap interval of the mean (Efron 1987): bias-corrected and accelerated, so not too narrow on
    the side of a long tail.

    Of 10,000 resamples drawn with seed 0. It does not depend on the order of the values, and that of the negated values is the
    negated interval. Where all values are equal BCa is undefined, and the interval is that value. None for one value.
    """
    if len(values) < 2:
        return None
    one, other = tuple(sorted(values)), tuple(sorted(-value for value in values))
    if one <= other:
        return _bca(one)
    low, high = _bca(other)
    return -high, -low


@functools.lru_cache(maxsize=4096)
def _bca(values: tuple[float, ...]) -> tuple[float, float]:
    import numpy as np

    given = np.asarray(values, dtype=np.float64)
    mean = mean_of(values)
    deviations = given - mean
    if not np.abs(deviations).max() > 1e-12 * np.abs(given).max():
        return mean, mean
    drawn = np.random.default_rng(0).integers(len(given), size=(RESAMPLES, len(given)))
    means = given[drawn].mean(axis=1)
    rounding = 1e-12 * float(np.abs(given).max())  # a resample of every value once has the same mean
    below = float(np.mean(means < mean - rounding) + np.mean(means <= mean + rounding)) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    # Of the jackknife's means, whose deviations are these over -(n - 1).
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    shifted = [bias + normal.inv_cdf((1 + side * LEVEL) / 2) for side in (-1, 1)]
    shares = [normal.cdf(bias + one / (1 - acceleration * one)) for one in shifted]
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def needed(mean: float, deviation: float, margin: float, largest_p: float = LARGEST_P) -> float:
    """Return how many differences would probably decide, if their mean and deviation are as given; infinity if none.

    That is the number with which a paired t test has a power of 80 %, either to find the effect, two-sided at `largest_p`:
    (z_p + z_power)^2 (deviation / mean)^2 + z_p^2 / 2 (Guenther 1981), or to have a 95 % interval within the margin, which is
    the same with margin - |mean| in place of the mean; whichever is less. It is at least the number whose smallest
    possible p is `largest_p`: 6 for 0.05.

    Args:
        mean, deviation: of the differences seen; the sample standard deviation, 0 or more.
        margin: effects of at most this count as none; in the same unit.
        largest_p: what p has to be, 0 to 1; less than 0.05 where several arms are tested.
    """
    least = 1 + math.ceil(-math.log2(largest_p) - 1e-9)
    found = [_for_power(abs(mean), deviation, largest_p), _for_power(margin - abs(mean), deviation, LARGEST_P)]
    return max(least, min(found))


def _for_power(distance: float, deviation: float, largest_p: float) -> float:
    """Return how many differences of a deviation tell their mean from a value at a distance; infinity for none."""
    if distance <= 0:
        return math.inf
    z = NormalDist().inv_cdf(1 - largest_p / 2)
    return math.ceil((z + NormalDist().inv_cdf(POWER)) ** 2 * (deviation / distance) ** 2 + z * z / 2)


def sign_flip(values: Sequence[float]) -> tuple[float, float]:
    """Return the two-sided p of the sign-flip test of mean 0, and the smallest p that it can have.

    Exact for up to 20 values that are not 0, from 100,000 sign patterns drawn with seed 0 for more.
    """
    import numpy as np

    given = np.asarray([value for value in values if value != 0], dtype=np.float64)
    if not len(given):
        return 1.0, 1.0
    # Sums of the same numbers in another order may differ in the last bits.
    bound = abs(math.fsum(given)) - 1e-12 * float(np.abs(given).sum())
    if len(given) <= MOST_EXACT:
        # A pattern is one of each half: 2 * 2^(n / 2) sums in place of 2^n, of which the larger ones are counted, twice since
        # every pattern has its mirror image.
        half = len(given) // 2
        count = int((2**half - np.searchsorted(_sums(given[:half]), bound - _sums(given[half:]))).sum())
        return 1.0 if bound <= 0 else 2 * count / 2 ** len(given), 2.0 ** (1 - len(given))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, len(given)))
    count = int(np.sum(np.abs(signs @ given) >= bound))
    return (count + 1) / (FLIPS + 1), 1 / (FLIPS + 1)


def _sums(values: Any) -> Any:
    """Return the sums of all sign patterns of some values, sorted."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return np.sort(sums)


def signed_rank(values: Sequence[float]) -> tuple[float, float]:
    """Return the two-sided p of Wilcoxon's signed-rank test of symmetry about 0, and the smallest p that it can have.

    Exact for any number of values, with ties too: all 2^n signs of the observed ranks are counted, by the distribution of their
    sum. Values of 0 are dropped first, as Wilcoxon (1945) does.
    """
    import numpy as np

    given = sorted((value for value in values if value != 0), key=abs)
    if not given:
        return 1.0, 1.0
    doubled: list[int] = []  # of ranks that ties share, twice their mean is a whole number
    while len(doubled) < len(given):
        first = len(doubled)
        ties = sum(math.isclose(abs(value), abs(given[first]), rel_tol=1e-9) for value in given[first:])
        doubled += [2 * first + ties + 1] * ties
    total = sum(doubled)
    chances = np.zeros(total + 1)  # of each sum of the ranks of the values above 0
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    above = sum(rank for rank, value in zip(doubled, given, strict=True) if value > 0)
    tail = min(above, total - above)
    p = 1.0 if 2 * tail >= total else 2 * float(chances[: tail + 1].sum())
    return min(1.0, p), 2.0 ** (1 - len(given))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for testing all of them (Holm 1979), in the given order."""
    found = [0.0] * len(p)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        found[place] = largest
    return found
