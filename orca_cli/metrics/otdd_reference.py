"""The dataset distance as the released ORCA code computes it: its value and its gradient, with the constant parts cached.

    c(i, j) = 1/2 |x_i - z_j|^2 + 1/2 W(label_i, label_j),    W = debiased entropic transport with the cost |x - z|^2
    OTDD = OT_reg(source, target) - 1/2 OT_reg(source, source) - 1/2 OT_reg(target, target)

Both levels are annealed and stopped (see `annealed`); the outer diameter includes the class number as one more coordinate, with
the target's classes numbered after the source's. W is a constant for the gradient. With one target class W is constant along
every source row, and the gradient hardly knows the source's labels (through the first level of annealing alone): they move the
value.

The gradient is what automatic differentiation of the last, extrapolating update gives: plans at the potentials before it, and
only the first argument of each cost differentiated,

    d value / dz_j = 1/m (sum_k q_jk z_k - sum_i p_ji x_i),    p_j, q_j: softmax over source and target points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.interfaces import Features
from orca_cli.metrics.transport import annealed, envelope, label_distances
from orca_cli.metrics.transport.annealed import Annealing, Levels
from orca_cli.metrics.transport.costs import half_squared_distances, resolved
from orca_cli.metrics.transport.label_distances import ClassIndex
from orca_cli.metrics.transport.label_distances import groups as group_pairs
from orca_cli.metrics.transport.validity import check_features
from orca_cli.ranges import Fraction, Positive

# Far below rounding, and high enough that no product becomes denormal, with which a CPU is many times slower.
_MIN_EXPONENT = -50.0


@dataclass(frozen=True)
class OTDDReference:
    """Value and gradient of the released code.

    Value to 1e-4 and gradient to a cosine of 0.9999 of what geomloss's `SamplesLoss` gives for the whole problem. Classes
    of one point are kept; the released code leaves them out. Where float32 cannot resolve reg at the scale of the
    features, float64 is used; the released code stays in float32.
    """

    convention = "squared, halved costs, debiased, annealed and stopped as in the released code"

    reg: Annotated[Positive, "Entropic strength of the transport of points, in units of halved squared distances."] = (
        0.1
    )
    label_reg: Annotated[Positive, "Entropic strength inside label distances, in units of squared distances."] = 0.1
    scaling: Annotated[
        Fraction, "Root of the ratio between two levels of annealing, which go from the squared diameter to reg."
    ] = 0.5

    @property
    def outer(self) -> Annealing:
        """How reg falls between points."""
        return Annealing(self.reg, self.scaling)

    @property
    def inner(self) -> Annealing:
        """How reg falls inside label distances."""
        return Annealing(self.label_reg, self.scaling, unit=2)

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone; memory grows with n and with the square of the largest class.

        Returns:
            low, high: [k, d], ranges of the classes' features; infinite for a class without points.
            class_self: [k, 29], transport of each class to itself, as a table over diameters (`annealed.tabulate`).
            source_self: [1, 29], likewise of the whole source.
        """
        check_features(source, "source")
        (x,) = resolved(self._smallest_reg(), source.x)
        low, high = _ranges(source)
        classes = label_distances.index_classes(source.labels, source.num_classes, x.dtype)
        present = classes.present
        squares = _square_diameters(low, high, low, high).tolist()
        tables = [[0.0] * annealed.TABLE_SIZE for _ in range(source.num_classes)]
        for label in present:
            points = x[classes.rows[label, : classes.counts[label]]]
            tables[label] = annealed.tabulate(_rows(points), len(points), squares[label][label], self.inner, x).tolist()

        def cost(rows: Tensor, columns: Tensor) -> Tensor:
            return half_squared_distances(x[rows], x[columns])

        pairs = label_distances.pairs(classes, classes)
        selves = {(a, b): self._read(tables[a], squares[a][b]) + self._read(tables[b], squares[a][b]) for a, b in pairs}
        between = self._label_distances(pairs, classes, classes, cost, squares, selves)
        between = between + between.T

        def outer_cost(start: int, stop: int) -> Tensor:
            labels = between[source.labels[start:stop]][:, source.labels]
            return half_squared_distances(x[start:stop], x).add_(labels, alpha=0.5)

        square = _outer_square(low, high, len(present) + 1)
        table = annealed.tabulate(outer_cost, len(x), square, self.outer, x)
        return {
            "low": low,
            "high": high,
            "class_self": torch.tensor(tables, dtype=torch.float64, device=x.device),
            "source_self": table[None],
        }

    @envelope.closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> envelope.Solved:
        """Return the distance; memory grows with n times m.

        Diagnostics: iterations (updates of the outer problem), marginal_error (L1 error of the outer plan on the source's
        side, where the released code stops too early to be right), self_source (0: both sides take the same steps), n, m.
        """
        x, z = resolved(self._smallest_reg(), source.x.to(target.x.dtype), target.x)
        n, m = len(x), len(z)
        cost, own = half_squared_distances(x, z), half_squared_distances(z, z)
        sources = label_distances.index_classes(source.labels, source.num_classes, x.dtype)
        targets = label_distances.index_classes(target.labels, target.num_classes, x.dtype)
        low, high = _ranges(target)
        label_cross, label_own = self._target_labels(prepared, (low, high), (sources, targets), (cost, own))

        cost.add_((label_cross / 2)[source.labels][:, target.labels])
        own.add_((label_own / 2)[target.labels][:, target.labels])
        low, high = (torch.cat([prepared[name], mine]) for name, mine in (("low", low), ("high", high)))
        square = _outer_square(low, high, len(sources.present) + len(targets.present))
        levels = self.outer.levels([square], cost)
        a, b = cost.new_full((1, n), 1 / n), cost.new_full((1, m), 1 / m)
        value, f, g = annealed.cross(cost[None], a, b, levels)
        own_self, own_f = annealed.selves(lambda start, stop: own[start:stop], m, levels)
        source_self = self._read(prepared["source_self"][0].tolist(), square, self.outer)

        # The plan's columns are right: g is the extrapolation of f.
        reg = self.outer.reg
        plan = torch.sub((f[0] / reg)[:, None] + (g[0] / reg), cost, alpha=1 / reg)
        plan = plan.clamp_(min=_MIN_EXPONENT).exp_().div_(n * m)
        within = torch.softmax((own_f[0] - own) / reg, dim=1) / m
        diagnostics = {
            "iterations": float(len(levels.step)),
            "marginal_error": float((plan.sum(1) - 1 / n).abs().sum()),
            "self_source": 0.0,
        }
        return value[0] - own_self[0] - source_self, within @ z - plan.T @ x, diagnostics

    def _target_labels(
        self,
        prepared: dict[str, Tensor],
        ranges: tuple[Tensor, Tensor],
        classes: tuple[ClassIndex, ClassIndex],
        costs: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return W between source and target classes, [k, l], and between target classes, [l, l]."""
        sources, targets = classes
        cost, own = costs
        cross_squares = _square_diameters(prepared["low"], prepared["high"], *ranges).tolist()
        own_squares = _square_diameters(*ranges, *ranges).tolist()
        tables = prepared["class_self"].tolist()
        cross_pairs, own_pairs = label_distances.pairs(sources, targets), label_distances.pairs(targets, targets)
        cross_selves = {(a, b): self._read(tables[a], cross_squares[a][b]) for a, b in cross_pairs}
        own_selves = dict.fromkeys(own_pairs, 0.0)
        for b in targets.present:
            members = targets.rows[b, : targets.counts[b]]
            others = [pair for pair in own_pairs if b in pair]
            squares = [cross_squares[a][b] for a in sources.present] + [own_squares[c][d] for c, d in others]
            block = own[members][:, members]
            means = _selves(block, self.inner.levels(squares, own))
            for a, mean in zip(sources.present, means, strict=False):
                cross_selves[a, b] += mean
            for pair, mean in zip(others, means[len(sources.present) :], strict=True):
                own_selves[pair] += mean
        gather = label_distances.from_matrix
        cross = self._label_distances(cross_pairs, sources, targets, gather(cost), cross_squares, cross_selves)
        within = self._label_distances(own_pairs, targets, targets, gather(own), own_squares, own_selves)
        return cross, within + within.T

    def _label_distances(
        self,
        pairs: list[tuple[int, int]],
        left: ClassIndex,
        right: ClassIndex,
        cost: Callable[[Tensor, Tensor], Tensor],
        squares: list[list[float]],
        selves: dict[tuple[int, int], float],
    ) -> Tensor:
        """Return W [k, l] for these pairs and 0 for others.

        Args:
            pairs: (class of `left`, class of `right`), all with points.
            left: classes of the rows.
            right: classes of the columns.
            cost: (rows [B, p], columns [B, q]) -> half squared distances [B, p, q].
            squares: [k][l], squared diameters of two classes together.
            selves: of each pair, half of what its two classes' transports to themselves cost.
        """
        table = left.weights.new_zeros(len(left.counts), len(right.counts))
        for group in group_pairs(pairs, left.counts, right.counts):
            ids = torch.tensor(group, device=table.device)
            p, q = max(left.counts[a] for a, _ in group), max(right.counts[b] for _, b in group)
            rows, columns = left.rows[ids[:, 0], :p], right.rows[ids[:, 1], :q]
            levels = self.inner.levels([squares[a][b] for a, b in group], table)
            weights = left.weights[ids[:, 0], :p], right.weights[ids[:, 1], :q]
            values, _, _ = annealed.cross(cost(rows, columns), *weights, levels)
            table[ids[:, 0], ids[:, 1]] = 2 * (values - values.new_tensor([selves[pair] for pair in group]))
        return table

    def _read(self, table: list[float], square: float, annealing: Annealing | None = None) -> float:
        return annealed.read(table, square, annealing or self.inner)

    def _smallest_reg(self) -> float:
        return min(self.outer.reg, self.inner.reg / self.inner.unit)


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
    return torch.stack([_square(torch.minimum(row, other_low), torch.maximum(top, other_high)) for row, top in both])


def _square(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).square().sum(-1)


def _outer_square(low: Tensor, high: Tensor, classes: int) -> float:
    """Return the squared diagonal of the box around all classes, with their numbers as one more coordinate."""
    return float(_square(low.amin(0), high.amax(0))) + (classes - 1) ** 2


def _rows(points: Tensor) -> Callable[[int, int], Tensor]:
    """Return the half squared distances of points [p, d] by rows, for `annealed.selves`."""
    return lambda start, stop: half_squared_distances(points[start:stop], points)


def _selves(cost: Tensor, levels: Levels) -> list[float]:
    """Return half of what the transport of a cloud to itself costs, at every diameter."""
    return annealed.selves(lambda start, stop: cost[start:stop], len(cost), levels)[0].tolist()
