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
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Features
from orca_cli.metrics.transport import annealed, clouds
from orca_cli.metrics.transport.clouds import ClassIndex, Cost, Solved, half_squared_distances, index_classes, resolved

# Far below rounding, and high enough that no product becomes denormal, with which a CPU is many times slower.
_MIN_EXPONENT = -50.0
_Ranges = tuple[Tensor, Tensor]


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
        clouds.check_features(source, "source")
        (x,) = resolved(self.reg / 2, source.x)
        ranges = _ranges(source)
        classes = index_classes(source.labels, source.num_classes, x.dtype)
        squares = _square_diameters(ranges, ranges)
        tables = torch.zeros(len(classes.counts), annealed.TABLE_SIZE, dtype=torch.float64, device=x.device)
        for label in classes.present:
            points = x[classes.points(label)]
            rows = _rows(points)
            tables[label] = annealed.tabulate(rows, points, squares[label][label], self.reg / 2)
        selves = _read(tables, squares, self.reg / 2)
        between = self._label_distances(classes, classes, clouds.from_points(x), squares, selves + selves.T)
        between = between + between.T

        def outer_cost(some: slice) -> Tensor:
            return _rows(x)(some).add_(between[source.labels[some]][:, source.labels], alpha=0.5)

        square = _outer_square(ranges, len(classes.present) + 1)
        source_self = annealed.tabulate(outer_cost, x, square, self.reg)
        return {"low": ranges[0], "high": ranges[1], "class_self": tables, "source_self": source_self[None]}

    @clouds.closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with n times m.

        Diagnostics: iterations (updates of the outer problem), marginal_error (L1 error of the outer plan on the source's
        side, where the released code stops too early to be right).
        """
        x, z = resolved(self.reg / 2, source.x.to(target.x.dtype), target.x)
        n, m = len(x), len(z)
        cost, target_cost = half_squared_distances(x, z), half_squared_distances(z, z)
        sources, targets = (index_classes(one.labels, one.num_classes, x.dtype) for one in (source, target))
        ranges, target_ranges = (prepared["low"], prepared["high"]), _ranges(target)
        squares, own_squares = (_square_diameters(one, target_ranges) for one in (ranges, target_ranges))
        # What each target class's transport to itself costs, at its diameters with the source's classes and with its own.
        selves = torch.zeros(target.num_classes, source.num_classes + target.num_classes, dtype=torch.float64)
        for label in targets.present:
            members = targets.points(label)
            block = target_cost[members][:, members]
            levels = annealed.levels_from([row[label] for row in (*squares, *own_squares)], self.reg / 2, block)
            selves[label] = annealed.selves(block.__getitem__, len(block), levels)[0]
        cross, own = selves.to(z.device).split([source.num_classes, target.num_classes], 1)
        cross = _read(prepared["class_self"], squares, self.reg / 2) + cross.T
        labels = self._label_distances(sources, targets, clouds.from_matrix(cost), squares, cross)
        own = self._label_distances(targets, targets, clouds.from_matrix(target_cost), own_squares, own + own.T)

        cost.add_((labels / 2)[source.labels][:, target.labels])
        target_cost.add_(((own + own.T) / 2)[target.labels][:, target.labels])
        low, high = (torch.cat(pair) for pair in zip(ranges, target_ranges, strict=True))
        square = _outer_square((low, high), len(sources.present) + len(targets.present))
        levels = annealed.levels_from([square], self.reg, cost)
        a, b = cost.new_full((1, n), 1 / n), cost.new_full((1, m), 1 / m)
        value, f, g = annealed.cross(cost[None], a, b, levels)
        target_self, target_f = annealed.selves(target_cost.__getitem__, m, levels)
        source_self = annealed.read(prepared["source_self"][0].tolist(), square, self.reg)

        # The plan's columns are right: g is the extrapolation of f.
        plan = torch.sub((f[0] / self.reg)[:, None] + (g[0] / self.reg), cost, alpha=1 / self.reg)
        plan = plan.clamp_(min=_MIN_EXPONENT).exp_().div_(n * m)
        within = torch.softmax((target_f[0] - target_cost) / self.reg, dim=1) / m
        error = float((plan.sum(1) - 1 / n).abs().sum())
        diagnostics = {"iterations": float(len(levels[1])), "marginal_error": error}
        return value[0] - target_self[0] - source_self, within @ z - plan.T @ x, diagnostics

    def _label_distances(
        self, left: ClassIndex, right: ClassIndex, cost: Cost, squares: list[list[float]], selves: Tensor
    ) -> Tensor:
        """Return W [k, l] of all `pairs` of classes, 0 for others.

        `squares` has the squared diameters of two classes together, `selves` half of what both their transports to
        themselves cost, both [k, l].
        """
        table = left.weights.new_zeros(len(left.counts), len(right.counts))
        for group in clouds.padded(clouds.pairs(left, right), left, right):
            chosen = zip(group.left.tolist(), group.right.tolist(), strict=True)
            levels = annealed.levels_from([squares[a][b] for a, b in chosen], self.reg / 2, table)
            values, _, _ = annealed.cross(cost(group.rows, group.columns), group.a, group.b, levels)
            table[group.left, group.right] = 2 * (values - selves[group.left, group.right].to(values))
        return table


def _ranges(features: Features) -> _Ranges:
    """Return the smallest and the largest feature of every class, [k, d] float64; infinite for a class without points."""
    shape = (features.num_classes, features.x.shape[1])
    index = features.labels[:, None].expand_as(features.x)
    low = features.x.new_full(shape, torch.inf).scatter_reduce_(0, index, features.x.detach(), "amin")
    high = features.x.new_full(shape, -torch.inf).scatter_reduce_(0, index, features.x.detach(), "amax")
    return low.double(), high.double()


def _square_diameters(left: _Ranges, right: _Ranges) -> list[list[float]]:
    """Return half the squared diagonals [k, l] of the boxes around two classes; 0 where neither has points."""
    both = zip(*left, strict=True)
    sides = [torch.maximum(high, right[1]) - torch.minimum(low, right[0]) for low, high in both]
    squares = torch.stack([side.square().sum(-1) for side in sides]) / 2
    return torch.where(squares.isfinite(), squares, 0.0).tolist()


def _outer_square(ranges: _Ranges, classes: int) -> float:
    """Return the squared diagonal of the box around all classes, with their numbers as one more coordinate."""
    low, high = ranges
    return float((high.amax(0) - low.amin(0)).square().sum(-1)) + (classes - 1) ** 2


def _rows(points: Tensor) -> annealed.Rows:
    """Return the half squared distances of points [p, d] to all of them, by rows."""
    return lambda some: half_squared_distances(points[some], points)


def _read(tables: Tensor, squares: list[list[float]], reg: float) -> Tensor:
    """Return every class's transport to itself [k, l], from tables [k, TABLE_SIZE], at its diameters with other classes."""
    rows = zip(tables.tolist(), squares, strict=True)
    return tables.new_tensor([[annealed.read(table, square, reg) for square in row] for table, row in rows])
