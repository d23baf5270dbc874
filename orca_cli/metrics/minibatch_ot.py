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
    all_classes = True  # labels are not used: classes need not be compared one by one
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
        within = pairs // 2  # pairs of samples of one side
        x, z = (cloud[: pairs * size].unflatten(0, (pairs, size)) for cloud in (x, z))
        first, second = slice(0, 2 * within, 2), slice(1, 2 * within, 2)
        sides = torch.cat([x, x[first], z[first]]), torch.cat([z, x[second], z[second]])
        costs = half_squared_distances(*sides)
        match = _match(costs)
        # Every matched pair of points counts once across, and minus a half within a side.
        weights = costs.new_tensor([1 / pairs] * pairs + [-0.5 / max(within, 1)] * 2 * within) / size
        value = (weights * costs.gather(2, match[:, :, None]).sum((1, 2))).sum()
        step = weights[:, None, None] * (sides[0] - _take(sides[1], match))  # the value's slope in the rows
        slope = torch.zeros_like(target.x)
        shaped = slope[: pairs * size].view_as(z)
        # A matching is a permutation of rows to columns; its inverse takes columns to rows.
        shaped -= _take(step[:pairs], match[:pairs].argsort(1))
        shaped[first] += step[pairs + within :]
        shaped[second] -= _take(step[pairs + within :], match[pairs + within :].argsort(1))
        return value, slope, {"pairs": float(pairs), "size": float(size)}


def _match(costs: Tensor) -> Tensor:
    """Return the column that an optimal matching gives to every row, [B, s] int64, for costs [B, s, s]."""
    from scipy.optimize import linear_sum_assignment

    try:
        found = np.stack([linear_sum_assignment(cost)[1] for cost in costs.cpu().numpy()])
    except ValueError:  # a cost is not finite, and neither is the value, which is checked and says what to do
        found = np.broadcast_to(np.arange(costs.shape[1]), costs.shape[:2]).copy()
    return torch.from_numpy(found).to(costs.device)


def _take(points: Tensor, match: Tensor) -> Tensor:
    """Return the points [B, s, d] in the order of a matching [B, s]."""
    return points.gather(1, match[:, :, None].expand_as(points))
