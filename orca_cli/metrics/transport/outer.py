"""The outer problem of the entropic dataset distances: labels in the cost, plans, the gradient.

Shapes: n and m points of k and l classes; labels are int64, and costs are [n, m]. A plan is a
function from a slice of rows to the plan's entries in them, [r, m]: no plan needs as much memory as
the cost.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Features
from orca_cli.metrics.transport import clouds, entropic
from orca_cli.metrics.transport.clouds import class_sizes, half_squared_distances
from orca_cli.metrics.transport.entropic import Solution, Transport, pieces

# Largest number of entries of the source's own cost that are stored between iterations, 256 MB in
# float32.
_STORED_ELEMENTS = 2**26
# Number of entries of plans computed at once, 4 MB in float32: enough for fast matrix products.
_PIECE_ELEMENTS = 2**20
_CHUNK = 1024  # number of rows of the source's own cost computed at once

Reg = Annotated[
    Positive,
    "Strength of the entropic regularisation of the transport, in squared units of the features.",
]
Plan = Callable[[slice], Tensor]


class Outer(NamedTuple):
    """A solved outer problem."""

    solution: Solution
    plan: Plan
    mass: Tensor  # [k, l], the mass that the plan carries between classes

    @property
    def value(self) -> Tensor:
        """Return OT_reg, a scalar."""
        return self.solution.value[0]


def uniform_weights(points: int, like: Tensor) -> Tensor:
    """Return weights [1, points] that sum to 1, with the dtype and device of `like`."""
    return like.new_full((1, points), 1 / points)


def add_label_distances(
    cost: Tensor, distances: Tensor, row_labels: Tensor, column_labels: Tensor
) -> Tensor:
    """Add half of W [k, l] to costs, in place, and return them."""
    return cost.add_(distances[row_labels][:, column_labels], alpha=0.5)


def solve_across(
    transport: Transport, cost: Tensor, reg: float, *, source: Features, target: Features
) -> Outer:
    """Solve the problem between two clouds, with uniform weights."""
    n, m = cost.shape
    a = uniform_weights(n, cost)
    b = uniform_weights(m, cost)
    solution = transport.solve(cost[None], a, b, reg)
    return _with_plan(solution, cost, reg, source=source, target=target)


def solve_within(transport: Transport, cost: Tensor, reg: float, *, cloud: Features) -> Outer:
    """Solve the problem of a cloud with itself, with uniform weights."""
    a = uniform_weights(len(cost), cost)
    softmin = partial(entropic.softmin, cost[None], b=a, reg=reg)
    solution = transport.symmetric(softmin, a, reg)
    return _with_plan(solution, cost, reg, source=cloud, target=cloud)


def _with_plan(
    solution: Solution, cost: Tensor, reg: float, *, source: Features, target: Features
) -> Outer:
    """Return a solution with its plan, P_ij = exp((f_i + g_j - c_ij) / reg) / (n m)."""
    n, m = cost.shape
    left = solution.f.T / reg - math.log(n)  # [n, 1]
    right = solution.g / reg - math.log(m)  # [1, m]

    def plan(rows: slice) -> Tensor:
        exponent = left[rows] + right  # [r, m]
        return entropic.exp_(exponent.sub_(cost[rows], alpha=1 / reg))

    mass = cost.new_zeros(source.num_classes, target.num_classes)
    for _, rows in pieces(cost[None]):
        mass += clouds.class_mass(plan(rows), source.labels[rows], target.labels, mass.shape)
    return Outer(solution=solution, plan=plan, mass=mass)


def source_term(
    transport: Transport, source: Features, label_distances: Tensor, reg: float
) -> Tensor:
    """Return OT_reg(source, source), with W [k, k] between the source's classes.

    Costs are computed in chunks: once for a small source, and in every iteration for a large one.
    """
    x = source.x
    labels = source.labels
    n = len(x)
    a = uniform_weights(n, x)
    chunks = torch.arange(n, device=x.device).split(_CHUNK)

    def rows_of_cost(rows: Tensor) -> Tensor:
        cost = half_squared_distances(x[rows], x)  # [r, n]
        return add_label_distances(cost, label_distances, labels[rows], labels)

    stored: list[Tensor] = []
    if n**2 <= _STORED_ELEMENTS:
        stored = [rows_of_cost(rows) for rows in chunks]

    def softmin(f: Tensor) -> Tensor:
        blocks = stored or map(rows_of_cost, chunks)
        return torch.cat([entropic.softmin(cost[None], f, a, reg) for cost in blocks], 1)

    return transport.symmetric(softmin, a, reg).value[0]


def class_plans(
    cost: Tensor,
    reg: float,
    *,
    left: Tensor,
    right: Tensor,
    row_labels: Tensor,
    column_labels: Tensor,
    mass: Tensor,
) -> Plan:
    """Return the plans of all pairs of classes side by side, each times mass[a, b].

    Points of a class have equal weights.

    Args:
        cost: [n, m].
        reg: reg of the pairs' problems.
        left, right: [n, l] and [k, m], the potentials of points against every class.
        row_labels, column_labels: [n] and [m], the points' classes.
        mass: [k, l], non-negative.
    """
    row_counts = class_sizes(row_labels, mass.shape[0])[:, None]
    column_counts = class_sizes(column_labels, mass.shape[1])
    # Where a class has no points, the scale is -inf or arbitrary, but no row or column uses it.
    point_pairs = (row_counts * column_counts).clamp(min=1)
    scale = (mass / point_pairs).log()  # [k, l]
    left = left / reg
    right = right / reg + scale[:, column_labels]

    def plan(rows: slice) -> Tensor:
        exponent = left[rows][:, column_labels] + right[row_labels[rows]]  # [r, m]
        return entropic.exp_(exponent.sub_(cost[rows], alpha=1 / reg))

    return plan


def slope(plans: Sequence[Plan], cost: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return the gradient [m, d] in z of sum_ij P_ij |x_i - z_j|^2 / 2; P is the plans' sum."""
    gradient = torch.zeros_like(z)
    for _, rows in pieces(cost[None], _PIECE_ELEMENTS):
        weights = plans[0](rows)  # [r, m]
        for plan in plans[1:]:
            weights.add_(plan(rows))
        gradient += clouds.gradient(weights, x[rows], z)
    return gradient
