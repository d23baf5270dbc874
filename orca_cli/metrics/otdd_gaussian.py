"""The dataset distance with classes taken as Gaussians (paper A.1; Alvarez-Melis and Fusi 2020, 4.2).

The outer problems and solvers are those of `otdd_by_class`. W needs no inner transport, and depends only on each class's mean
and covariance: it is the squared 2-Wasserstein distance between two Gaussians,

    W(a, b) = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^1/2 S_b S_a^1/2)^1/2)

with covariances divided by the number of points. No covariance is formed. With centred points A [p, d] and B [q, d] the last
trace is the sum of singular values of M = A B^T / sqrt(p q), and with the polar factor U V^T of M

    W(a, b) = sum_ij Q_ij |x_i - z_j|^2,    Q = 1 / (p q) + U V^T / sqrt(p q),

where rows of Q sum to 1/p and columns to 1/q. Q may have negative entries, but like a transport plan it carries the gradient:
dW/dz_j = 2 sum_i Q_ij (z_j - x_i). One point, or equal points, have covariance 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from orca_cli.interfaces import Features
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import ClassIndex, index_classes, pairs
from orca_cli.metrics.transport.entropic import Transport
from orca_cli.metrics.transport.problem import Reg, slope, solve_outer, source_term

_Slopes = list[
    tuple[int, int, Tensor, Tensor]
]  # a pair of classes, some points and the slope of half of W in them


@dataclass(frozen=True)
class OTDDGaussian:
    """Debiased entropic OTDD with Bures' formula between classes; the gradient goes through features and through W.

    Costs are squared and halved.
    """

    transport: ClassVar[Transport] = Transport()
    reg: Reg = 0.1

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return self_term, OT_reg(source, source), float64; memory grows with n and the square of the largest class."""
        clouds.check_finite("source features", source.x)
        (x,) = clouds.resolved(self.reg, source.x)
        classes = index_classes(source.labels, source.num_classes, x.dtype)
        labels = x.new_zeros(source.num_classes, source.num_classes)
        points = {label: x[classes.points(label)].double() for label in classes.present}
        for a, b in pairs(classes, classes):
            plan = coupling(points[a], points[b])
            labels[a, b] = labels[b, a] = (
                2 * (plan * clouds.half_squared_distances(points[a], points[b])).sum()
            )
        return {
            "self_term": source_term(self.transport, x, source.labels, labels, self.reg).double()
        }

    @clouds.closed_form
    def distance(
        self, source: Features, prepared: dict[str, Tensor], target: Features
    ) -> clouds.Solved:
        """Return the distance; memory is that of the n x m cost and, while classes are compared, of the largest block.

        Diagnostics: iterations, marginal_error, converged (`Transport.diagnostics`) of the two outer problems.
        """
        x, z = clouds.resolved(self.reg, source.x.to(target.x.dtype), target.x)
        cross, intra = clouds.half_squared_distances(x, z), clouds.half_squared_distances(z, z)
        sources, targets = (
            index_classes(one.labels, one.num_classes, x.dtype) for one in (source, target)
        )
        label_cross, slopes = _couplings(x, z, sources, targets)
        label_intra, intra_slopes = _couplings(z, z, targets, targets)

        outer, plan, mass = solve_outer(
            self.transport, cross, label_cross, self.reg, source, target
        )
        itself, own_plan, own_mass = solve_outer(
            self.transport, intra, label_intra + label_intra.T, self.reg, target
        )
        value = outer.value[0] - itself.value[0] / 2 - prepared["self_term"].to(x) / 2
        gradient = slope([plan], cross, x, z)
        for a, b, points, change in slopes:
            gradient[points] += mass[a, b] * change
        # Both ends of the target's own plan move, which cancels its factor of a half.
        gradient -= slope([own_plan], intra, z, z)
        own_mass = (own_mass + own_mass.T) / 2
        for a, b, points, change in intra_slopes:
            gradient[points] -= own_mass[a, b] * change
        return value, gradient, self.transport.diagnostics([outer, itself])


def _couplings(x: Tensor, z: Tensor, left: ClassIndex, right: ClassIndex) -> tuple[Tensor, _Slopes]:
    """Return W of all `pairs` of classes, [k, l], 0 for others, and its slopes.

    Bures' couplings are not kept: a slope has the size of its points. Where both clouds are the same, pairs are of different
    classes, and slopes those of both.
    """
    labels, slopes = x.new_zeros(len(left.counts), len(right.counts)), []
    for a, b in pairs(left, right):
        left_points, right_points = x[left.points(a)], z[right.points(b)]
        plan = coupling(left_points.double(), right_points.double()).to(x)
        p, q = plan.shape
        # Rows of a coupling sum to 1 / p and columns to 1 / q.
        moved = plan.T @ left_points
        labels[a, b] = (
            left_points.square().sum() / p + ((right_points / q - 2 * moved) * right_points).sum()
        )
        slopes.append((a, b, right.points(b), right_points / q - moved))
        if x is z:
            slopes.append((a, b, left.points(a), left_points / p - plan @ right_points))
    return labels, slopes


def coupling(x: Tensor, z: Tensor) -> Tensor:
    """Return Q [p, q] for clouds [p, d] and [q, d], all in float64."""
    p, q, d = len(x), len(z), x.shape[1]
    # What rounding leaves of products that cancel, such as those of equal points.
    noise = 10 * torch.finfo(x.dtype).eps * x.norm() * z.norm()
    if min(p, q) > d:
        left_basis, left = torch.linalg.qr(x - x.mean(0))
        right_basis, right = torch.linalg.qr(z - z.mean(0))
        polar = left_basis @ _polar(left @ right.T, noise) @ right_basis.T
    else:
        products = x @ z.T
        products -= products.mean(0)  # as if x were centred, for a fraction of the work
        polar = _polar(products - products.mean(1, keepdim=True), noise)
    # Small singular values leave rounding in the sums, which are 0.
    polar -= polar.mean(0)
    polar -= polar.mean(1, keepdim=True)
    return polar.div_((p * q) ** 0.5).add_(1 / (p * q))


def _polar(matrix: Tensor, noise: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition, over the singular values that are not 0 up to rounding."""
    if matrix.shape[0] < matrix.shape[1]:
        return _polar(matrix.T, noise).T
    squares, basis = torch.linalg.eigh(matrix.T @ matrix)
    eps = torch.finfo(matrix.dtype).eps
    floor = torch.maximum(squares[-1] * (10 * len(squares) * eps), noise**2)
    roots = torch.where(squares > floor, squares.rsqrt(), 0.0)
    return matrix @ (basis * roots) @ basis.T
