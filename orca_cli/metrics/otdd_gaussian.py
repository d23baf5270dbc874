"""The dataset distance with classes taken as Gaussians (paper A.1; Alvarez-Melis and Fusi 2020, 4.2).

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j),    W: 2-Wasserstein between the classes' moments (see `bures`)
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

The outer problems are those of `otdd`, with the same solvers. W needs no inner transport, and sees of a class its mean and
covariance alone. The gradient goes through features and through W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.interfaces import Distance, Features
from orca_cli.metrics import bures, envelope
from orca_cli.metrics.costs import centred, half_squared_distances, needs_double
from orca_cli.metrics.otdd import OTDD
from orca_cli.metrics.validity import check_features, check_pair


class OTDDGaussian:
    """Debiased entropic OTDD with Bures' formula between classes.

    Covariances are divided by the number of points. A class with one point has covariance 0; a class without points carries
    no weight.

    Args:
        reg: entropic strength of the outer problem, absolute, beside halved squared distances of the features.
        tolerance: L1 error of a plan's marginal at which a problem counts as solved; 0..2.
        max_iterations: bound on the iterations at the final reg where Sinkhorn's algorithm is used.
        newton_points: problems with at most so many target points are solved by Newton's method.
        newton_steps: bound on its steps at the final reg.
        scaling: factor between the levels of annealing, 0..1, both excluded.
        chunk: rows of the source's own cost matrix that are held at once.

    Raises:
        ConfigError: a parameter is out of range.
    """

    convention = "squared, halved costs, debiased, Gaussian classes"

    def __init__(
        self,
        reg: float = 0.1,
        tolerance: float = 1e-2,
        max_iterations: int = 500,
        newton_points: int = 512,
        newton_steps: int = 15,
        scaling: float = 0.25,
        chunk: int = 1024,
    ) -> None:
        self.transport = OTDD(reg, tolerance, max_iterations, newton_points, newton_steps, scaling, chunk)
        self.reg = reg

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone; memory grows with n times `chunk` and the square of a class.

        Returns:
            self_term: scalar, OT_reg(source, source).
            self_source: scalar, what is left of OTDD(source, source) when its cross term gets one update more than the
                self term: 0 when converged.

        Raises:
            NonFiniteError: a feature is NaN or infinite.
            DataError: features or labels do not have the form that Features asks for.
        """
        check_features(source, "source")
        x = centred(source.x)[0]
        if needs_double(x, x, self.reg):
            x = x.double()
        members = _members(source)
        labels = x.new_zeros(source.num_classes, source.num_classes)
        points = {label: x[rows].double() for label, rows in members.items()}
        for a, b in _pairs(members):
            plan = bures.coupling(points[a], points[b])
            labels[a, b] = labels[b, a] = 2 * (plan * half_squared_distances(points[a], points[b])).sum()
        self_term, self_source = self.transport.source_term(x, source.labels, labels)
        return {"self_term": self_term.double(), "self_source": self_source.double()}

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance; memory grows with n times m.

        Diagnostics: iterations and marginal_error (the larger of the two outer problems), self_source as in `prepare`, n, m.

        Raises:
            NonFiniteError: a feature or the value is NaN or infinite.
            DataError: features or labels do not have the form that Features asks for.
        """
        check_pair(source, target)
        with torch.no_grad():
            value, slope, diagnostics = self._solve(source, prepared, target)
        return envelope.attach(value, slope, target.x, diagnostics)

    def _solve(
        self, source: Features, prepared: dict[str, Tensor], target: Features
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        x, z = centred(source.x.to(target.x.dtype), target.x)
        if needs_double(x, z, self.reg):
            x, z = x.double(), z.double()
        k, l = source.num_classes, target.num_classes  # noqa: E741 - the paper's letters
        cross, own = half_squared_distances(x, z), half_squared_distances(z, z)
        sources, targets = _members(source), _members(target)
        pairs = [(a, b) for a in sources for b in targets]
        between = _Couplings(x, z, cross, (sources, targets), pairs, (k, l))
        within = _Couplings(z, z, own, (targets, targets), _pairs(targets), (l, l))

        outer = self.transport.outer(cross, source.labels, target.labels, between.labels)
        outer_self = self.transport.outer_to_itself(own, target.labels, within.labels + within.labels.T)
        value = outer.value[0] - outer_self.value[0] / 2 - prepared["self_term"].to(x) / 2

        cross_plan, own_plan = outer.plan[0], outer_self.plan[0] / -2
        cross_mass = envelope.class_mass(cross_plan, source.labels, target.labels, (k, l))
        own_mass = envelope.class_mass(own_plan, target.labels, target.labels, (l, l))
        between.add_to(cross_plan, cross_mass)
        within.add_to(own_plan, own_mass + own_mass.T)
        diagnostics = {
            "iterations": float(max(outer.iterations, outer_self.iterations)),
            "marginal_error": float(torch.cat([outer.error, outer_self.error]).max()),
            "self_source": float(prepared["self_source"]),
            "n": float(len(x)),
            "m": float(len(z)),
        }
        return value, envelope.gradient(cross_plan, own_plan, x, z), diagnostics


class _Couplings:
    """Bures' couplings of pairs of classes.

    Attributes:
        labels: [k, l], W of these pairs and 0 for others.
    """

    def __init__(
        self,
        x: Tensor,
        z: Tensor,
        cost: Tensor,
        members: tuple[dict[int, Tensor], dict[int, Tensor]],
        pairs: list[tuple[int, int]],
        shape: tuple[int, int],
    ) -> None:
        left, right = members
        self.labels = cost.new_zeros(shape)
        self._blocks = {(a, b): (left[a][:, None], right[b]) for a, b in pairs}
        points = [
            {label: cloud[rows].double() for label, rows in part.items()} for cloud, part in ((x, left), (z, right))
        ]
        self._plans = {(a, b): bures.coupling(points[0][a], points[1][b]).to(cost) for a, b in pairs}
        for pair, plan in self._plans.items():
            # Half squared distances weigh half of W.
            self.labels[pair] = 2 * (plan * cost[self._blocks[pair]]).sum()

    def add_to(self, plan: Tensor, mass: Tensor) -> None:
        """Add mass[a, b] times the coupling of every pair to a plan, in place."""
        for pair, own in self._plans.items():
            plan[self._blocks[pair]] += mass[pair] * own


def _members(features: Features) -> dict[int, Tensor]:
    """Return the points of every class that has any."""
    counts = torch.bincount(features.labels, minlength=features.num_classes).tolist()
    order = torch.argsort(features.labels, stable=True)
    return {label: part for label, part in enumerate(order.split(counts)) if len(part)}


def _pairs(members: dict[int, Tensor]) -> list[tuple[int, int]]:
    return [(a, b) for a in members for b in members if a < b]
