"""Transport between equal, small samples of both sides: the minibatch energy distance (Salimans et al. 2018, eq. 6).

    value = E T(X, Z) - 1/2 E T(X, X') - 1/2 E T(Z, Z'),    T(A, B) = min over matchings of 1/s sum_i 1/2 |a_i - b_match(i)|^2

with s points in every sample. Transport between small samples is biased, and so is its gradient: matched to its nearest source
points a target contracts. Here all three terms have the same bias, so that source and target of one distribution have value
and gradient 0 in expectation. Neither depends on the size of the source. Labels are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from orca_cli.interfaces import Features
from orca_cli.metrics.transport.clouds import centred, half_squared_distances, prepare_nothing
from orca_cli.metrics.transport.envelope import Solved, closed_form
from orca_cli.ranges import Count


@dataclass(frozen=True)
class MinibatchOT:
    """Exact, unbiased transport between samples of at most `size` points, with the gradient at the optimal matchings.

    Points are taken in the order given, which has to be random: the first `size` points of the source against the first of
    the target, and so on; every sample of a side against the next one of the same side. Points that fill no sample are left
    out. A side with a single point has no second sample, and all its own terms are left out.
    """

    convention = "squared, halved costs, not regularised, unbiased; below 0 by chance"
    samples_source = True  # is given as many random source points as target points, drawn anew for every value

    size: Annotated[
        Count, "Points of each side that are matched at once; fewer where a side has less than twice as many."
    ] = 64

    prepare = prepare_nothing

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; time grows with the smaller side, times `size` squared.

        Diagnostics: pairs (of samples that were compared across), size (points of a sample), n, m.
        """
        x, z = centred(source.x.to(target.x.dtype), target.x)
        fewest = min(len(x), len(z))
        size = max(1, min(self.size, fewest // 2))
        pairs = fewest // size
        x, z = (cloud[: pairs * size].unflatten(0, (pairs, size)) for cloud in (x, z))
        within = pairs // 2  # pairs of samples of one side
        costs = [half_squared_distances(x, z)]
        if within:
            costs += [half_squared_distances(side[0 : 2 * within : 2], side[1 : 2 * within : 2]) for side in (x, z)]
        matched = _match(torch.cat(costs))
        cross, own_source, own = matched.split([pairs, within, within])

        def mean(cost: Tensor, match: Tensor) -> Tensor:
            return cost.gather(2, match[:, :, None]).double().mean()

        value = mean(costs[0], cross)
        # A matching is a permutation of rows to columns; its inverse takes columns to rows.
        gradient = torch.zeros_like(z)
        gradient += (z - _take(x, cross.argsort(1))) / (pairs * size)
        if within:
            value = value - mean(costs[1], own_source) / 2 - mean(costs[2], own) / 2
            first, second = z[0 : 2 * within : 2], z[1 : 2 * within : 2]
            gradient[0 : 2 * within : 2] -= (first - _take(second, own)) / (2 * within * size)
            gradient[1 : 2 * within : 2] -= (second - _take(first, own.argsort(1))) / (2 * within * size)
        slope = torch.zeros_like(target.x)
        slope[: pairs * size] = gradient.flatten(0, 1)
        return value, slope, {"pairs": float(pairs), "size": float(size)}


def _match(costs: Tensor) -> Tensor:
    """Return the column that an optimal matching gives to every row, [B, s] int64, for costs [B, s, s]."""
    from scipy.optimize import linear_sum_assignment

    if not bool(torch.isfinite(costs).all()):  # the gradient and the value are checked, and say what to do
        return torch.arange(costs.shape[1], device=costs.device).expand(costs.shape[:2])
    found = np.stack([linear_sum_assignment(cost)[1] for cost in costs.cpu().numpy()])
    return torch.from_numpy(found).to(costs.device)


def _take(points: Tensor, match: Tensor) -> Tensor:
    """Return the points [B, s, d] in the order of a matching [B, s]."""
    return points.gather(1, match[:, :, None].expand_as(points))
