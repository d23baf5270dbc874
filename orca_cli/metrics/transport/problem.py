"""Transport of points with entropy: the solvers of one metric with its settings, and what their plans weigh.

Shapes: n and m points of k and l classes; labels are int64, and costs are [n, m] unless a solver takes batches of them,
which are as in `sinkhorn`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.metrics.transport import clouds, newton, sinkhorn
from orca_cli.metrics.transport.clouds import class_sizes, half_squared_distances
from orca_cli.metrics.transport.sinkhorn import Solution, Solver

_HELD_ELEMENTS = 2**26  # entries of the source's own cost that are held between iterations, 256 MB in float32
_PIECE_ELEMENTS = 2**20  # of plans, 4 MB in float32: large enough for matrix products
_SCALING = 0.25  # factor between the levels of annealing, which lower the strength from the largest cost to reg
_CHUNK = 1024  # rows of the source's own cost matrix that are computed at once

Reg = Annotated[Positive, "Entropic strength, absolute, in squared units of the features."]


@dataclass(frozen=True)
class Transport:
    """Solvers of the metrics that transport points with entropy, and the problems that these have in common."""

    tolerance: float = 1e-2  # L1 error of a plan's marginal at which a problem counts as solved
    max_iterations: int = 500  # of Sinkhorn's algorithm at the final reg
    newton_points: int = 512  # onto more points than these transport is solved by Sinkhorn's algorithm
    newton_steps: int = 15  # at the final reg

    def solve(self, reg: float, start: Tensor | None = None) -> Solver:
        """Return the solver (cost, a, b) -> solution; `start` has potentials g, [1, q], of a similar problem."""
        newton_from = partial(
            newton.solve, reg=reg, tolerance=self.tolerance, max_iterations=self.newton_steps, scaling=_SCALING
        )

        def solve(cost: Tensor, a: Tensor, b: Tensor) -> Solution:
            if cost.shape[2] > self.newton_points:
                return self.by_sinkhorn(reg)(cost, a, b)
            solution = newton_from(cost, a, b, start=None if start is None else start.expand_as(b))
            unsolved = (solution.error > self.tolerance).nonzero()[:, 0]
            if not len(unsolved):
                return solution
            # Far from the solution Newton's steps are small. Annealing comes near it, and Newton's steps from there are large.
            problem = cost[unsolved], a[unsolved], b[unsolved]
            more = self.by_sinkhorn(reg)(*problem)
            if bool((more.error > self.tolerance).any()):
                end = newton_from(*problem, start=more.g, first=reg)
                more = end._replace(iterations=more.iterations + end.iterations)
            return solution.merged(unsolved, more)

        return solve

    def solve_symmetric(self, reg: float) -> Callable[[Tensor, Tensor], Solution]:
        """Return the solver (cost, a) -> solution of clouds against themselves."""
        return partial(sinkhorn.solve_symmetric, reg=reg, tolerance=self.tolerance, max_iterations=self.max_iterations)

    def outer(self, cost: Tensor, reg: float) -> Solution:
        """Solve one problem with uniform weights."""
        n, m = cost.shape
        return self.solve(reg)(cost[None], cost.new_full((1, n), 1 / n), cost.new_full((1, m), 1 / m))

    def outer_to_itself(self, cost: Tensor, reg: float) -> Solution:
        """Solve one problem of a cloud with itself, costs [m, m]."""
        m = len(cost)
        return self.solve_symmetric(reg)(cost[None], cost.new_full((1, m), 1 / m))

    def source_term(self, x: Tensor, labels: Tensor, label_source: Tensor, reg: float) -> Tensor:
        """Return OT_reg(source, source), of points x [n, d] and W between their classes [k, k]; costs are made in chunks."""
        n = len(x)
        a = x.new_full((1, n), 1 / n)
        chunks = list(torch.arange(n, device=x.device).split(_CHUNK))

        def compute(rows: Tensor) -> Tensor:
            return add_labels(half_squared_distances(x[rows], x), labels[rows], labels, label_source)

        held = [compute(rows) for rows in chunks[: _HELD_ELEMENTS // (n * _CHUNK)]]

        def softmin(f: Tensor) -> Tensor:
            costs = chain(held, map(compute, chunks[len(held) :]))
            return torch.cat([sinkhorn.softmin(cost[None], f, a, reg) for cost in costs], 1)

        f, update, _ = sinkhorn.symmetric_potential(
            softmin, a, reg, tolerance=self.tolerance, max_iterations=self.max_iterations
        )
        return (a * (f + update)).sum()

    def diagnostics(self, solutions: list[Solution]) -> dict[str, float]:
        """Return the largest number of iterations and error of all problems that a metric solved, and whether all converged."""
        error = float(torch.stack([solution.error.max() for solution in solutions]).max())
        iterations = float(max(solution.iterations for solution in solutions))
        return {"iterations": iterations, "marginal_error": error, "converged": float(error <= self.tolerance)}

    def by_sinkhorn(self, reg: float, slack: float = 1.0) -> Solver:
        """Return the solver (cost, a, b) -> solution by Sinkhorn's algorithm, for `slack` times the tolerance."""
        tolerance, most = slack * self.tolerance, self.max_iterations
        return partial(sinkhorn.solve, reg=reg, tolerance=tolerance, max_iterations=most, scaling=_SCALING)


def add_labels(cost: Tensor, rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    """Add half of W [k, l], `labels`, to costs, in place; rows [n] and columns [m] are the points' classes."""
    for _, some in sinkhorn.pieces(cost[None]):
        cost[some] += labels[rows[some]][:, columns] / 2
    return cost


@dataclass(frozen=True)
class Plans:
    """The plans of one outer problem, or those of all pairs of classes side by side, as a function of the cost.

    plan_ij = exp(left[i, class of j] + right[class of i, j] - cost_ij / reg)
    """

    left: Tensor  # [n, l], or [n, 1] where it is the same for all classes of columns
    right: Tensor  # [k, m], or [1, m]
    rows: Tensor  # [n], classes of the row points
    columns: Tensor  # [m]
    reg: float

    def block(self, cost: Tensor, some: slice) -> Tensor:
        """Return the plan's rows `some`, [r, m], for their costs [r, m]."""
        left = self.left[some] if self.left.shape[1] == 1 else self.left[some][:, self.columns]
        right = self.right if len(self.right) == 1 else self.right[self.rows[some]]
        return sinkhorn.exp_((left + right).sub_(cost, alpha=1 / self.reg))


def outer_plan(solution: Solution, rows: Tensor, columns: Tensor, reg: float) -> Plans:
    """Return the plan of one problem with uniform weights, of points of these classes."""
    left = solution.f[0][:, None] / reg - math.log(len(rows))
    return Plans(left, solution.g / reg - math.log(len(columns)), rows, columns, reg)


def class_plans(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor, reg: float, mass: Tensor) -> Plans:
    """Return mass[a, b] times the plan of every pair of classes, whose points have equal weights.

    Potentials of points against every class are left [n, l] and right [k, m]; mass is [k, l] and non-negative.
    """
    sizes = class_sizes(rows, len(mass))[:, None] * class_sizes(columns, mass.shape[1])
    # A class without points has no row or column to which this is added.
    scale = (mass / sizes.clamp(min=1)).log()
    return Plans(left / reg, right / reg + scale[:, columns], rows, columns, reg)


def class_mass(plan: Plans, cost: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return what a plan carries between classes, [k, l]."""
    mass = cost.new_zeros(shape)
    for _, some in sinkhorn.pieces(cost[None]):
        mass += clouds.class_mass(plan.block(cost[some], some), plan.rows[some], plan.columns, shape)
    return mass


def slope(plans: Sequence[Plans], cost: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return the gradient [m, d] in z of sum_ij P_ij |x_i - z_j|^2 / 2, P the sum of the plans.

    Plans are computed for some rows at a time: no other memory of the size of the cost is needed.
    """
    result = torch.zeros_like(z)
    for _, some in sinkhorn.pieces(cost[None], _PIECE_ELEMENTS):
        weights = plans[0].block(cost[some], some)
        for plan in plans[1:]:
            weights += plan.block(cost[some], some)
        result += clouds.gradient(weights, x[some], z)
    return result
