"""Squared maximum mean discrepancy with five Gaussian kernels (the paper's ablation, A.4)."""

import math

import torch
from torch import Tensor

from orca_cli.interfaces import Features, Metric
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import (
    Solved,
    centred,
    check_finite,
    closed_form,
    half_squared_distances,
)

_KERNELS = 5
_LARGEST_SCALE = 4.0
_CHUNK = 1024  # points that are compared with all others at once
# The range of bandwidths that is tabulated, in units of the source's own bandwidth.
_LOWEST_RATIO = 1 / 4
_HIGHEST_RATIO = 16.0
# The middle of this range and half its width, in log b.
_MIDDLE = math.log(_LOWEST_RATIO * _HIGHEST_RATIO) / 2
_RADIUS = math.log(_HIGHEST_RATIO / _LOWEST_RATIO) / 2
# Chebyshev nodes of the first kind are the cosines of these angles.
_NODES = 48
_ANGLES = [math.pi * (2 * node + 1) / (2 * _NODES) for node in range(_NODES)]


class MMD(Metric):
    """Squared maximum mean discrepancy with a sum of five Gaussian kernels.

        value = mean K(x_i, x_i') + mean K(z_j, z_j') - 2 mean K(x_i, z_j)
        K(x, z) = sum_s exp(-|x - z|^2 / (s b))

    with scales s of 1/4, 1/2, 1, 2, 4 and the bandwidth b: the mean squared distance between two
    different points of source and target together. The first term needs all n^2 pairs of the source
    and depends on the target through b alone. It is a smooth function of log b (analytic where
    |Im log b| < pi/2), so `prepare` tabulates it at Chebyshev nodes, and the interpolant is right
    to about 1e-13.

    The gradient treats the bandwidth as constant, like the released code; b is 0 only if all
    points are equal. Labels are not used: a target class is compared with the whole source.

    The pair of a point with itself counts (V-statistic, as in the released code): the value is at
    least 0, and 0 for a cloud against itself. In float32 it has an error of about 1e-6.
    """

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's constants; memory grows with n.

        They are the mean [d] relative to the first point; scatter, the sum of squared distances
        from the mean; self_kernel [48], the mean of K over all pairs at each tabulated bandwidth.
        """
        check_finite("source features", source.x)
        # Relative to the first point, so that equal points differ by exactly 0.
        x = (source.x - source.x[0]).double()
        mean = x.mean(0)
        scatter = _scatter(x, mean)
        source_bandwidth = _mean_square(scatter, len(x))
        bandwidths = []
        for angle in _ANGLES:
            log_ratio = _MIDDLE + _RADIUS * math.cos(angle)
            bandwidths.append(source_bandwidth * math.exp(log_ratio))
        return {"mean": mean, "scatter": scatter, "self_kernel": _self_kernel(x, bandwidths)}

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with m. No diagnostics."""
        n = len(source.x)
        m = len(target.x)
        origin = source.x[0].to(target.x.dtype)
        x = source.x.to(target.x.dtype) - origin
        z = target.x - origin
        bandwidth = _joint_bandwidth(prepared, n, z.double())
        check_finite("bandwidth", torch.tensor(bandwidth, dtype=torch.float64))
        source_bandwidth = _mean_square(prepared["scatter"], n)
        ratio = bandwidth / source_bandwidth if source_bandwidth else math.inf
        if _LOWEST_RATIO <= ratio <= _HIGHEST_RATIO:
            self_kernel = _interpolate(prepared["self_kernel"], ratio)
        else:
            self_kernel = _self_kernel(x.double(), [bandwidth])[0]

        # In units of the root of b no square overflows or vanishes.
        unit = math.sqrt(bandwidth) or 1.0
        x, z = centred(x, z)
        x = x / unit
        z = z / unit
        cross_kernel, cross_gradient = _cross_kernel(x, z)
        # The target gets its own centre, so that its small distances keep their digits even if it
        # is far from the source.
        (z,) = centred(z - z[0])
        own_kernel, own_gradient = _own_kernel(z)
        value = self_kernel + own_kernel / m**2 - 2 * cross_kernel / (n * m)
        return value, (cross_gradient + own_gradient) / unit, {}


def _joint_bandwidth(prepared: dict[str, Tensor], n: int, z: Tensor) -> float:
    """Return b of the n source points and the target's points z [m, d] together."""
    m = len(z)
    centre = z.mean(0)
    # The scatter of a union is the sum of both parts' scatters and of the scatter of their means.
    between = _scatter(centre, prepared["mean"]) * (n * m / (n + m))
    scatter = prepared["scatter"] + _scatter(z, centre) + between
    return _mean_square(scatter, n + m)


def _scatter(points: Tensor, centre: Tensor) -> Tensor:
    """Return the sum of squared distances from a centre [d]."""
    return (points - centre).square().sum()


def _mean_square(scatter: Tensor, points: int) -> float:
    """Return the mean squared distance between two different points; 0 for one point."""
    return 2 * float(scatter) / max(points - 1, 1)


def _cross_kernel(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of K(x_i, z_j), and the gradient of -2 mean K(x_i, z_j) in z, [m, d].

    Points and gradient are in units of the root of b.
    """
    pairs = len(x) * len(z)
    total = z.new_zeros((), dtype=torch.float64)
    gradient = torch.zeros_like(z)
    for rows in x.split(_CHUNK):
        kernel, slope = _kernel(rows, z)  # [r, m]
        total += kernel.sum(dtype=torch.float64)
        gradient -= clouds.gradient(slope, rows, z).mul_(4 / pairs)
    return total, gradient


def _own_kernel(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of K(z_j, z_j'), and the gradient of mean K(z_j, z_j') in z, [m, d].

    Points and gradient are in units of the root of b.
    """
    pairs = len(z) * len(z)
    total = z.new_zeros((), dtype=torch.float64)
    gradients = []
    for rows in z.split(_CHUNK):
        kernel, slope = _kernel(rows, z)  # [r, m]
        total += kernel.sum(dtype=torch.float64)
        row_gradient = slope.sum(1, keepdim=True) * rows - slope @ z
        gradients.append(row_gradient.mul_(4 / pairs))
    return total, torch.cat(gradients)


def _kernel(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return K and its derivative by the squared distance, [n, m]; points in roots of b."""
    scale = _LARGEST_SCALE
    exponential = half_squared_distances(x, z).mul_(-2 / scale).exp_()
    kernel = exponential.clone()
    slope = exponential / -scale
    for _ in range(_KERNELS - 1):
        # Halving the scale squares the exponential, so that one exponential serves all kernels.
        exponential.square_()
        scale /= 2
        kernel += exponential
        slope -= exponential / scale
    return kernel, slope


def _self_kernel(x: Tensor, bandwidths: list[float]) -> Tensor:
    """Return the mean of K over all pairs of the points x [n, d], at every bandwidth."""
    (x,) = centred(x)
    sums = x.new_zeros(len(bandwidths))
    for start in range(0, len(x), _CHUNK):
        rows = x[start : start + _CHUNK]
        later = x[start + _CHUNK :]
        # Pairs are symmetric: the pairs within a block of rows count once, and the pairs of a block
        # with all later points twice.
        sums += _kernel_sums(rows, rows, bandwidths)
        sums += 2 * _kernel_sums(rows, later, bandwidths)
    return sums / len(x) ** 2


def _kernel_sums(x: Tensor, z: Tensor, bandwidths: list[float]) -> Tensor:
    """Return the sum of K(x_i, z_j) at every bandwidth, in the dtype of x."""
    squares = half_squared_distances(x, z).mul_(2)  # [n, m]
    sums = []
    for bandwidth in bandwidths:
        # Where the bandwidth is 0, all squares are 0 too, and any divisor serves.
        scale = _LARGEST_SCALE * (bandwidth or 1.0)
        exponential = (squares / -scale).exp_()
        total = exponential.sum()
        for _ in range(_KERNELS - 1):
            exponential.square_()
            total = total + exponential.sum()
        sums.append(total)
    return torch.stack(sums)


def _interpolate(table: Tensor, ratio: float) -> Tensor:
    """Return the table's value at a bandwidth, by the barycentric formula.

    `ratio` is the bandwidth in units of the source's own.
    """
    position = (math.log(ratio) - _MIDDLE) / _RADIUS
    node_gaps = [position - math.cos(angle) for angle in _ANGLES]
    if 0 in node_gaps:
        return table[node_gaps.index(0)]
    node_weights = []
    for node, node_gap in enumerate(node_gaps):
        node_weights.append((-1) ** node * math.sin(_ANGLES[node]) / node_gap)
    weights = table.new_tensor(node_weights)
    return (weights * table).sum() / weights.sum()
