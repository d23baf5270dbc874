"""The dataset distance and gradient of the released ORCA code, with the constant parts cached.

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j)
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

with W the debiased entropic transport of cost |x - z|^2. Both levels are entropic and stop where
annealing ends, as in geomloss (Feydy 2020, 3.3.3; `SamplesLoss`, "tensorized"). Reg falls from the
squared diameter of the two clouds by a constant ratio r (D^2, D^2, D^2 r, D^2 r^2, ... while above
reg, then reg). There is a symmetrised update at each level, and an update without averaging at the
end, the extrapolation:

    f <- (f + softmin(g)) / 2,    g <- (g + softmin(f)) / 2
    softmin(g)_i = -reg log sum_j b_j exp((g_j - c_ij) / reg)

The marginals need not be right at the end, so that only the same levels give the same numbers.
The outer diameter includes the class number as one more coordinate, with the target's classes
numbered after the source's. The gradient treats W as a constant. It is the automatic derivative of
the last, extrapolating update: the plans belong to the potentials before this update, and only the
first argument of each cost is differentiated,

    d value / dz_j = 1/m (sum_k q_jk z_k - sum_i p_ji x_i)

with p_j and q_j the softmax over source and target points. With one target class, W is constant
along every source row, so that the source's labels change the value but hardly the gradient.

The transport of a cloud to itself is needed at the diameter of the cloud together with another
cloud. As a function of u = log(D^2 / reg) / log(1 / r) it is smooth between whole numbers, where
the number of levels changes. It is nearly periodic, since annealing hardly remembers its first
levels. So it is tabulated at Chebyshev nodes of its first periods, and later periods are read from
the last period in the table. The relative error is a few 1e-6.

Shapes are as in `entropic`. Costs are half squared distances, with or without W / 2, and squared
diameters are in units of costs. For a cloud against itself, the cost is a function from a slice of
rows to their costs [r, points].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Features, Metric
from orca_cli.metrics.transport import clouds
from orca_cli.metrics.transport.clouds import (
    ClassIndex,
    Cost,
    Solved,
    half_squared_distances,
    index_classes,
    resolved,
)
from orca_cli.metrics.transport.entropic import log_sum_exp
from orca_cli.metrics.transport.outer import add_label_distances, uniform_weights

# Far below rounding, and high enough that no product becomes a denormal number, which would make a
# CPU many times slower.
_MIN_EXPONENT = -50.0
_SCALING = 0.5  # root of the ratio r between two levels
_PERIODS = 4  # periods in a table
# Chebyshev nodes of a period.
_NODES = [(1 + math.cos(math.pi * (2 * i + 1) / 14)) / 2 for i in range(7)]  # in 0..1
_TABLE_LENGTH = 1 + _PERIODS * len(_NODES)
# Number of levels after which annealing has forgotten its first level: later periods are equal.
_REMEMBERED = 7
_CHUNK_ELEMENTS = 2**20  # number of exponents of clouds against themselves computed at once
# Largest number of entries of a cloud's cost that are stored for its table, 256 MB in float32.
_STORED_ELEMENTS = 2**26

_Rows = Callable[[slice], Tensor]


class _Levels(NamedTuple):
    """The levels of B problems, padded at the front to the same number S."""

    regs: Tensor  # [S, B]
    steps: Tensor  # [S, B], the weight of the update in the new potential: 1/2, and 0 at padding


class _Ranges(NamedTuple):
    """The smallest and largest features of every class; infinite for a class without points."""

    low: Tensor  # [k, d]
    high: Tensor  # [k, d]


class _Classes(NamedTuple):
    """The classes of one side."""

    points: ClassIndex
    ranges: _Ranges


@dataclass(frozen=True)
class OTDDReference(Metric):
    """The released code's value and gradient: halved squared distances, debiased, stopped early.

    They agree with geomloss's `SamplesLoss` on the whole problem: the value to 1e-4, the gradient
    to a cosine of 0.9999. This metric includes classes of one point, which the released code leaves
    out. If float32 cannot resolve reg at the scale of the features, float64 is used; the released
    code stays in float32.
    """

    reg: Annotated[
        Positive,
        "Strength of the entropic regularisation, in units of half a squared distance between"
        " points. When distances between labels are computed, the unit is a squared distance.",
    ] = 0.1

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's constants, float64.

        They are low and high [k, d], the ranges of the classes' features, infinite for a class
        without points; class_self [k, 29] and source_self [1, 29], the transport of each class and
        of the whole source to itself, as tables over diameters (`_tabulate`).

        Memory grows with n and with the square of the largest class.
        """
        clouds.check_finite("source features", source.x)
        class_reg = self.reg / 2
        (x,) = resolved(class_reg, source.x)
        ranges = _ranges(source)
        classes = index_classes(source, x.dtype)
        square_diameters = _square_diameters(ranges, ranges)
        tables = x.new_zeros(len(classes.counts), _TABLE_LENGTH, dtype=torch.float64)
        for label in classes.present:
            points = x[classes.points(label)]
            tables[label] = _tabulate(
                _rows(points), points, square_diameters[label][label], class_reg
            )
        selves = _read(tables, square_diameters, class_reg)  # [k, k]
        upper = self._label_distances(
            classes,
            classes,
            clouds.from_points(x),
            square_diameters=square_diameters,
            selves=selves + selves.T,
        )
        label_distances = upper + upper.T  # W, [k, k]
        half_squares = _rows(x)

        def outer_cost(rows: slice) -> Tensor:
            row_labels = source.labels[rows]
            return add_label_distances(
                half_squares(rows), label_distances, row_labels, source.labels
            )

        square_diameter = _outer_square(ranges, len(classes.present) + 1)
        source_self = _tabulate(outer_cost, x, square_diameter, self.reg)
        return {
            "low": ranges.low,
            "high": ranges.high,
            "class_self": tables,
            "source_self": source_self[None],
        }

    @clouds.closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance; memory grows with n times m.

        Diagnostics: iterations (number of updates of the outer problem), marginal_error (L1 error
        of the outer plan on the source's side; the released code stops before this error is small).
        """
        x, z = resolved(self.reg / 2, source.x.to(target.x.dtype), target.x)
        cost = half_squared_distances(x, z)  # [n, m]
        own_cost = half_squared_distances(z, z)  # [m, m]
        sources = _Classes(
            points=index_classes(source, x.dtype),
            ranges=_Ranges(low=prepared["low"], high=prepared["high"]),
        )
        targets = _Classes(
            points=index_classes(target, x.dtype),
            ranges=_ranges(target),
        )
        distances, own_distances = self._all_label_distances(
            sources, targets, cost, own_cost, class_self=prepared["class_self"]
        )
        add_label_distances(cost, distances, source.labels, target.labels)
        add_label_distances(own_cost, own_distances, target.labels, target.labels)
        n, m = cost.shape
        square_diameter = _joint_square(sources, targets)
        levels = _levels_from([square_diameter], self.reg, cost)
        cross_value, plan = self._cross_plan(cost, levels)
        own_value, own_f = _selves(own_cost.__getitem__, m, levels)
        own_plan = torch.softmax((own_f[0] - own_cost) / self.reg, dim=1) / m  # [m, m]
        source_value = float(_read(prepared["source_self"], [[square_diameter]], self.reg))
        value = cross_value - own_value[0] - source_value
        row_errors = plan.sum(1) - 1 / n
        marginal_error = row_errors.abs().sum()
        diagnostics = {
            "iterations": float(len(levels.steps)),
            "marginal_error": float(marginal_error),
        }
        return value, own_plan @ z - plan.T @ x, diagnostics

    def _cross_plan(self, cost: Tensor, levels: _Levels) -> tuple[Tensor, Tensor]:
        """Return the value of the outer problem between two clouds, and its plan [n, m]."""
        n, m = cost.shape
        a = uniform_weights(n, cost)
        b = uniform_weights(m, cost)
        value, f, g = _cross(cost[None], a, b, levels)
        # The plan's column sums are right, as g is extrapolated from this f.
        potentials = (f[0] / self.reg)[:, None] + (g[0] / self.reg)
        exponent = torch.sub(potentials, cost, alpha=1 / self.reg)
        plan = exponent.clamp_(min=_MIN_EXPONENT).exp_()
        return value[0], plan.div_(cost.numel())

    def _all_label_distances(
        self,
        sources: _Classes,
        targets: _Classes,
        cost: Tensor,
        own_cost: Tensor,
        *,
        class_self: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return W between the two sides [k, l] and within the target [l, l].

        Costs are half squared distances; `class_self` is an entry of the result of `prepare`.
        """
        square_diameters = _square_diameters(sources.ranges, targets.ranges)  # [k, l]
        own_squares = _square_diameters(targets.ranges, targets.ranges)  # [l, l]
        selves = self._target_selves(targets.points, own_cost, [*square_diameters, *own_squares])
        # Costs at the diameters with the source's classes [l, k], and with the target's own [l, l].
        cross_selves, own_selves = selves.split((len(square_diameters), len(own_squares)), 1)
        source_selves = _read(class_self, square_diameters, self.reg / 2)  # [k, l]
        distances = self._label_distances(
            sources.points,
            targets.points,
            clouds.from_matrix(cost),
            square_diameters=square_diameters,
            selves=source_selves + cross_selves.T,
        )
        upper = self._label_distances(
            targets.points,
            targets.points,
            clouds.from_matrix(own_cost),
            square_diameters=own_squares,
            selves=own_selves + own_selves.T,
        )
        return distances, upper + upper.T

    def _target_selves(
        self, targets: ClassIndex, own_cost: Tensor, square_diameters: list[list[float]]
    ) -> Tensor:
        """Return half the cost of every class's transport to itself, [l, Q] float64.

        `square_diameters` has the squared diameters [Q, l] of each class with Q others.
        """
        selves = own_cost.new_zeros(len(targets.counts), len(square_diameters), dtype=torch.float64)
        for label in targets.present:
            members = targets.points(label)
            block = own_cost[members][:, members]  # [c, c]
            levels = _levels_from([row[label] for row in square_diameters], self.reg / 2, block)
            selves[label] = _selves(block.__getitem__, len(block), levels)[0]
        return selves

    def _label_distances(
        self,
        left: ClassIndex,
        right: ClassIndex,
        cost: Cost,
        *,
        square_diameters: list[list[float]],
        selves: Tensor,
    ) -> Tensor:
        """Return W [k, l] of all `pairs` of classes, 0 for others.

        Args:
            left, right: the classes of row points and column points.
            cost: costs of row points and column points.
            square_diameters: [k, l], the squared diameter of two classes together.
            selves: [k, l], half the cost of the transports of both classes to themselves.
        """
        table = left.weights.new_zeros(len(left.counts), len(right.counts))
        for group in clouds.padded(clouds.pairs(left, right), left, right):
            pairs = zip(group.left.tolist(), group.right.tolist(), strict=True)
            levels = _levels_from([square_diameters[i][j] for i, j in pairs], self.reg / 2, table)
            values, _, _ = _cross(cost(group.rows, group.columns), group.a, group.b, levels)
            pair_selves = selves[group.left, group.right]
            debiased = values - pair_selves.to(values)
            table[group.left, group.right] = 2 * debiased
        return table


def _ranges(features: Features) -> _Ranges:
    """Return the ranges of every class, [k, d] float64."""
    shape = (features.num_classes, features.x.shape[1])
    x = features.x.detach()
    index = features.labels[:, None].expand_as(x)
    low = x.new_full(shape, torch.inf).scatter_reduce_(0, index, x, "amin")
    high = x.new_full(shape, -torch.inf).scatter_reduce_(0, index, x, "amax")
    return _Ranges(low=low.double(), high=high.double())


def _square_diameters(left: _Ranges, right: _Ranges) -> list[list[float]]:
    """Return half the squared diagonal [k, l] of the box around two classes.

    It is 0 where neither has points.
    """
    rows = []
    for low, high in zip(left.low, left.high, strict=True):
        sides = torch.maximum(high, right.high) - torch.minimum(low, right.low)  # [l, d]
        rows.append(sides.square().sum(-1))
    square_diameters = torch.stack(rows) / 2
    return square_diameters.nan_to_num(posinf=0.0).tolist()


def _outer_square(ranges: _Ranges, classes: int) -> float:
    """Return the squared diagonal of the box around all classes, with their number a coordinate."""
    sides = ranges.high.amax(0) - ranges.low.amin(0)  # [d]
    feature_square = sides.square().sum(-1)
    return float(feature_square) + (classes - 1) ** 2


def _joint_square(sources: _Classes, targets: _Classes) -> float:
    """Return `_outer_square` of source and target together."""
    joined = _Ranges(
        low=torch.cat([sources.ranges.low, targets.ranges.low]),
        high=torch.cat([sources.ranges.high, targets.ranges.high]),
    )
    classes = len(sources.points.present) + len(targets.points.present)
    return _outer_square(joined, classes)


def _rows(points: Tensor) -> _Rows:
    """Return the cost, half squared distances, of points [p, d] with themselves."""
    return lambda rows: half_squared_distances(points[rows], points)


def _levels_from(square_diameters: list[float], reg: float, like: Tensor) -> _Levels:
    """Return the levels of problems with these squared diameters."""
    counts = [
        math.ceil(_position(square_diameter, reg)) for square_diameter in square_diameters
    ]  # levels above reg
    length = max(counts) + 2
    regs = []
    steps = []
    for square_diameter, count in zip(square_diameters, counts, strict=True):
        # Points this close count as equal at any level, and a level of 0 would be a divisor.
        start = max(square_diameter, reg * 1e-6)
        padding = length - count - 2
        falling = [start * _SCALING ** (2 * i) for i in range(count)]
        regs.append([start] * (padding + 1) + falling + [reg])
        steps.append([0.0] * padding + [0.5] * (count + 2))
    return _Levels(regs=_by_level(regs, like), steps=_by_level(steps, like))


def _by_level(rows: list[list[float]], like: Tensor) -> Tensor:
    """Return lists of S numbers for B problems as a tensor [S, B]."""
    return torch.tensor(rows, dtype=torch.float64).T.to(like, non_blocking=True)


def _cross(cost: Tensor, a: Tensor, b: Tensor, levels: _Levels) -> tuple[Tensor, Tensor, Tensor]:
    """Anneal B problems between two clouds.

    Return the values [B] at the extrapolated potentials, f before the extrapolation and g after it.
    """
    log_a = a.log()
    log_b = b.log()
    memory = torch.empty_like(cost)

    def updates(f: Tensor, g: Tensor, reg: Tensor) -> tuple[Tensor, Tensor]:
        new_f = _softmin(cost, g, log_b, reg=reg, memory=memory)
        new_g = _softmin(cost.mT, f, log_a, reg=reg, memory=memory.mT)
        return new_f, new_g

    f, g = updates(torch.zeros_like(a), torch.zeros_like(b), levels.regs[0])
    for reg, step in zip(levels.regs, levels.steps, strict=True):
        new_f, new_g = updates(f, g, reg)
        f = torch.lerp(f, new_f, step[:, None])
        g = torch.lerp(g, new_g, step[:, None])
    final_f, final_g = updates(f, g, levels.regs[-1])
    values = (a * final_f).sum(1) + (b * final_g).sum(1)
    return values, f, final_g


def _selves(cost: _Rows, points: int, levels: _Levels) -> tuple[Tensor, Tensor]:
    """Anneal one cloud with uniform weights against itself, at the Q diameters of `levels` at once.

    Return half the values [Q] of the transport, which are the means of the extrapolated potential,
    and the potential before the extrapolation, [Q, points].
    """
    diameters = levels.regs.shape[1]
    height = min(points, max(1, _CHUNK_ELEMENTS // points))
    together = min(diameters, max(1, _CHUNK_ELEMENTS // (height * points)))
    weights = levels.regs.new_full((diameters, points), -math.log(points))
    memory = levels.regs.new_empty(together * height * points)

    def softmin(f: Tensor, regs: Tensor) -> Tensor:
        update = torch.empty_like(f)
        for row in range(0, points, height):
            rows = slice(row, min(row + height, points))
            block = cost(rows)  # [r, points]
            for start in range(0, diameters, together):
                problems = slice(start, start + together)
                shape = (len(f[problems]), *block.shape)
                piece = memory[: math.prod(shape)]
                update[problems, rows] = _softmin(
                    block.expand(shape),
                    f[problems],
                    weights[problems],
                    reg=regs[problems],
                    memory=piece.view(shape),
                )
        return update

    f = softmin(torch.zeros_like(weights), levels.regs[0])
    for regs, step in zip(levels.regs, levels.steps, strict=True):
        f = torch.lerp(f, softmin(f, regs), step[:, None])
    extrapolated = softmin(f, levels.regs[-1])
    return extrapolated.mean(1), f


def _tabulate(cost: _Rows, x: Tensor, square_diameter: float, reg: float) -> Tensor:
    """Tabulate the transport of points x to themselves, from a squared diameter on.

    The table, [_TABLE_LENGTH] float64, starts with the number of its first period. The means of the
    extrapolated potential at the nodes of _PERIODS periods follow. `_read` reads it.
    """
    start = _period(_position(square_diameter, reg))
    periods = min(max(_REMEMBERED + 1 - start, 1), _PERIODS)
    square_diameters = []
    for period in range(periods):
        # A period ends at its own number.
        positions = [start - 1 + period + node for node in _NODES]
        square_diameters += [reg * _SCALING ** (-2 * position) for position in positions]
    levels = _levels_from(square_diameters, reg, x)
    if len(x) ** 2 <= _STORED_ELEMENTS:
        cost = cost(slice(len(x))).__getitem__
    means, _ = _selves(cost, len(x), levels)
    table = means.double().view(periods, len(_NODES))
    later = table[-1:].expand(_PERIODS - periods, -1)
    return torch.cat([table.new_tensor([start]), table.reshape(-1), later.reshape(-1)])


def _read(tables: Tensor, square_diameters: list[list[float]], reg: float) -> Tensor:
    """Return the mean extrapolated potentials [k, l] of k clouds, at squared diameters [k, l]."""
    means = []
    for table, row in zip(tables.tolist(), square_diameters, strict=True):
        means.append(
            [_mean_potential(table, _position(square_diameter, reg)) for square_diameter in row]
        )
    return tables.new_tensor(means)


def _mean_potential(table: list[float], position: float) -> float:
    """Return the mean of a cloud's extrapolated potential, by Lagrange's polynomial of a period."""
    period = _period(position)
    node = position - (period - 1)
    first_period = int(table[0])
    row = min(max(period - first_period, 0), _PERIODS - 1)
    start = 1 + len(_NODES) * row
    knot_means = table[start : start + len(_NODES)]
    mean = 0.0
    for knot, knot_mean in zip(_NODES, knot_means, strict=True):
        factors = [(node - root) / (knot - root) for root in _NODES if root != knot]
        mean += knot_mean * math.prod(factors)
    return mean


def _position(square_diameter: float, reg: float) -> float:
    """Return u, the number of levels from a squared diameter down to reg; 0 if it is below reg."""
    if square_diameter > reg:
        return math.log(square_diameter / reg) / (-2 * math.log(_SCALING))
    return 0.0


def _period(position: float) -> int:
    """Return the number of the period, from 1 on, that a position is in."""
    return max(math.ceil(position), 1)


def _softmin(cost: Tensor, g: Tensor, log_b: Tensor, *, reg: Tensor, memory: Tensor) -> Tensor:
    """Return the softmin [B, p] over the last axis of the cost; reg is [B].

    `memory` [B, p, q] is overwritten.
    """
    inverse = reg.reciprocal()[:, None]
    exponent = torch.addcmul(
        (log_b + g * inverse)[:, None, :], cost, inverse[:, None], value=-1, out=memory
    )
    return log_sum_exp(exponent).mul_(-reg[:, None])
