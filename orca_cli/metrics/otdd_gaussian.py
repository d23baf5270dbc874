"""The dataset distance with classes taken as Gaussians (paper A.1; Alvarez-Melis and Fusi 2020, 4.2).

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j),    W: 2-Wasserstein between the classes' moments (see `bures`)
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

The outer problems are those of `otdd`, with the same solvers. W needs no inner transport, and sees of a class its mean and
covariance alone. The gradient goes through features and through W.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from orca_cli.interfaces import Features
from orca_cli.metrics.transport import bures, envelope, problem
from orca_cli.metrics.transport.clouds import check_features, double, half_squared_distances, resolved
from orca_cli.metrics.transport.label_distances import ClassIndex, index_classes, pairs
from orca_cli.metrics.transport.problem import Transport, add_labels, class_mass, outer_plan, slope

_Slopes = list[tuple[int, int, Tensor, Tensor]]  # a pair of classes, some points and the slope of half of W in them


@dataclass(frozen=True)
class OTDDGaussian:
    """Debiased entropic OTDD with Bures' formula between classes.

    Covariances are divided by the number of points. A class with one point has covariance 0; a class without points carries
    no weight.
    """

    convention = "squared, halved costs, debiased, Gaussian classes"

    reg: problem.Reg = Transport.reg
    tolerance: problem.Tolerance = Transport.tolerance
    max_iterations: problem.MaxIterations = Transport.max_iterations
    newton_points: problem.NewtonPoints = Transport.newton_points
    newton_steps: problem.NewtonSteps = Transport.newton_steps
    scaling: problem.Scaling = Transport.scaling
    chunk: problem.Chunk = Transport.chunk

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return self_term and self_source, as `OTDD` does; memory grows with n times `chunk` and the square of a class."""
        check_features(source, "source")
        (x,) = resolved(self.reg, source.x)
        classes = index_classes(source.labels, source.num_classes, x.dtype)
        labels = x.new_zeros(source.num_classes, source.num_classes)
        points = {label: double(x[classes.points(label)]) for label in classes.present}
        for a, b in pairs(classes, classes):
            plan = bures.coupling(points[a], points[b])
            labels[a, b] = labels[b, a] = 2 * (plan * half_squared_distances(points[a], points[b])).sum()
        constants = Transport(**asdict(self)).source_term(x, source.labels, labels)
        return {name: double(value) for name, value in constants.items()}

    @envelope.closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> envelope.Solved:
        """Return the distance; memory is that of the n x m cost and, while classes are compared, of the largest block.

        Diagnostics: as of `OTDD`, over the two outer problems.
        """
        transport = Transport(**asdict(self))
        x, z = resolved(self.reg, source.x.to(target.x.dtype), target.x)
        k, l = source.num_classes, target.num_classes  # noqa: E741 - the paper's letters
        cross, own = half_squared_distances(x, z), half_squared_distances(z, z)
        sources, targets = index_classes(source.labels, k, x.dtype), index_classes(target.labels, l, x.dtype)
        label_cross, slopes = _couplings(x, z, sources, targets)
        label_own, own_slopes = _couplings(z, z, targets, targets)
        label_own = label_own + label_own.T

        outer = transport.outer(add_labels(cross, source.labels, target.labels, label_cross))
        outer_self = transport.outer_to_itself(add_labels(own, target.labels, target.labels, label_own))
        value = outer.value[0] - outer_self.value[0] / 2 - prepared["self_term"].to(x) / 2

        plan = outer_plan(outer, source.labels, target.labels, self.reg)
        gradient = slope([plan], cross, x, z)
        _add_slopes(gradient, slopes, class_mass(plan, cross, (k, l)))
        # Of the target's own plan both ends move, which takes back the half that it counts.
        plan = outer_plan(outer_self, target.labels, target.labels, self.reg)
        mass = class_mass(plan, own, (l, l))
        gradient -= slope([plan], own, z, z)
        _add_slopes(gradient, own_slopes, (mass + mass.T) / -2)
        return value, gradient, transport.diagnostics([outer, outer_self], prepared)


def _couplings(x: Tensor, z: Tensor, left: ClassIndex, right: ClassIndex) -> tuple[Tensor, _Slopes]:
    """Return W of all `pairs` of classes, [k, l], 0 for others, and its slopes.

    Bures' couplings are not kept: a slope has the size of its points. Where both clouds are the same, pairs are of different
    classes, and slopes those of both.
    """
    exact_x, exact_z = double(x), double(z)
    labels, slopes = x.new_zeros(len(left.counts), len(right.counts)), []
    for a, b in pairs(left, right):
        rows, columns = left.points(a), right.points(b)
        plan = bures.coupling(exact_x[rows], exact_z[columns]).to(x)
        p, q = plan.shape
        # Rows of a coupling sum to 1 / p and columns to 1 / q.
        moved = plan.T @ x[rows]
        labels[a, b] = x[rows].square().sum() / p + ((z[columns] / q - 2 * moved) * z[columns]).sum()
        slopes.append((a, b, columns, z[columns] / q - moved))
        if x is z:
            slopes.append((a, b, rows, x[rows] / p - plan @ z[columns]))
    return labels, slopes


def _add_slopes(gradient: Tensor, slopes: _Slopes, mass: Tensor) -> None:
    """Add mass[a, b] times the slope in z of half of W(a, b), of every pair, to a gradient [m, d], in place."""
    for a, b, points, change in slopes:
        gradient[points] += mass[a, b] * change
