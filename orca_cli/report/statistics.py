"""What paired differences say: a bootstrap interval of their mean, an exact test of their signs, Holm's correction.

numpy is imported when it is needed: `orca report --help` must not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
RESAMPLES = 10_000
MOST_EXACT = 20  # differences whose 2^n sign patterns are all looked at
FLIPS = 100_000  # drawn sign patterns of more differences


@dataclass(frozen=True)
class Effect:
    """The mean of n paired differences.

    Args:
        n: how many.
        mean: theirs.
        interval: 95 % bootstrap interval of the mean; None for a single difference.
        p: two-sided p of the sign-flip test: the share of sign patterns whose mean is at least as far from 0.
        smallest: the smallest p that n differences can have.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float
    smallest: float


def effect(differences: Sequence[float]) -> Effect:
    """Return the effect of one or more differences."""
    p, smallest = sign_flip(differences)
    mean = math.fsum(differences) / len(differences)
    return Effect(len(differences), mean, interval(differences), p, smallest)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean, of 10,000 resamples drawn with seed 0; None for one value."""
    import numpy as np

    if len(values) < 2:
        return None
    given = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(given), size=(RESAMPLES, len(given)))
    low, high = np.quantile(given[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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
        sums = np.zeros(1)
        for value in given:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= bound)), 2.0 ** (1 - len(given))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, len(given)))
    count = int(np.sum(np.abs(signs @ given) >= bound))
    return (count + 1) / (FLIPS + 1), 1 / (FLIPS + 1)


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
