"""Entropic optimal transport: Sinkhorn's algorithm in the log domain, and Newton's method.

Newton's method is for transport onto few points.

Problems are written with potentials f, g and the plan P_ij = a_i b_j exp((f_i + g_j - c_ij) / reg),
so that

    OT_reg(a, b) = max <a, f> + <b, g> - reg (sum_ij P_ij - 1)

is the cost of transport plus reg times the relative entropy of P to a x b (Feydy et al. 2019).

Between two clouds reg is lowered from the largest cost by a constant factor (annealing), and every
level is solved before the next level. At the final reg Sinkhorn's rate of convergence is close to
1, so that a bad start would cost hundreds of iterations. Updates are larger than Sinkhorn's own
(over-relaxation, Thibault et al. 2021) while the error falls. One pass over the cost gives both
updates: with the row potentials eliminated, the column sums of the plan are a product with the same
exponentials. A cloud against itself needs neither annealing nor over-relaxation: with one potential
for both sides, the averaged update is a contraction by 1/2 or better.

With f eliminated, the dual is a smooth concave function of the q potentials g alone:

    F(g) = <a, f(g)> + <b, g>,    f_i(g) = -reg log sum_j b_j exp((g_j - c_ij) / reg)

Its gradient is b minus the column sums of the plan, its Hessian -1/reg times the graph Laplacian
diag(col) - P^T diag(1/a) P. For q of a few hundred a step of Newton's method costs about as much as
ten Sinkhorn iterations, and far fewer are needed at small reg (Cuturi and Peyre 2016 for the
semi-dual; Brauer et al. 2017 for Newton's method on it). Steps are damped as Levenberg and
Marquardt do: far from the solution the Laplacian is nearly singular.

Shapes: costs [B, p, q] of B problems, at least 0, symmetric for a cloud against itself; weights a
[B, p] and b [B, q] that sum to 1, 0 for padding; potentials f [B, p] and g [B, q] in units of the
cost, as is reg.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_SCALING = 0.25  # factor between two levels of reg
# At every level but the last: the L1 marginal error below which solving on does not help the next
# level, and the bound on iterations or steps.
_SINKHORN_LEVEL_ERROR = 1e-3
_SINKHORN_LEVEL_ITERATIONS = 200
_NEWTON_LEVEL_ERROR = 0.05
_NEWTON_LEVEL_STEPS = 3
_RELAXATION = 1.8
# Damping, in units of the eigenvalues of the scaled Laplacian, which are in 0..1.
_DAMPING_START = 0.1
_DAMPING_MIN = 1e-4
_DAMPING_MAX = 10.0
_DAMPING_DOWN = 0.2
_DAMPING_UP = 10.0
# Newton's coarse problem takes every fourth row, if there are over eight times as many as columns.
_STRIDE = 4
_MANY_ROWS = 8
_MAX_EXPONENT = 30.0
# Far below rounding, and above the denormal numbers, which make a CPU many times slower.
_MIN_EXPONENT = -80.0
# Number of exponents that are computed at once: they fit into a cache, or keep a GPU busy.
_CPU_ELEMENTS = 2**18
_GPU_ELEMENTS = 2**26


class Solution(NamedTuple):
    """Solutions of B problems, by their potentials."""

    f: Tensor
    g: Tensor
    # [B], a dual value: never above the true value, and below it by the order of the squared error.
    value: Tensor
    # [B], L1 distance of the plan's column sums from their weights. In symmetric problems the row
    # sums have the same distance.
    error: Tensor
    iterations: int  # annealing included


@dataclass(frozen=True)
class Transport:
    """The solvers of a metric, with their settings."""

    tolerance: float = 1e-2  # L1 error of a plan's column sums at which a problem counts as solved
    max_iterations: int = 500  # largest number of Sinkhorn iterations at the final reg
    # Transport onto more points than this is solved by Sinkhorn's algorithm.
    newton_points: int = 512
    newton_steps: int = 15  # largest number of Newton steps at the final reg

    def solve(
        self, cost: Tensor, a: Tensor, b: Tensor, reg: float, start: Tensor | None = None
    ) -> Solution:
        """Solve B problems by the method that suits them.

        `start` has potentials g, [1, q], of a similar problem.
        """
        if cost.shape[2] > self.newton_points:
            return self.by_sinkhorn(cost, a, b, reg)
        if start is not None:
            start = start.expand_as(b)
        solution = self.by_newton(cost, a, b, reg=reg, start=start)
        unsolved = (solution.error > self.tolerance).nonzero()[:, 0]
        if not len(unsolved):
            return solution
        # Far from the solution Newton's steps are small. Sinkhorn's annealing comes close enough
        # for large steps.
        problem = _Problem(cost=cost, a=a, b=b).at(unsolved)
        again = self.by_sinkhorn(*problem, reg)
        if (again.error > self.tolerance).any():
            end = _descend(
                problem, again.g, [reg], tolerance=self.tolerance, max_steps=self.newton_steps
            )
            again = end._replace(iterations=again.iterations + end.iterations)
        return Solution(
            f=solution.f.index_copy(0, unsolved, again.f),
            g=solution.g.index_copy(0, unsolved, again.g),
            value=solution.value.index_copy(0, unsolved, again.value),
            error=solution.error.index_copy(0, unsolved, again.error),
            iterations=solution.iterations + again.iterations,
        )

    def by_sinkhorn(self, cost: Tensor, a: Tensor, b: Tensor, reg: float) -> Solution:
        """Solve B problems; this needs no memory beyond the cost and pieces of it."""
        log_b = torch.where(b > 0, b.log(), 0.0)
        g = torch.zeros_like(b)
        log_sums = torch.empty_like(a)
        column_sums = torch.empty_like(b)
        iterations = 0
        for level in _annealing(float(cost.amax()), reg):
            goal = self.tolerance
            limit = self.max_iterations
            if level != reg:
                goal = max(goal, _SINKHORN_LEVEL_ERROR)
                limit = _SINKHORN_LEVEL_ITERATIONS
            previous = torch.full_like(b[:, 0], torch.inf)
            unsolved = [True] * len(b)
            for step in range(limit + 1):
                h = torch.where(b > 0, log_b + g / level, -torch.inf)
                _sweep(
                    cost, h, a, level, unsolved=unsolved, log_sums=log_sums, column_sums=column_sums
                )
                error = (column_sums - b).abs().sum(1)
                unsolved = (error > goal).tolist()
                if step == limit or not any(unsolved):
                    break
                # Solved problems wait for the other problems. If the error rose, the update is
                # Sinkhorn's own.
                reach = torch.where(error <= previous, _RELAXATION, 1.0)
                reach.masked_fill_(error <= goal, 0.0)
                update = torch.where(b > 0, log_b - column_sums.log(), 0.0)
                g = g + (level * reach)[:, None] * update
                previous = error
            iterations += step
        f = log_sums.mul_(-reg)
        value = (a * f).sum(1) + (b * g).sum(1)
        return Solution(f=f, g=g, value=value, error=error, iterations=iterations)

    def by_newton(
        self, cost: Tensor, a: Tensor, b: Tensor, reg: float, start: Tensor | None = None
    ) -> Solution:
        """Solve B problems.

        With `start`, the potentials g of a similar problem, annealing starts at the level before
        reg. Without it, where there are many rows, a coarse problem of every fourth row gives such
        potentials.
        """
        largest = float(cost.max())
        level_before = reg / _SCALING
        if start is not None:
            largest = min(largest, level_before)
        else:
            start = torch.zeros_like(b)
            has_many_rows = cost.shape[1] > _MANY_ROWS * cost.shape[2]
            if has_many_rows and largest > level_before / _SCALING:
                weights = a[:, ::_STRIDE]
                coarse = _Problem(
                    cost=cost[:, ::_STRIDE].contiguous(),
                    a=weights / weights.sum(1, keepdim=True),
                    b=b,
                )
                start = _descend(
                    coarse,
                    start,
                    _annealing(largest, level_before / _SCALING),
                    tolerance=_NEWTON_LEVEL_ERROR,
                    max_steps=_NEWTON_LEVEL_STEPS,
                ).g
                largest = level_before
        return _descend(
            _Problem(cost=cost, a=a, b=b),
            start,
            _annealing(largest, reg),
            tolerance=self.tolerance,
            max_steps=self.newton_steps,
        )

    def symmetric(self, softmin: Callable[[Tensor], Tensor], a: Tensor, reg: float) -> Solution:
        """Solve B problems of clouds against themselves, with one potential f = g for both sides.

        The potential is the fixed point f = softmin(f), with `softmin` below. Each iteration goes
        half the way to softmin(f).
        """
        f = torch.zeros_like(a)
        update = softmin(f)
        iterations = 0
        while iterations < self.max_iterations:
            iterations += 1
            f = (f + update) / 2
            update = softmin(f)
            # The plan's sums are a exp((f - update) / reg).
            exponent = ((f - update) / reg).clamp(max=_MAX_EXPONENT)
            deviation = torch.expm1(exponent).abs()
            error = (a * deviation).sum(1)
            if (error <= self.tolerance).all():
                break
        value = (a * (f + update)).sum(1)
        return Solution(f=f, g=f, value=value, error=error, iterations=iterations)

    def diagnostics(self, solutions: list[Solution]) -> dict[str, float]:
        """Return the diagnostics of a metric, from all problems that it solved.

        They are iterations and marginal_error, the largest of all problems, and converged, which is
        1 where every problem reached the tolerance, and 0 otherwise.
        """
        errors = torch.cat([solution.error for solution in solutions])
        error = float(errors.max())
        iterations = float(max(solution.iterations for solution in solutions))
        return {
            "iterations": iterations,
            "marginal_error": error,
            "converged": float(error <= self.tolerance),
        }


def softmin(cost: Tensor, g: Tensor, b: Tensor, reg: float) -> Tensor:
    """Return -reg log sum_j b_j exp((g_j - c_ij) / reg), [B, p]."""
    h = b.log() + g / reg
    log_sums = cost.new_empty(cost.shape[:2])
    for problems, rows in pieces(cost):
        exponent = torch.sub(h[problems, None], cost[problems, rows], alpha=1 / reg)
        log_sums[problems, rows] = log_sum_exp(exponent)
    return log_sums.mul_(-reg)


def log_sum_exp(exponent: Tensor) -> Tensor:
    """Return log sum exp over the last axis; the argument's memory is overwritten."""
    largest = exponent.amax(-1)
    return exp_(exponent.sub_(largest[..., None])).sum(-1).log_().add_(largest)


def exp_(exponent: Tensor) -> Tensor:
    """Return the exponential, in place, without denormal numbers: no entry is below 1e-35 or so."""
    return exponent.clamp_(min=_MIN_EXPONENT).exp_()


def pieces(cost: Tensor, elements: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cut costs into pieces (problems, rows) of at most `elements` entries, but one row or more.

    By default pieces have the size that suits the device.
    """
    problems, rows, columns = cost.shape
    if elements is None:
        elements = _CPU_ELEMENTS if cost.device.type == "cpu" else _GPU_ELEMENTS
    height = min(rows, max(1, elements // columns))
    problem_count = max(1, elements // (rows * columns))
    for problem in range(0, problems, problem_count):
        for row in range(0, rows, height):
            yield slice(problem, problem + problem_count), slice(row, row + height)


def _annealing(largest: float, reg: float) -> list[float]:
    """Return the levels of reg: from the largest cost down by a constant factor to reg itself."""
    levels = []
    while largest > reg:
        levels.append(largest)
        largest *= _SCALING
    return [*levels, reg]


def _row_exp(exponent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exponentials with largest entry 1 in every row, in place.

    Their sums [B, p] and the largest exponents [B, p] come with them.
    """
    row_maxima = exponent.amax(2)
    # The floor is below rounding. Without it products of tiny entries become denormal numbers,
    # which make a CPU 20 times slower.
    floor = -32.0 if exponent.dtype == torch.float32 else -72.0
    shifted = exponent.sub_(row_maxima[:, :, None])
    exponentials = shifted.clamp_(min=floor).exp_()
    return exponentials, exponentials.sum(2), row_maxima


def _sweep(
    cost: Tensor,
    h: Tensor,
    a: Tensor,
    reg: float,
    *,
    unsolved: list[bool],
    log_sums: Tensor,
    column_sums: Tensor,
) -> None:
    """Sweep over the cost once.

    Write log sum_j exp(h_j - c_ij / reg) to `log_sums` [B, p], and the column sums of the plan with
    exact row sums to `column_sums` [B, q]. Pieces whose problems are all solved are left out: their
    entries do not change.
    """
    memory = cost.new_empty(0)
    for problems, rows in pieces(cost):
        if not any(unsolved[problems]):
            continue
        block = cost[problems, rows]
        if not len(memory):
            memory = cost.new_empty(block.numel())
        piece = memory[: block.numel()]
        exponent = torch.sub(h[problems, None], block, alpha=1 / reg, out=piece.view(block.shape))
        exponentials, row_sums, row_maxima = _row_exp(exponent)
        scale = a[problems, rows] / row_sums
        sums = torch.bmm(scale[:, None], exponentials)[:, 0]
        column_sums[problems] = sums if rows.start == 0 else column_sums[problems] + sums
        log_sums[problems, rows] = row_sums.log_().add_(row_maxima)


class _Problem(NamedTuple):
    """B problems, to be solved at any reg."""

    cost: Tensor
    a: Tensor
    b: Tensor

    def at(self, indices: Tensor) -> "_Problem":
        """Return the problems with these indices."""
        return _Problem(cost=self.cost[indices], a=self.a[indices], b=self.b[indices])


class _State(NamedTuple):
    """The plan at h = log b + g / reg: P_ij = a_i exponentials_ij / row_sums_i."""

    h: Tensor  # [B, q]
    exponentials: Tensor  # [B, p, q], exp(h_j - c_ij / reg), with largest entry 1 in every row
    row_sums: Tensor  # [B, p], row sums of the exponentials
    row_maxima: Tensor  # [B, p], the largest exponents
    column_sums: Tensor  # [B, q], column sums of the plan
    dual: Tensor  # [B], the semi-dual in units of reg, up to a constant
    error: Tensor  # [B], L1 distance of the column sums from b

    def put(self, problems: Tensor, entries: Iterable[Tensor]) -> None:
        """Overwrite the states of these problems, by index."""
        for field, entry in zip(self, entries, strict=True):
            field[problems] = entry


def _descend(
    problem: _Problem, g: Tensor, levels: list[float], *, tolerance: float, max_steps: int
) -> Solution:
    """Solve at every level in turn by Newton's method, from the potentials of the level before."""
    b = problem.b
    log_b = torch.where(b > 0, b.log(), 0.0)
    is_padding = b == 0
    if is_padding.any():
        cost = problem.cost.masked_fill(is_padding[:, None, :], torch.inf)
        problem = problem._replace(cost=cost)
    # New memory at every step would cost as much as the arithmetic.
    memory = [torch.empty_like(problem.cost) for _ in range(3)]
    iterations = 0
    for level in levels:
        goal = max(_NEWTON_LEVEL_ERROR, tolerance)
        limit = _NEWTON_LEVEL_STEPS
        if level == levels[-1]:
            goal = tolerance
            limit = max_steps
        h = log_b + g / level
        state, steps = _climb(problem, level, h, memory, tolerance=goal, limit=limit)
        g = level * (state.h - log_b)
        iterations += steps
    log_sums = state.row_maxima + state.row_sums.log()
    constant = (b * log_b).sum(1)
    return Solution(
        f=-level * log_sums,
        g=g,
        value=level * (state.dual - constant),
        error=state.error,
        iterations=iterations,
    )


def _climb(
    problem: _Problem,
    reg: float,
    h: Tensor,
    memory: list[Tensor],
    *,
    tolerance: float,
    limit: int,
) -> tuple[_State, int]:
    """Take damped Newton steps at one reg; return the state and the number of steps.

    A step that neither raises the dual nor lowers the error is not taken. `memory` has three
    tensors of the cost's shape to write to; at the end the first has the state's exponentials.
    """
    current, spare, scratch = memory
    state = _evaluate(problem, reg, h, current)
    damping = torch.full_like(h[:, 0], _DAMPING_START)
    noise = 8 * torch.finfo(h.dtype).eps
    unsolved = (state.error > tolerance).tolist()
    step = 0
    while any(unsolved) and step < limit:
        if 2 * sum(unsolved) <= len(unsolved):
            # Only the unsolved problems continue: solved problems need no more arithmetic.
            indices = _indices(unsolved, h.device)
            smaller = problem.at(indices)
            smaller_memory = [torch.empty_like(smaller.cost) for _ in range(3)]
            solved, steps = _climb(
                smaller,
                reg,
                state.h[indices],
                smaller_memory,
                tolerance=tolerance,
                limit=limit - step,
            )
            state.put(indices, solved)
            step += steps
            break
        direction = _direction(problem, state, damping, scratch)
        candidate = _evaluate(problem, reg, state.h + direction, spare)
        rounding = noise * state.dual.abs()
        is_higher = candidate.dual > state.dual + rounding
        is_better = is_higher | (candidate.error < state.error)
        damping = torch.where(is_better, damping * _DAMPING_DOWN, damping * _DAMPING_UP)
        damping.clamp_(_DAMPING_MIN, _DAMPING_MAX)
        # One copy per step tells the CPU which problems continue; on a GPU it takes little time
        # compared with the step.
        error = torch.where(is_better, candidate.error, state.error)
        unsolved, worse = torch.stack([error > tolerance, ~is_better]).tolist()
        if any(worse):
            # These problems keep their former state.
            indices = _indices(worse, h.device)
            candidate.put(indices, (field[indices] for field in state))
        # The memory of the former state is free for the next candidate.
        spare = state.exponentials
        state = candidate
        step += 1
    memory[:] = [state.exponentials, spare, scratch]
    return state, step


def _indices(flags: list[bool], device: torch.device) -> Tensor:
    """Return the indices of the flags that are True, [p] int64.

    The flags are in the memory of the CPU, so that it does not wait for a GPU.
    """
    positions = [i for i, flag in enumerate(flags) if flag]
    return torch.tensor(positions).to(device, non_blocking=True)


def _evaluate(problem: _Problem, reg: float, h: Tensor, memory: Tensor) -> _State:
    """Return the plan at h; its exponentials are put into `memory`."""
    a = problem.a
    b = problem.b
    exponent = torch.sub(h[:, None, :], problem.cost, alpha=1 / reg, out=memory)
    exponentials, row_sums, row_maxima = _row_exp(exponent)
    column_sums = torch.bmm((a / row_sums)[:, None, :], exponentials)[:, 0]
    log_sums = row_maxima + row_sums.log()
    # F(g) = <a, f(g)> + <b, g>
    dual = (b * h).sum(1) - (a * log_sums).sum(1)
    return _State(
        h=h,
        exponentials=exponentials,
        row_sums=row_sums,
        row_maxima=row_maxima,
        column_sums=column_sums,
        dual=dual,
        error=(column_sums - b).abs().sum(1),
    )


def _direction(problem: _Problem, state: _State, damping: Tensor, memory: Tensor) -> Tensor:
    """Return the damped Newton step [B, q] in h, from the Laplacian scaled to b^-1/2 H b^-1/2."""
    a = problem.a
    b = problem.b
    root = b.sqrt()
    inverse = torch.where(b > 0, b.rsqrt(), 0.0)
    # H = diag(col) - P^T diag(1/a) P
    row_scale = a.sqrt() / state.row_sums
    scaled = torch.mul(state.exponentials, row_scale[:, :, None], out=memory)  # [B, p, q]
    matrix = torch.bmm(scaled.mT, scaled)  # [B, q, q]
    matrix.mul_(_outer_product(inverse)).neg_()
    # The null vector of the scaled Laplacian, root b, shifts all potentials by a constant. Filling
    # it makes the matrix regular and changes no step.
    matrix.add_(_outer_product(root))
    matrix.diagonal(dim1=1, dim2=2).add_(state.column_sums * inverse.square() + damping[:, None])
    # LU and not Cholesky: in batches of this size it is twice as fast on a CPU.
    return inverse * torch.linalg.solve_ex(matrix, (b - state.column_sums) * inverse)[0]


def _outer_product(vectors: Tensor) -> Tensor:
    """Return the products of all entries of vectors [B, q] with each other, [B, q, q]."""
    return vectors[:, :, None] * vectors[:, None, :]
