"""Methods over tasks: mean ranks with Friedman's test, and the probability that one method improves on another."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_cli.report.statistics.differences import LEVEL

RESAMPLES = 2_000  # as in rliable


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


@dataclass(frozen=True)
class Improvement:
    """How probable it is that a run of `better` has a lower error than one of `worse` (Agarwal et al. 2021).

    Args:
        better, worse: the methods.
        tasks: on how many both have runs.
        share: mean over these of the share of pairs of runs in which the first has the lower error, ties counted half; 0 to 1.
        interval: 95 % percentile bootstrap interval, runs resampled within each task; None if all tasks have one run of each.
    """

    better: str
    worse: str
    tasks: int
    share: float
    interval: tuple[float, float] | None


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
    mean = {method: statistics.fmean(own) for method, own in zip(errors, zip(*ranks, strict=True), strict=True)}
    return Ranks(mean, tasks, _friedman(ranks))


def ranks_of(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, 1 for the lowest; values that differ by rounding only share the mean of their ranks."""
    found = []
    for value in values:
        ties = sum(math.isclose(value, other, rel_tol=1e-12) for other in values)
        lower = sum(other < value and not math.isclose(value, other, rel_tol=1e-12) for other in values)
        found.append(lower + (ties + 1) / 2)
    return found


def _friedman(ranks: Sequence[Sequence[float]]) -> float | None:
    """Return the p of ranks [task][method], by the chi-squared limit with the correction for ties (Conover 1999, 5.8)."""
    n, k = len(ranks), len(ranks[0])
    sums = [math.fsum(own) for own in zip(*ranks, strict=True)]
    spread = math.fsum(rank * rank for task in ranks for rank in task) - n * k * (k + 1) ** 2 / 4
    if n < 2 or k < 3 or spread <= 0:
        return None
    from scipy.special import chdtrc  # scipy.stats takes five times as long to import

    statistic = (k - 1) * math.fsum((own - n * (k + 1) / 2) ** 2 for own in sums) / spread
    return float(chdtrc(k - 1, statistic))


def improvements(values: Mapping[str, Sequence[Sequence[float]]]) -> list[Improvement]:
    """Return the probability of improvement of every ordered pair of methods that have runs of a common task.

    Args:
        values: method -> for every task, in the same order for all, the errors of its runs; empty where it has none.

    Returns:
        A line for (a, b) and one for (b, a), whose shares add up to 1.
    """
    found = []
    methods = list(values)
    for place, one in enumerate(methods):
        for other in methods[place + 1 :]:
            pairs = [(a, b) for a, b in zip(values[one], values[other], strict=True) if a and b]
            if pairs:
                share, ends = _improvement(pairs)
                found.append(Improvement(one, other, len(pairs), share, ends))
                back = None if ends is None else (1 - ends[1], 1 - ends[0])
                found.append(Improvement(other, one, len(pairs), 1 - share, back))
    return found


def _improvement(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, tuple[float, float] | None]:
    import numpy as np

    wins = []
    for own, others in pairs:
        a, b = np.sort(np.asarray(own, dtype=np.float64)), np.sort(np.asarray(others, dtype=np.float64))
        is_tie = np.isclose(a[:, None], b[None, :], rtol=1e-12, atol=0)
        wins.append(np.where(is_tie, 0.5, (a[:, None] < b[None, :]).astype(np.float64)))
    share = math.fsum(float(one.mean()) for one in wins) / len(wins)
    if all(one.size == 1 for one in wins):
        return share, None
    drawn = np.zeros(RESAMPLES)
    for place, one in enumerate(wins):
        n, m = one.shape
        # The mean of the drawn block is that of its cells, each as often as its row and its column were drawn.
        drawn += ((_weights(place, 0, n) @ one) * _weights(place, 1, m)).sum(axis=1)
    low, high = np.quantile(drawn / len(wins), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return share, (float(low), float(high))


@functools.lru_cache(maxsize=256)
def _weights(place: int, side: int, size: int) -> Any:
    """Return the share of each of `size` runs in every resample [R, size]; the same draws for all pairs of methods."""
    import numpy as np

    drawn = np.random.default_rng((0, place, side)).integers(size, size=(RESAMPLES, size))
    places = drawn + size * np.arange(RESAMPLES)[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape) / size
