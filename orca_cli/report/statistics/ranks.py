"""Methods over tasks: mean ranks with Friedman's test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over tasks; 1 is best, ties share the mean of their ranks.

    Args:
        mean: method -> mean rank; only methods that were ranked.
        tasks: places of the tasks over which they are.
        friedman: p of Friedman's test that the ranks of all methods come from the same distribution; None for fewer than three
            methods or two tasks, and where all methods are tied everywhere.
    """

    mean: dict[str, float]
    tasks: tuple[int, ...]
    friedman: float | None


def mean_ranks(errors: Mapping[str, Sequence[float | None]]) -> Ranks:
    """Return the mean ranks over the tasks on which every method has an error; a hole takes its task out, for all.

    Args:
        errors: method -> its error on every task, in the same order for all; None where it has none.
    """
    every = list(zip(*errors.values(), strict=True))
    tasks = tuple(place for place, task in enumerate(every) if None not in task)
    if not tasks or len(errors) < 2:
        return Ranks({}, tasks, None)
    ranks = [ranks_of([value for value in every[place] if value is not None]) for place in tasks]
    mean = {
        method: statistics.fmean(method_ranks)
        for method, method_ranks in zip(errors, zip(*ranks, strict=True), strict=True)
    }
    return Ranks(mean, tasks, _friedman(ranks))


def ranks_of(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, 1 for the lowest; values that differ by rounding only share the mean of their ranks."""
    ranks = []
    for value in values:
        ties = sum(math.isclose(value, other, rel_tol=1e-12) for other in values)
        lower = sum(other < value and not math.isclose(value, other, rel_tol=1e-12) for other in values)
        ranks.append(lower + (ties + 1) / 2)
    return ranks


def _friedman(ranks: Sequence[Sequence[float]]) -> float | None:
    """Return the p of ranks [task][method], by the chi-squared limit with the correction for ties (Conover 1999, 5.8)."""
    n, k = len(ranks), len(ranks[0])
    sums = [math.fsum(method_ranks) for method_ranks in zip(*ranks, strict=True)]
    spread = math.fsum(rank * rank for task in ranks for rank in task) - n * k * (k + 1) ** 2 / 4
    if n < 2 or k < 3 or spread <= 0:
        return None
    from scipy.special import chdtrc  # scipy.stats takes five times as long to import

    statistic = (k - 1) * math.fsum((rank_sum - n * (k + 1) / 2) ** 2 for rank_sum in sums) / spread
    return float(chdtrc(k - 1, statistic))
