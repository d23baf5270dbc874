"""Mean Euclidean distance between the points of source and target (the paper's ablation, A.4)."""

import torch
from torch import Tensor

from orca_cli.interfaces import Features, Metric
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import Solved, centred, closed_form, half_squared_distances

_CHUNK = 4096  # source points that are compared with all target points at once


class Euclidean(Metric):
    """Mean Euclidean distance between the points of source and target.

        value = 1/(n m) sum_ij |x_i - z_j|

    over all pairs, in units of the features; the released code pairs random rows, which has the
    same mean and more noise. Labels are not used. It is not a distance between distributions: it is
    lowest where all target points lie at the source's spatial median, and a cloud against itself
    has the mean distance of its own points, not 0.

    Equal points have distance 0 and do not contribute to the gradient (the subgradient of least
    norm). The same is true of pairs that are equal up to rounding: pairs closer than a few 1e-4 of
    their distance from the source's mean in float32, 1e-8 in float64.
    """

    prepare = clouds.prepare_nothing

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with m. No diagnostics."""
        x, z = centred(source.x.to(target.x.dtype), target.x)
        pairs = len(x) * len(z)
        # In units of the largest entry no square overflows, and no relevant square vanishes.
        unit = torch.maximum(x.abs().max(), z.abs().max())
        unit = torch.where(unit > 0, unit, 1)
        x = x / unit
        z = z / unit
        rounding = 8 * torch.finfo(z.dtype).eps
        target_norms = z.square().sum(1)  # [m]
        total = z.new_zeros((), dtype=torch.float64)
        gradient = torch.zeros_like(z)
        for source_points in x.split(_CHUNK):
            squares = half_squared_distances(source_points, z).mul_(2)  # [r, m]
            source_norms = source_points.square().sum(1, keepdim=True)  # [r, 1]
            # |x_i|^2 + |z_j|^2: the squares are differences of terms this large, and rounded so.
            norms = source_norms + target_norms
            is_beyond_rounding = squares > rounding * norms
            distances = torch.where(is_beyond_rounding, squares, 0).sqrt()
            total += distances.sum(dtype=torch.float64)
            # The gradient in z_j is the sum of (z_j - x_i) / |z_j - x_i|.
            weights = torch.where(is_beyond_rounding, 1 / distances, 0)
            gradient += clouds.gradient(weights, source_points, z)
        return total / pairs * unit, gradient / pairs, {}
