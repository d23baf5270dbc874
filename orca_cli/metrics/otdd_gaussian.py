"""The dataset distance with classes as Gaussians (paper A.1; Alvarez-Melis and Fusi 2020, 4.2).

The outer problems and their solvers are the same as in `otdd_by_class`. W needs no inner transport.
It depends only on the mean and the covariance of each class: it is the squared 2-Wasserstein
distance between two Gaussians,

    W(a, b) = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^1/2 S_b S_a^1/2)^1/2)

with covariances divided by the number of points. No covariance is formed. With centred points A
[p, d] and B [q, d] the last trace is the sum of singular values of M = A B^T / sqrt(p q), and with
the polar factor U V^T of M

    W(a, b) = sum_ij Q_ij |x_i - z_j|^2,    Q = 1 / (p q) + U V^T / sqrt(p q),

where rows of Q sum to 1/p and columns to 1/q. Q may have negative entries, but like a transport
plan it carries the gradient: dW/dz_j = 2 sum_i Q_ij (z_j - x_i). One point, or equal points, have
covariance 0.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from orca_cli.interfaces import Features, Metric
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import ClassIndex, index_classes, pairs
from orca_cli.metrics.transport.entropic import Transport
from orca_cli.metrics.transport.outer import (
    Reg,
    add_label_distances,
    slope,
    solve_across,
    solve_within,
    source_term,
)


class _PairSlope(NamedTuple):
    """The slope of half of W between classes a and b in the points of one of them."""

    a: int
    b: int
    points: Tensor  # [c] int64
    slope: Tensor  # [c, d]


@dataclass(frozen=True)
class OTDDGaussian(Metric):
    """Debiased entropic OTDD with Bures' formula between classes.

    Costs are halved squared distances. The gradient passes through features and through W.
    """

    transport: ClassVar[Transport] = Transport()
    reg: Annotated[
        Reg,
        "Strength of the entropic regularisation of the transport, in squared units of the"
        " features. (above 0)",
    ] = 0.1

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return self_term, OT_reg(source, source), float64.

        Memory grows with n and the square of the largest class.
        """
        clouds.check_finite("source features", source.x)
        (x,) = clouds.resolved(self.reg, source.x)
        classes = index_classes(source, x.dtype)
        class_points = {label: x[classes.points(label)].double() for label in classes.present}
        label_distances = x.new_zeros(source.num_classes, source.num_classes)  # W, [k, k]
        for a, b in pairs(classes, classes):
            plan = coupling(class_points[a], class_points[b])
            cost = clouds.half_squared_distances(class_points[a], class_points[b])
            label_distances[a, b] = label_distances[b, a] = 2 * (plan * cost).sum()
        resolved = replace(source, x=x)
        self_term = source_term(self.transport, resolved, label_distances, self.reg)
        return {"self_term": self_term.double()}

    @clouds.closed_form
    def distance(
        self, source: Features, prepared: dict[str, Tensor], target: Features
    ) -> clouds.Solved:
        """Return the distance.

        It needs memory for the n x m cost and, while classes are compared, for its largest block.

        Diagnostics: iterations, marginal_error, converged (`Transport.diagnostics`) of the two
        outer problems.
        """
        x, z = clouds.resolved(self.reg, source.x.to(target.x.dtype), target.x)
        cross_cost = clouds.half_squared_distances(x, z)  # [n, m]
        own_cost = clouds.half_squared_distances(z, z)  # [m, m]
        sources = index_classes(source, x.dtype)
        targets = index_classes(target, x.dtype)
        cross_distances, cross_slopes = _label_distances(x, z, sources, targets)  # W, [k, l]
        upper, own_slopes = _label_distances(z, z, targets, targets)
        add_label_distances(cross_cost, cross_distances, source.labels, target.labels)
        add_label_distances(own_cost, upper + upper.T, target.labels, target.labels)

        cross = solve_across(self.transport, cross_cost, self.reg, source=source, target=target)
        within = solve_within(self.transport, own_cost, self.reg, cloud=target)
        # OTDD = OT_reg(source, target) - 1/2 OT_reg(target, target) - 1/2 OT_reg(source, source)
        value = cross.value - within.value / 2 - prepared["self_term"].to(x) / 2
        gradient = slope([cross.plan], cross_cost, x, z)
        for pair in cross_slopes:
            gradient[pair.points] += cross.mass[pair.a, pair.b] * pair.slope
        # Both ends of the target's own plan move: this doubles the gradient and cancels the factor
        # 1/2 of this term.
        gradient -= slope([within.plan], own_cost, z, z)
        own_mass = (within.mass + within.mass.T) / 2
        for pair in own_slopes:
            gradient[pair.points] -= own_mass[pair.a, pair.b] * pair.slope
        return value, gradient, self.transport.diagnostics([cross.solution, within.solution])


def _label_distances(
    x: Tensor, z: Tensor, left: ClassIndex, right: ClassIndex
) -> tuple[Tensor, list[_PairSlope]]:
    """Return W [k, l] of all `pairs` of classes, 0 for others, and the slopes of its halves.

    Slopes are stored rather than Bures' couplings, as a slope has only the size of its points.
    Where both clouds are the same, each pair has a slope in the points of either class.
    """
    distances = x.new_zeros(len(left.counts), len(right.counts))
    slopes = []
    for a, b in pairs(left, right):
        left_points = x[left.points(a)]  # [p, d]
        right_points = z[right.points(b)]  # [q, d]
        plan = coupling(left_points.double(), right_points.double()).to(x)  # [p, q]
        p, q = plan.shape
        # W = sum_ij Q_ij |x_i - z_j|^2, where rows of Q sum to 1 / p and columns to 1 / q.
        transported = plan.T @ left_points  # [q, d]
        left_part = left_points.square().sum() / p
        right_part = ((right_points / q - 2 * transported) * right_points).sum()
        distances[a, b] = left_part + right_part
        slopes.append(
            _PairSlope(a=a, b=b, points=right.points(b), slope=right_points / q - transported)
        )
        if x is z:
            left_slope = left_points / p - plan @ right_points
            slopes.append(_PairSlope(a=a, b=b, points=left.points(a), slope=left_slope))
    return distances, slopes


def coupling(x: Tensor, z: Tensor) -> Tensor:
    """Return Q [p, q] for clouds x [p, d] and z [q, d], all in float64."""
    p, d = x.shape
    q = len(z)
    # The rounding error of products that cancel, such as the products of equal points.
    eps = torch.finfo(x.dtype).eps
    noise = 10 * eps * x.norm() * z.norm()
    if min(p, q) > d:
        # The product has rank d at most, so that the polar factor of a [d, d] matrix is enough.
        left_basis, left_factor = torch.linalg.qr(x - x.mean(0))
        right_basis, right_factor = torch.linalg.qr(z - z.mean(0))
        polar = left_basis @ _polar(left_factor @ right_factor.T, noise) @ right_basis.T
    else:
        products = x @ z.T
        # The same as if x had been centred, for a fraction of the work.
        products -= products.mean(0)
        polar = _polar(products - products.mean(1, keepdim=True), noise)
    # Rows and columns sum to 0 up to rounding, which small singular values magnify.
    polar -= polar.mean(0)
    polar -= polar.mean(1, keepdim=True)
    point_pairs = p * q
    return polar.div_(point_pairs**0.5).add_(1 / point_pairs)


def _polar(matrix: Tensor, noise: Tensor) -> Tensor:
    """Return U V^T of a matrix, without the singular values that are 0 up to rounding."""
    if matrix.shape[0] < matrix.shape[1]:
        return _polar(matrix.T, noise).T
    eigenvalues, eigenvectors = torch.linalg.eigh(matrix.T @ matrix)
    eps = torch.finfo(matrix.dtype).eps
    floor = torch.maximum(eigenvalues[-1] * (10 * len(eigenvalues) * eps), noise**2)
    inverse_roots = torch.where(eigenvalues > floor, eigenvalues.rsqrt(), 0.0)
    return matrix @ (eigenvectors * inverse_roots) @ eigenvectors.T
