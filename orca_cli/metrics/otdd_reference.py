"""The dataset distance as the released ORCA code computes it: its value and its gradient, with the constant parts cached.

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j),    W = debiased entropic transport with the cost |x - z|^2
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

Both levels are annealed and stopped (see `annealed`); the outer diameter includes the class number as one more coordinate, with
the target's classes numbered after the source's. W is a constant for the gradient, which is that of automatic differentiation
of the last, extrapolating update: plans at the potentials before it, only the first argument of each cost differentiated,

    d value / dz_j = 1/m (sum_k q_jk z_k - sum_i p_ji x_i),    p_j, q_j: softmax over source and target points.

With one target class W is constant along every source row: the source's labels move the value and hardly the gradient.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Features
from orca_cli.metrics.transport import annealed, clouds
from orca_cli.metrics.transport.clouds import (
    ClassIndex,
    Cost,
    Solved,
    check_features,
    closed_form,
    half_squared_distances,
    resolved,
)

# Far below rounding, and high enough that no product becomes denormal, with which a CPU is many times slower.
_MIN_EXPONENT = -50.0
_OUTER, _INNER = 1, 2  # units of the costs, in half squared distances
_Both = tuple[Tensor, Tensor]
_Selves = dict[tuple[int, int], float]


@dataclass(frozen=True)
class OTDDReference:
    """Value and gradient of the released code.

    Value to 1e-4 and gradient to a cosine of 0.9999 of what geomloss's `SamplesLoss` gives for the whole problem. Classes
    of one point are kept; the released code leaves them out. Where float32 cannot resolve reg at the scale of the
    features, float64 is used; the released code stays in float32.
    """

    convention = "squared, halved costs, debiased, annealed and stopped as in the released code"

    reg: Annotated[
        Positive,
        "Entropic strength: of points in units of halved squared distances, inside label distances of squared ones.",
    ] = 0.1

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's constants; memory grows with n and with the square of the largest class.

        They are low and high, the `_ranges` of the classes; class_self [k, 29] and source_self [1, 29], the transport of each
        class and of the whole source to itself, as tables over diameters (`annealed.tabulate`).
        """
        check_features(source, "source")
        (x,) = resolved(self.reg / 2, source.x)
        low, high = _ranges(source)
        classes = clouds.index_classes(source.labels, source.num_classes, x.dtype)
        squares = _square_diameters(low, high, low, high).tolist()
        tables = [[0.0] * annealed.TABLE_SIZE for _ in range(source.num_classes)]
        for label in classes.present:
            points = x[classes.points(label)]
            rows = partial(_rows, points)
            tables[label] = annealed.tabulate(rows, len(points), squares[label][label], self.reg, _INNER, x).tolist()
        cost = clouds.from_points(x)
        selves = {
            (a, b): sum(annealed.read(tables[label], squares[a][b], self.reg) for label in (a, b))
            for a, b in clouds.pairs(classes, classes)
        }
        between = self._label_distances(classes, classes, cost, squares, selves)
        between = between + between.T

        def outer_cost(start: int, stop: int) -> Tensor:
            return _rows(x, start, stop).add_(between[source.labels[start:stop]][:, source.labels], alpha=0.5)

        square = _outer_square(low, high, len(classes.present) + 1)
        table = annealed.tabulate(outer_cost, len(x), square, self.reg, _OUTER, x)
        class_self = torch.tensor(tables, dtype=torch.float64, device=x.device)
        return {"low": low, "high": high, "class_self": class_self, "source_self": table[None]}

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with n times m.

        Diagnostics: iterations (updates of the outer problem), marginal_error (L1 error of the outer plan on the source's
        side, where the released code stops too early to be right).
        """
        x, z = resolved(self.reg / 2, source.x.to(target.x.dtype), target.x)
        n, m = len(x), len(z)
        cost, target_cost = half_squared_distances(x, z), half_squared_distances(z, z)
        sources = clouds.index_classes(source.labels, source.num_classes, x.dtype)
        targets = clouds.index_classes(target.labels, target.num_classes, x.dtype)
        low, high = _ranges(target)
        label_cross, label_intra = self._target_labels(prepared, (low, high), sources, targets, (cost, target_cost))

        cost.add_((label_cross / 2)[source.labels][:, target.labels])
        target_cost.add_((label_intra / 2)[target.labels][:, target.labels])
        low, high = torch.cat([prepared["low"], low]), torch.cat([prepared["high"], high])
        square = _outer_square(low, high, len(sources.present) + len(targets.present))
        levels = annealed.levels_from([square], self.reg, _OUTER, cost)
        a, b = cost.new_full((1, n), 1 / n), cost.new_full((1, m), 1 / m)
        value, f, g = annealed.cross(cost[None], a, b, levels)
        target_self, target_f = annealed.selves(target_cost, m, levels)
        source_self = annealed.read(prepared["source_self"][0].tolist(), square, self.reg)

        # The plan's columns are right: g is the extrapolation of f.
        plan = torch.sub((f[0] / self.reg)[:, None] + (g[0] / self.reg), cost, alpha=1 / self.reg)
        plan = plan.clamp_(min=_MIN_EXPONENT).exp_().div_(n * m)
        within = torch.softmax((target_f[0] - target_cost) / self.reg, dim=1) / m
        error = float((plan.sum(1) - 1 / n).abs().sum())
        diagnostics = {"iterations": float(len(levels[1])), "marginal_error": error}
        return value[0] - target_self[0] - source_self, within @ z - plan.T @ x, diagnostics

    def _target_labels(
        self, prepared: dict[str, Tensor], ranges: _Both, sources: ClassIndex, targets: ClassIndex, costs: _Both
    ) -> _Both:
        """Return W between source and target classes, [k, l], and between target classes, [l, l]."""
        cost, target_cost = costs
        cross_squares = _square_diameters(prepared["low"], prepared["high"], *ranges).tolist()
        own_squares = _square_diameters(*ranges, *ranges).tolist()
        tables = prepared["class_self"].tolist()
        cross_selves = {
            (a, b): annealed.read(tables[a], cross_squares[a][b], self.reg) for a, b in clouds.pairs(sources, targets)
        }
        own_selves = dict.fromkeys(clouds.pairs(targets, targets), 0.0)
        for b in targets.present:
            members = targets.points(b)
            others = [pair for pair in own_selves if b in pair]
            squares = [cross_squares[a][b] for a in sources.present] + [own_squares[c][d] for c, d in others]
            block = target_cost[members][:, members]
            levels = annealed.levels_from(squares, self.reg, _INNER, target_cost)
            means = iter(annealed.selves(block, len(block), levels)[0].tolist())
            for a in sources.present:
                cross_selves[a, b] += next(means)
            for pair in others:
                own_selves[pair] += next(means)
        gather = clouds.from_matrix
        cross = self._label_distances(sources, targets, gather(cost), cross_squares, cross_selves)
        within = self._label_distances(targets, targets, gather(target_cost), own_squares, own_selves)
        return cross, within + within.T

    def _label_distances(
        self, left: ClassIndex, right: ClassIndex, cost: Cost, squares: list[list[float]], selves: _Selves
    ) -> Tensor:
        """Return W [k, l] for the pairs in `selves`, which has half of what their transports to themselves cost.

        `squares` has the squared diameters of two classes together.
        """
        table = left.weights.new_zeros(len(left.counts), len(right.counts))
        for group in clouds.padded(list(selves), left, right):
            chosen = list(zip(group.left.tolist(), group.right.tolist(), strict=True))
            levels = annealed.levels_from([squares[a][b] for a, b in chosen], self.reg, _INNER, table)
            values, _, _ = annealed.cross(cost(group.rows, group.columns), group.a, group.b, levels)
            values = values - values.new_tensor([selves[pair] for pair in chosen])
            table[group.left, group.right] = 2 * values
        return table


def _ranges(features: Features) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest feature of every class, [k, d] float64; infinite for a class without points."""
    shape = (features.num_classes, features.x.shape[1])
    index = features.labels[:, None].expand_as(features.x)
    low = features.x.new_full(shape, torch.inf).scatter_reduce_(0, index, features.x.detach(), "amin")
    high = features.x.new_full(shape, -torch.inf).scatter_reduce_(0, index, features.x.detach(), "amax")
    return low.double(), high.double()


def _square_diameters(low: Tensor, high: Tensor, other_low: Tensor, other_high: Tensor) -> Tensor:
    """Return the squared diagonals [k, l] of the boxes around two classes, from ranges [k, d] and [l, d]."""
    both = zip(low, high, strict=True)
    sides = [torch.maximum(top, other_high) - torch.minimum(bottom, other_low) for bottom, top in both]
    return torch.stack([side.square().sum(-1) for side in sides])


def _outer_square(low: Tensor, high: Tensor, classes: int) -> float:
    """Return the squared diagonal of the box around all classes, with their numbers as one more coordinate."""
    return float((high.amax(0) - low.amin(0)).square().sum(-1)) + (classes - 1) ** 2


def _rows(points: Tensor, start: int, stop: int) -> Tensor:
    """Return rows of the half squared distances of points [p, d], for `annealed.selves`."""
    return half_squared_distances(points[start:stop], points)
