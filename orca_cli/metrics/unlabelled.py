"""Distances between clouds of points without their labels: a target class is compared with the whole source.

Mean Euclidean distance and MMD are ablations of the paper (A.4); that of moments is the control that others have to beat.
"""

import math

import torch
from torch import Tensor

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Distance, Features
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import Solved, centred, check_features, closed_form, half_squared_distances

_EUCLIDEAN_CHUNK = 4096  # source points that are compared with all target points at once
_EPS = 1e-12  # of `Moments`: added to variances under the root, in squared units of the features
# Of `MMD`:
_KERNELS = 5  # K of a point with itself
_CHUNK = 1024  # points that are compared with all others at once
_LARGEST_SCALE = 4.0
_LOWEST, _HIGHEST = 1 / 4, 16.0  # tabulated bandwidths, in units of the source's own
_MIDDLE, _RADIUS = math.log(_LOWEST * _HIGHEST) / 2, math.log(_HIGHEST / _LOWEST) / 2  # in log b
_NODES = 48  # Chebyshev nodes of the first kind
_ANGLES = [math.pi * (2 * index + 1) / (2 * _NODES) for index in range(_NODES)]


class Euclidean:
    """Mean Euclidean distance between the points of source and target.

        value = 1/(n m) sum_ij |x_i - z_j|

    over all pairs; the released code pairs random rows, which has the same mean and more noise. It is not a distance of
    distributions: it is lowest where the target is in the source's spatial median, and a cloud against itself has the mean
    distance of its own points, not 0.

    Equal points have distance 0 and no part in the gradient (the subgradient of least norm). So do pairs closer than
    rounding can tell: a few 1e-4 of their distance from the source's mean in float32, 1e-8 in float64.
    """

    convention = "not squared, not halved; not 0 for a cloud against itself"

    prepare = clouds.prepare_nothing

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with m. No diagnostics."""
        x, z = centred(source.x.to(target.x.dtype), target.x)
        # In units of the largest entry no square overflows, and none of what matters vanishes.
        unit = torch.maximum(x.abs().max(), z.abs().max())
        unit = torch.where(unit > 0, unit, 1)
        x, z, pairs = x / unit, z / unit, len(x) * len(z)
        total = torch.zeros((), dtype=torch.float64, device=z.device)
        gradient = torch.zeros_like(z)
        for rows in x.split(_EUCLIDEAN_CHUNK):
            squares = half_squared_distances(rows, z).mul_(2)
            size = rows.square().sum(1)[:, None] + z.square().sum(1)[None, :]
            apart = squares > 8 * torch.finfo(z.dtype).eps * size  # beyond rounding
            distances = torch.where(apart, squares, 0).sqrt()
            total += distances.sum(dtype=torch.float64)
            weights = torch.where(apart, 1 / distances, 0)  # of z_j - x_i in the gradient
            gradient += clouds.gradient(weights, rows, z)
        return total / pairs * unit, gradient / pairs, {}


class Moments:
    """Distance of the first two moments per dimension.

        value = 1/d sum_k (mean_k(target) - mean_k(source))^2 + (std_k(target) - std_k(source))^2

    That is 1/d times the squared 2-Wasserstein distance of the two Gaussians with these means and diagonal covariances.

    Standard deviations are those of the points themselves (divided by n, not n - 1), so that a single point has one.

    The root of eps keeps the gradient finite where a dimension is constant. Computed in float64.
    """

    convention = "squared, mean over dimensions, not halved"

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's mean [d] and std [d], float64."""
        check_features(source, "source")
        mean, std = _moments(source.x)
        return {"mean": mean, "std": std}

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance. No diagnostics."""
        check_features(target, "target")
        mean, std = _moments(target.x)
        mean_part = (mean - prepared["mean"]).square().mean()
        std_part = (std - prepared["std"]).square().mean()
        value = (mean_part + std_part).to(target.x.dtype)
        clouds.check_finite(value)
        return Distance(value)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double()
    return x.mean(0), (x.var(0, correction=0) + _EPS).sqrt()


class MMD:
    """Squared maximum mean discrepancy with a sum of five Gaussian kernels.

        value = mean K(x_i, x_i') + mean K(z_j, z_j') - 2 mean K(x_i, z_j),    K(x, z) = sum_s exp(-|x - z|^2 / (s b))

    with scales s of 1/4, 1/2, 1, 2, 4 and the bandwidth b: the mean squared distance between two different points of source
    and target together. The first term needs all n^2 pairs of the source and depends on the target through b alone. It is a
    smooth function of log b (analytic where |Im log b| < pi/2), so `prepare` tabulates it at Chebyshev nodes, and the
    interpolant is right to about 1e-13.

    The bandwidth is held constant in the gradient, as in the released code; where it would be 0, all points are equal.

    A point's pair with itself counts (V-statistic, as in the released code): the value is at least 0, and 0 for a cloud
    against itself. In float32 it is off by about 1e-6.
    """

    convention = f"squared, sum of {_KERNELS} kernels, biased"

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's constants; memory grows with n.

        They are the mean [d], seen from the first point, so that equal points have differences of exactly 0; scatter, the sum
        of squared distances from it; self_kernel, the mean of K over all pairs by bandwidth: [48].
        """
        check_features(source, "source")
        x = (source.x - source.x[0]).double()
        mean = x.mean(0)
        scatter = (x - mean).square().sum()
        source_bandwidth = _mean_square(scatter, len(x))
        nodes = [source_bandwidth * math.exp(_MIDDLE + _RADIUS * math.cos(angle)) for angle in _ANGLES]
        return {"mean": mean, "scatter": scatter, "self_kernel": _self_kernel(x, nodes)}

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with m. No diagnostics."""
        n, m = len(source.x), len(target.x)
        source_bandwidth = _mean_square(prepared["scatter"], n)
        origin = source.x[0].to(target.x.dtype)
        x, z = source.x.to(target.x.dtype) - origin, target.x - origin
        points = z.double()
        centre = points.mean(0)
        between = (centre - prepared["mean"]).square().sum() * (n * m / (n + m))
        bandwidth = _mean_square(prepared["scatter"] + (points - centre).square().sum() + between, n + m)
        if not math.isfinite(bandwidth):
            raise NonFiniteError("the bandwidth is not finite", where="metric", hint="lower the learning rate")
        ratio = bandwidth / source_bandwidth if source_bandwidth else math.inf
        if _LOWEST <= ratio <= _HIGHEST:
            self_kernel = _interpolate(prepared["self_kernel"], ratio)
        else:
            self_kernel = _self_kernel(x.double(), [bandwidth])[0]

        # In units of the root of b no square overflows or vanishes.
        unit = math.sqrt(bandwidth) or 1.0
        x, z = (cloud / unit for cloud in centred(x, z))
        cross = torch.zeros((), dtype=torch.float64, device=z.device)
        gradient = torch.zeros_like(z)
        for rows in x.split(_CHUNK):
            kernel, slope = _kernel(rows, z)
            cross += kernel.sum(dtype=torch.float64)
            gradient -= clouds.gradient(slope, rows, z).mul_(4 / (n * m))
        (z,) = centred(z - z[0])  # far from the source, small distances within the target keep their digits
        within = torch.zeros_like(cross)
        for start in range(0, m, _CHUNK):
            rows = z[start : start + _CHUNK]
            kernel, slope = _kernel(rows, z)
            within += kernel.sum(dtype=torch.float64)
            gradient[start : start + _CHUNK] += (slope.sum(1)[:, None] * rows - slope @ z).mul_(4 / (m * m))
        return self_kernel + within / m**2 - 2 * cross / (n * m), gradient / unit, {}


def _self_kernel(x: Tensor, bandwidths: list[float]) -> Tensor:
    """Return the mean of K over all pairs of points [n, d] at every bandwidth, in the dtype of x."""
    (x,) = centred(x)
    sums = x.new_zeros(len(bandwidths))
    for start in range(0, len(x), _CHUNK):
        # Pairs are symmetric: a block of rows meets itself once, and what comes after it twice.
        rows = x[start : start + _CHUNK]
        for columns, times in ((rows, 1), (x[start + _CHUNK :], 2)):
            squares = half_squared_distances(rows, columns).mul_(2)
            for place, bandwidth in enumerate(bandwidths):
                # Without a bandwidth all points are equal.
                power = (squares / (-_LARGEST_SCALE * (bandwidth or 1.0))).exp_()
                total = power.sum()
                for _ in range(_KERNELS - 1):
                    total = total + power.square_().sum()
                sums[place] += times * total
    return sums / len(x) ** 2


def _mean_square(scatter: Tensor, points: int) -> float:
    """Return the mean squared distance between two different points; 0 for one point."""
    return 2 * float(scatter) / max(points - 1, 1)


def _kernel(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return K and its derivative by the squared distance, both [n, m], for points in units of the root of b."""
    power = half_squared_distances(x, z).mul_(-2 / _LARGEST_SCALE).exp_()
    kernel, slope, scale = power.clone(), power / -_LARGEST_SCALE, _LARGEST_SCALE
    for _ in range(_KERNELS - 1):
        # Half the scale is the square: one exponential serves all kernels.
        power, scale = power.square_(), scale / 2
        kernel += power
        slope -= power / scale
    return kernel, slope


def _interpolate(table: Tensor, ratio: float) -> Tensor:
    """Return the table's value at a bandwidth in units of the source's own, by the barycentric formula."""
    place = (math.log(ratio) - _MIDDLE) / _RADIUS
    gaps = [place - math.cos(angle) for angle in _ANGLES]
    if 0 in gaps:
        return table[gaps.index(0)]
    weight = table.new_tensor([(-1) ** i * math.sin(_ANGLES[i]) / gap for i, gap in enumerate(gaps)])
    return (weight * table).sum() / weight.sum()
