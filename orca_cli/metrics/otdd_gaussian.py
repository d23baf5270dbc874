"""The dataset distance with classes taken as Gaussians (paper A.1; Alvarez-Melis and Fusi 2020, 4.2).

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j),    W: 2-Wasserstein between the classes' moments (see `bures`)
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

The outer problems are those of `otdd`, with the same solvers. W needs no inner transport, and sees of a class its mean and
covariance alone. The gradient goes through features and through W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.interfaces import Features
from orca_cli.metrics.transport import bures, envelope
from orca_cli.metrics.transport.costs import double, half_squared_distances, resolved
from orca_cli.metrics.transport.problem import Transport, add_labels, class_mass, outer_plan, slope
from orca_cli.metrics.transport.validity import check_features


class OTDDGaussian(Transport):
    """Debiased entropic OTDD with Bures' formula between classes; arguments as in `Transport`.

    Covariances are divided by the number of points. A class with one point has covariance 0; a class without points carries
    no weight.
    """

    convention = "squared, halved costs, debiased, Gaussian classes"

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone; memory grows with n times `chunk` and the square of a class.

        Returns:
            self_term: scalar, OT_reg(source, source).
            self_source: scalar, what is left of OTDD(source, source) when its cross term gets one update more than the
                self term: 0 when converged.
        """
        check_features(source, "source")
        (x,) = resolved(self.reg, source.x)
        members = _members(source)
        labels = x.new_zeros(source.num_classes, source.num_classes)
        points = {label: double(x[rows]) for label, rows in members.items()}
        for a, b in _pairs(members):
            plan = bures.coupling(points[a], points[b])
            labels[a, b] = labels[b, a] = 2 * (plan * half_squared_distances(points[a], points[b])).sum()
        self_term, self_source = self.source_term(x, source.labels, labels)
        return {"self_term": double(self_term), "self_source": double(self_source)}

    @envelope.closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> envelope.Solved:
        """Return the distance; memory is that of the n x m cost and, while classes are compared, of the largest block.

        Diagnostics: iterations and marginal_error (the larger of the two outer problems), converged (1 where both reached the
        tolerance, 0 where a bound ended one), self_source as in `prepare`, n, m.
        """
        x, z = resolved(self.reg, source.x.to(target.x.dtype), target.x)
        k, l = source.num_classes, target.num_classes  # noqa: E741 - the paper's letters
        cross, own = half_squared_distances(x, z), half_squared_distances(z, z)
        sources, targets = _members(source), _members(target)
        pairs = [(a, b) for a in sources for b in targets]
        between = _Couplings(x, z, (sources, targets), pairs, (k, l))
        within = _Couplings(z, z, (targets, targets), _pairs(targets), (l, l))
        label_own = within.labels + within.labels.T

        outer = self.outer(add_labels(cross, source.labels, target.labels, between.labels))
        outer_self = self.outer_to_itself(add_labels(own, target.labels, target.labels, label_own))
        value = outer.value[0] - outer_self.value[0] / 2 - prepared["self_term"].to(x) / 2

        plan = outer_plan(outer, source.labels, target.labels, self.reg)
        gradient = slope([plan], cross, x, z)
        between.add_slopes(gradient, class_mass(plan, cross, (k, l)))
        # Of the target's own plan both ends move, which takes back the half that it counts.
        plan = outer_plan(outer_self, target.labels, target.labels, self.reg)
        mass = class_mass(plan, own, (l, l))
        gradient -= slope([plan], own, z, z)
        within.add_slopes(gradient, (mass + mass.T) / -2)
        return value, gradient, self.diagnostics([outer, outer_self], prepared)


class _Couplings:
    """W of pairs of classes and its slopes, from Bures' couplings, which are not kept: a slope has the size of its points.

    Where both clouds are the same, pairs are of different classes, and slopes those of both.

    Attributes:
        labels: [k, l], W of these pairs and 0 for others.
    """

    def __init__(
        self,
        x: Tensor,
        z: Tensor,
        members: tuple[dict[int, Tensor], dict[int, Tensor]],
        pairs: list[tuple[int, int]],
        shape: tuple[int, int],
    ) -> None:
        left, right = (
            {label: part[rows] for label, rows in own.items()} for part, own in zip((x, z), members, strict=True)
        )
        exact = [{label: double(points) for label, points in part.items()} for part in (left, right)]
        self.labels = x.new_zeros(shape)
        self._slopes: list[tuple[int, int, Tensor, Tensor]] = []
        for a, b in pairs:
            plan = bures.coupling(exact[0][a], exact[1][b]).to(x)
            p, q = plan.shape
            # Rows of a coupling sum to 1 / p and columns to 1 / q.
            moved = plan.T @ left[a]
            self.labels[a, b] = left[a].square().sum() / p + ((right[b] / q - 2 * moved) * right[b]).sum()
            self._slopes.append((a, b, members[1][b], right[b] / q - moved))
            if x is z:
                self._slopes.append((a, b, members[0][a], left[a] / p - plan @ right[b]))

    def add_slopes(self, slope: Tensor, mass: Tensor) -> None:
        """Add mass[a, b] times the slope in z of half of W(a, b), of every pair, to `slope` [m, d], in place."""
        for a, b, points, change in self._slopes:
            slope[points] += mass[a, b] * change


def _members(features: Features) -> dict[int, Tensor]:
    """Return the points of every class that has any."""
    counts = torch.bincount(features.labels, minlength=features.num_classes).tolist()
    order = torch.argsort(features.labels, stable=True)
    return {label: part for label, part in enumerate(order.split(counts)) if len(part)}


def _pairs(members: dict[int, Tensor]) -> list[tuple[int, int]]:
    return [(a, b) for a in members for b in members if a < b]
