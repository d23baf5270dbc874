"""Performance profiles (Dolan and More 2002; Figures 2 and 3 of the paper): how often a method is within a factor of the best.

Of method m on task t the ratio is error(m, t) / the lowest error of any method on t. The profile of m at a factor is the share
of tasks whose ratio is at most that. At 1 it is the share of tasks on which m is best, ties included; far to the right it is
the share of tasks on which m has an error at all: a missing error has the ratio infinity, as a failed solver has there.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FACTORS = (1.0, 1.1, 1.5, 2.0, 4.0)  # where tables show a profile
_SAME = 1e-12  # ratios that differ by rounding only


@dataclass(frozen=True)
class Profile:
    """One method's profile.

    Args:
        method: its name.
        ratios: one for each task that counts, 1 or more, in rising order; infinity where the method has no error.
        missing: on how many of these tasks it has none.
    """

    method: str
    ratios: tuple[float, ...]
    missing: int

    def share(self, factor: float) -> float:
        """Return the share of tasks, 0 to 1, on which the error is at most `factor` (1 or more) times the lowest."""
        return bisect.bisect_right(self.ratios, factor * (1 + _SAME)) / len(self.ratios)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return the corners of the step function: factor and share from there on; the first is at 1, none is infinite."""
        factors = sorted({1.0, *(ratio for ratio in self.ratios if math.isfinite(ratio))})
        return [(factor, self.share(factor)) for factor in factors]


def profiles(errors: Mapping[str, Sequence[float | None]]) -> list[Profile]:
    """Return the profile of every method.

    Tasks count on which two or more methods have an error. Where the lowest error is 0, the ratio is 1 for 0 and infinity for
    all others; errors are not below 0.

    Args:
        errors: method -> its error on every task, in the same order for all; None where it has none.

    Returns:
        In the order of `errors`; empty where no task counts.
    """
    tasks = [task for task in zip(*errors.values(), strict=True) if sum(value is not None for value in task) > 1]
    if not tasks:
        return []
    lowest = [min(value for value in task if value is not None) for task in tasks]
    found = []
    for place, method in enumerate(errors):
        own = [task[place] for task in tasks]
        ratios = tuple(sorted(_ratio(value, least) for value, least in zip(own, lowest, strict=True)))
        found.append(Profile(method, ratios, sum(value is None for value in own)))
    return found


def _ratio(value: float | None, lowest: float) -> float:
    if value is None:
        return math.inf
    if value <= lowest * (1 + _SAME):
        return 1.0
    return value / lowest if lowest > 0 else math.inf
