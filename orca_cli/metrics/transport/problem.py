"""The outer problem of the entropic dataset distances: labels in the cost, plans by rows, and the gradient through them.

Shapes: n and m points of k and l classes; labels are int64, and costs are [n, m]. A plan is a function of some of its rows,
which gives them, [r, m]: of plans no memory of the size of the cost is needed.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Features
from orca_cli.metrics.transport import clouds, entropic
from orca_cli.metrics.transport.clouds import class_sizes, half_squared_distances
from orca_cli.metrics.transport.entropic import Solution, Transport, pieces

_HELD_ELEMENTS = (
    2**26
)  # entries of the source's own cost that are held between iterations, 256 MB in float32
_PIECE_ELEMENTS = 2**20  # of plans, 4 MB in float32: large enough for matrix products
_CHUNK = 1024  # rows of the source's own cost matrix that are computed at once

Reg = Annotated[Positive, "Entropic strength, absolute, in squared units of the features."]
Plan = Callable[[slice], Tensor]
Outer = tuple[
    Solution, Plan, Tensor
]  # of a problem, and what its plan carries between classes, [k, l]


def solve_outer(
    transport: Transport,
    cost: Tensor,
    labels: Tensor | None,
    reg: float,
    source: Features,
    target: Features | None = None,
) -> Outer:
    """Solve the problem with uniform weights between two clouds, or, without a target, of the source with itself.

    Half of `labels`, W [k, l], is added to the costs, in place.
    """
    itself, target = target is None, target or source
    if labels is not None:
        cost.add_(labels[source.labels][:, target.labels], alpha=0.5)
    n, m = cost.shape
    a, b = cost.new_full((1, n), 1 / n), cost.new_full((1, m), 1 / m)
    if itself:
        solution = transport.symmetric(partial(entropic.softmin, cost[None], b=a, reg=reg), a, reg)
    else:
        solution = transport.solve(cost[None], a, b, reg)
    left, right = solution.f[0][:, None] / reg - math.log(n), solution.g / reg - math.log(m)

    def plan(some: slice) -> Tensor:
        return entropic.exp_((left[some] + right).sub_(cost[some], alpha=1 / reg))

    mass = cost.new_zeros(source.num_classes, target.num_classes)
    for _, some in pieces(cost[None]):
        mass += clouds.class_mass(plan(some), source.labels[some], target.labels, mass.shape)
    return solution, plan, mass


def source_term(
    transport: Transport, x: Tensor, labels: Tensor, label_source: Tensor, reg: float
) -> Tensor:
    """Return OT_reg(source, source), of points x [n, d] and W between their classes [k, k]; costs are made in chunks."""
    n = len(x)
    a = x.new_full((1, n), 1 / n)
    chunks = list(torch.arange(n, device=x.device).split(_CHUNK))

    def compute(rows: Tensor) -> Tensor:
        return half_squared_distances(x[rows], x).add_(
            label_source[labels[rows]][:, labels], alpha=0.5
        )

    held = list(map(compute, chunks)) if n**2 <= _HELD_ELEMENTS else []

    def softmin(f: Tensor) -> Tensor:
        return torch.cat(
            [entropic.softmin(cost[None], f, a, reg) for cost in held or map(compute, chunks)], 1
        )

    return transport.symmetric(softmin, a, reg).value[0]


def class_plans(
    cost: Tensor,
    left: Tensor,
    right: Tensor,
    rows: Tensor,
    columns: Tensor,
    reg: float,
    mass: Tensor,
) -> Plan:
    """Return the plans of all pairs of classes side by side, each times mass[a, b]; points of a class have equal weights.

    Potentials of points against every class are left [n, l] and right [k, m]; mass is [k, l] and non-negative; rows [n] and
    columns [m] are the points' classes.
    """
    sizes = class_sizes(rows, len(mass))[:, None] * class_sizes(columns, mass.shape[1])
    # A class without points has no row or column to which this is added.
    scale = (mass / sizes.clamp(min=1)).log()
    left, right = left / reg, right / reg + scale[:, columns]
    return lambda some: entropic.exp_(
        (left[some][:, columns] + right[rows[some]]).sub_(cost[some], alpha=1 / reg)
    )


def slope(plans: Sequence[Plan], cost: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return the gradient [m, d] in z of sum_ij P_ij |x_i - z_j|^2 / 2, P the sum of the plans."""
    result = torch.zeros_like(z)
    for _, some in pieces(cost[None], _PIECE_ELEMENTS):
        weights = reduce(Tensor.add_, (plan(some) for plan in plans))
        result += clouds.gradient(weights, x[some], z)
    return result
