"""The mean of a body's distances with an interval, and what may be concluded from the intervals of several bodies.

Seeds differ in the embedder's first weights, in what is drawn of the target, and so in where stage 2 ends: their spread is
that of the whole procedure, and the mean over n of them has a t-interval. The scale, which all seeds of a body share, has an
error of its own; both add in quadrature. Of a single seed there is the spread over draws of target points alone, which is too
narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from orca_cli.body_ranking.measure import DRAWS, Measured

LEVEL = 0.95


@dataclass(frozen=True)
class Distance:
    """Distance of the aligned target to a body's source, in units of the scale (`Measured.scale`).

    Args:
        mean: over seeds.
        interval: 95 % interval.
        of: "seeds", or "points" for one seed.
    """

    mean: float
    interval: tuple[float, float]
    of: str


def distance(measured: Sequence[Measured]) -> Distance:
    """Return the distance of one or more seeds."""
    values = [one.after for one in measured]
    n = len(values)
    mean = math.fsum(values) / n
    if n > 1:
        deviation, draws, of = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)), n, "seeds"
    else:
        deviation, draws, of = measured[0].deviation, DRAWS, "points"
    half = float(stdtrit(draws - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(draws)
    of_scale = float(stdtrit(DRAWS - 1, (1 + LEVEL) / 2)) * abs(mean) * max(one.unit_error for one in measured)
    half = math.hypot(half, of_scale)
    return Distance(mean, (mean - half, mean + half), of)


def conclusions(found: Mapping[str, Distance]) -> list[str]:
    """Return sentences about which body is nearest, as far as intervals that do not overlap say so.

    Two 95 % intervals that do not overlap differ with p well below 0.05; that they overlap does not show that bodies are equal.

    Args:
        found: name -> distance, of every body that has one.
    """
    if len(found) < 2:
        return []
    names = sorted(found, key=lambda name: found[name].mean)
    first = names[0]
    near = [name for name in names[1:] if found[name].interval[0] <= found[first].interval[1]]
    far = [name for name in names[1:] if name not in near]
    lines = []
    if near:
        of = f"interval of {near[0]} overlaps" if len(near) == 1 else f"intervals of {listed(near)} overlap"
        lines.append(f"undecided which is nearest: the {of} that of {first}")
    if far and near:
        lines.append(f"farther than {first}: {listed(far)}")
    elif far:
        lines.append(f"{first} is nearest: its interval lies below that of {listed(far)}")
    return lines


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
