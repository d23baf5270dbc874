"""Statistics of paired differences: interval of the mean, exact sign tests, a test of no effect, Holm's correction.

numpy and scipy.special are imported where they are used, to keep `orca report --help` fast. scipy.stats is never imported,
since that alone takes as long as the rest of a report; tests compare with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

LEVEL = 0.95
LARGEST_P = 0.05
LEAST = 6  # differences: fewer cannot have a two-sided p of at most 0.05
POWER = 0.8  # of the number of differences that `needed` returns
MOST_EXACT = 20  # differences whose 2^n sign patterns are all looked at
FLIPS = 100_000  # drawn sign patterns of more differences
_SAME = 1e-12  # of their size: numbers that differ by less differ by rounding only


@dataclass(frozen=True)
class Effect:
    """The mean of n paired differences.

    Args:
        deviation: sample standard deviation; 0 for a single difference.
        interval: of the mean, 95 %; None for a single difference.
        p: two-sided p of the sign-flip test: the share of sign patterns whose mean is at least as far from 0.
        smallest: the smallest p possible with this number of nonzero differences.
        nonzero: how many are not 0.
    """

    n: int
    mean: float
    deviation: float
    interval: tuple[float, float] | None
    p: float
    smallest: float
    nonzero: int


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of one or more values, with an exactly rounded sum."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def effect(differences: Sequence[float]) -> Effect:
    """Return the effect of one or more differences."""
    p, smallest = sign_flip(differences)
    nonzero = sum(value != 0 for value in differences)
    deviation = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return Effect(len(differences), mean_of(differences), deviation, interval(differences), p, smallest, nonzero)


def no_effect(observed: Effect, margin: float) -> float:
    """Return the p of two one-sided t tests (Schuirmann 1987): how surely the true mean is within -margin and margin.

    At most 0.05 means that it is; if the true mean is at the margin, normal differences give that in 5 % of all cases.
    1 for a single difference.
    """
    distance = margin - abs(observed.mean)  # to the nearer end, whose test has the larger p
    if observed.n < 2:
        return 1.0
    if not observed.deviation:
        return float(distance <= 0)
    from scipy.special import stdtr

    return float(stdtr(observed.n - 1, -distance * math.sqrt(observed.n) / observed.deviation))


def difference(base: float, error: float) -> float:
    """Return base - error; 0 where they differ by rounding only."""
    return 0.0 if math.isclose(base, error, rel_tol=_SAME) else base - error


def relative(base: float, error: float) -> float:
    """Return the difference over the mean of both errors, in [-2, 2].

    It orders pairs as log(base / error) does and is about as large for small ones, but an error of 0 has one too. Errors are 0
    or more: below, it means nothing.
    """
    gain = difference(base, error)
    return 2 * gain / (abs(base) + abs(error)) if gain else 0.0


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t; None for one value.

    For normal values its coverage is 95 % at any sample size; that of the BCa bootstrap is 72 % (three values) to 93 %
    (twenty).
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean, error = mean_of(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * error
    return mean - half, mean + half


def needed(mean: float, deviation: float, margin: float, largest_p: float = LARGEST_P) -> float:
    """Return how many differences would probably decide, given their mean and deviation; infinity if no number would.

    That is the number with which a paired t test has a power of 80 %, either to find the effect, two-sided at `largest_p`:
    (z_p + z_power)^2 (deviation / mean)^2 + z_p^2 / 2 (Guenther 1981), or to find by a one-sided test at 0.05 that the mean is
    within the margin, which is the same with margin - |mean| in place of the mean; whichever is less. It is at least the
    number whose smallest possible p is `largest_p`: 6 for 0.05.

    Args:
        mean, deviation: of the differences seen; the sample standard deviation, 0 or more.
        margin: effects of at most this count as none; in the same unit.
        largest_p: what p has to be, 0 to 1; less than 0.05 where several arms are tested.
    """
    least = 1 + math.ceil(-math.log2(largest_p) - 1e-9)
    candidates = [_for_power(abs(mean), deviation, largest_p), _for_power(margin - abs(mean), deviation, 2 * LARGEST_P)]
    return max(least, min(candidates))


def _for_power(distance: float, deviation: float, largest_p: float) -> float:
    """Return how many differences separate their mean from a value at a distance; infinity if that is not above 0."""
    if distance <= 0:
        return math.inf
    z = NormalDist().inv_cdf(1 - largest_p / 2)
    return math.ceil((z + NormalDist().inv_cdf(POWER)) ** 2 * (deviation / distance) ** 2 + z * z / 2)


def sign_flip(values: Sequence[float]) -> tuple[float, float]:
    """Return the two-sided p of the sign-flip test of mean 0, and the smallest p that it can have.

    Exact for up to 20 values that are not 0, from 100,000 sign patterns drawn with seed 0 for more.
    """
    import numpy as np

    nonzero = np.asarray([value for value in values if value != 0], dtype=np.float64)
    if not len(nonzero):
        return 1.0, 1.0
    # Sums of the same numbers in another order may differ in the last bits.
    bound = abs(math.fsum(nonzero)) - 1e-12 * float(np.abs(nonzero).sum())
    if len(nonzero) <= MOST_EXACT:
        # A pattern is one of each half: 2 * 2^(n / 2) sums in place of 2^n, of which the larger ones are counted, twice since
        # every pattern has its mirror image.
        half = len(nonzero) // 2
        count = int((2**half - np.searchsorted(_sums(nonzero[:half]), bound - _sums(nonzero[half:]))).sum())
        return 1.0 if bound <= 0 else 2 * count / 2 ** len(nonzero), 2.0 ** (1 - len(nonzero))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, len(nonzero)))
    count = int(np.sum(np.abs(signs @ nonzero) >= bound))
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

    nonzero = sorted((value for value in values if value != 0), key=abs)
    if not nonzero:
        return 1.0, 1.0
    doubled: list[int] = []  # of ranks that ties share, twice their mean is a whole number
    while len(doubled) < len(nonzero):
        first = len(doubled)
        ties = sum(math.isclose(abs(value), abs(nonzero[first]), rel_tol=1e-9) for value in nonzero[first:])
        doubled += [2 * first + ties + 1] * ties
    total = sum(doubled)
    chances = np.zeros(total + 1)  # of each sum of the ranks of the values above 0
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    above = sum(rank for rank, value in zip(doubled, nonzero, strict=True) if value > 0)
    tail = min(above, total - above)
    p = 1.0 if 2 * tail >= total else 2 * float(chances[: tail + 1].sum())
    return min(1.0, p), 2.0 ** (1 - len(nonzero))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for testing all of them (Holm 1979), in the given order."""
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected


def ranks_of(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, 1 for the lowest; values that differ by rounding only share the mean of their ranks."""
    ranks = []
    for value in values:
        ties = sum(math.isclose(value, other, rel_tol=1e-12) for other in values)
        lower = sum(other < value and not math.isclose(value, other, rel_tol=1e-12) for other in values)
        ranks.append(lower + (ties + 1) / 2)
    return ranks
