"""Entropic transport onto few points by Newton's method on the semi-dual, for many problems at once.

With f eliminated, the dual of entropic transport is a smooth concave function of the q potentials g alone:

    F(g) = <a, f(g)> + <b, g>,    f_i(g) = -reg log sum_j b_j exp((g_j - c_ij) / reg)

Its gradient is b minus the column sums of the plan, its Hessian -1/reg times the graph Laplacian diag(col) - P^T diag(1/a) P.
For q of a few hundred a step costs about as much as ten Sinkhorn iterations, and far fewer are needed at small reg (Cuturi and
Peyre 2016 for the semi-dual; Brauer et al. 2017 for Newton's method on it). Steps are damped as Levenberg and Marquardt do: far
from the solution the Laplacian is nearly singular. Shapes and settings are those of `sinkhorn`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from orca_cli.metrics.transport.sinkhorn import Solution, annealing, row_exp

_STEPS_PER_LEVEL = 3
_LEVEL_ERROR = 0.05  # L1 marginal error that is good enough before reg is lowered
_DAMPING_START, _DAMPING_MIN, _DAMPING_MAX = 0.1, 1e-4, 10.0  # eigenvalues of the scaled Laplacian are in 0..1
_DAMPING_DOWN, _DAMPING_UP = 0.2, 10.0
_STRIDE = 4  # the coarse problem takes every fourth row,
_MANY_ROWS = 8  # where there are more rows per column than this


class _Problem(NamedTuple):
    cost: Tensor
    a: Tensor
    b: Tensor
    reg: float


class _State(NamedTuple):
    """The plan at h = log b + g / reg: P_ij = a_i e_ij / row_i."""

    h: Tensor  # [B, q]
    e: Tensor  # [B, p, q], row-wise exponentials with largest entry 1
    row: Tensor  # [B, p], sums of e
    top: Tensor  # [B, p], the largest exponents
    col: Tensor  # [B, q], column sums of the plan
    dual: Tensor  # [B], the semi-dual in units of reg, up to a constant
    error: Tensor  # [B], L1 distance of col from b

    def put(self, problems: Tensor, theirs: Iterable[Tensor]) -> None:
        """Overwrite the states of some problems, by index."""
        for mine, new in zip(self, theirs, strict=True):
            mine[problems] = new


def solve(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float,
    *,
    tolerance: float,
    max_iterations: int,
    scaling: float,
    start: Tensor | None = None,
    first: float | None = None,
) -> Solution:
    """Solve B problems; where there are many rows, every fourth one gives the potentials from which the whole one starts.

    With `start`, the potentials g of a similar problem, annealing starts at `first`, by default reg / scaling.
    """
    largest = float(cost.max())
    if start is not None:
        first = min(largest, first or reg / scaling)
    else:
        start, first = torch.zeros_like(b), largest
        if cost.shape[1] > _MANY_ROWS * cost.shape[2] and largest > reg / scaling**2:
            some = a[:, ::_STRIDE] / a[:, ::_STRIDE].sum(1, keepdim=True)
            first = reg / scaling
            levels = annealing(largest, first / scaling, scaling)
            part = cost[:, ::_STRIDE].contiguous()
            start = _descend(part, some, b, start, levels, _LEVEL_ERROR, _STEPS_PER_LEVEL).g
    return _descend(cost, a, b, start, annealing(first, reg, scaling), tolerance, max_iterations)


def _descend(
    cost: Tensor, a: Tensor, b: Tensor, g: Tensor, levels: list[float], tolerance: float, max_iterations: int
) -> Solution:
    """Solve at every level in turn, each from the potentials of the one before."""
    log_b = torch.where(b > 0, b.log(), 0.0)
    if bool((b == 0).any()):
        cost = cost.masked_fill((b == 0)[:, None, :], torch.inf)
    memory = [torch.empty_like(cost) for _ in range(3)]  # new memory at every step would cost as much as the arithmetic
    iterations = 0
    for level in levels:
        final = level == levels[-1]
        goal, limit = (tolerance, max_iterations) if final else (max(_LEVEL_ERROR, tolerance), _STEPS_PER_LEVEL)
        state, taken = _climb(_Problem(cost, a, b, level), log_b + g / level, memory, goal, limit)
        g = level * (state.h - log_b)
        iterations += taken
    f, value = -level * (state.top + state.row.log()), level * (state.dual - (b * log_b).sum(1))
    return Solution(f, g, value, state.error, iterations)


def _climb(problem: _Problem, h: Tensor, memory: list[Tensor], tolerance: float, limit: int) -> tuple[_State, int]:
    """Take damped Newton steps at one reg; a step that neither raises the dual nor lowers the error is not taken."""
    current, spare, scratch = memory
    state = _evaluate(problem, h, current)
    damping = torch.full_like(h[:, 0], _DAMPING_START)
    noise = 8 * torch.finfo(h.dtype).eps
    unsolved = (state.error > tolerance).tolist()
    step = 0
    while any(unsolved) and step < limit:
        if 2 * sum(unsolved) <= len(unsolved):
            # Only a few are left: the others need no more arithmetic.
            few = _places(unsolved, h.device)
            part = _Problem(problem.cost[few], problem.a[few], problem.b[few], problem.reg)
            fresh = [torch.empty_like(part.cost) for _ in range(3)]
            rest, more = _climb(part, state.h[few], fresh, tolerance, limit - step)
            state.put(few, rest)
            step += more
            break
        candidate = _evaluate(problem, state.h + _direction(problem, state, damping, scratch), spare)
        better = (candidate.dual > state.dual + noise * state.dual.abs()) | (candidate.error < state.error)
        damping = torch.where(better, damping * _DAMPING_DOWN, damping * _DAMPING_UP)
        damping.clamp_(_DAMPING_MIN, _DAMPING_MAX)
        # One transfer per step tells the host what to do next: on a GPU that costs little compared with the step.
        error = torch.where(better, candidate.error, state.error)
        flags = torch.stack([error > tolerance, ~better]).tolist()
        unsolved = flags[0]
        if any(flags[1]):
            worse = _places(flags[1], h.device)
            candidate.put(worse, (part[worse] for part in state))
        state, spare = candidate, state.e
        step += 1
    memory[:] = [state.e, spare, scratch]
    return state, step


def _places(flags: list[bool], device: torch.device) -> Tensor:
    """Return where the flags are True, [p] int64; the host knows them and does not wait for a GPU."""
    return torch.tensor([place for place, flag in enumerate(flags) if flag]).to(device, non_blocking=True)


def _evaluate(problem: _Problem, h: Tensor, memory: Tensor) -> _State:
    a, b = problem.a, problem.b
    e, row, top = row_exp(torch.sub(h[:, None, :], problem.cost, alpha=1 / problem.reg, out=memory))
    col = torch.bmm((a / row)[:, None, :], e)[:, 0]
    dual = (b * h).sum(1) - (a * (top + row.log())).sum(1)
    return _State(h, e, row, top, col, dual, (col - b).abs().sum(1))


def _direction(problem: _Problem, state: _State, damping: Tensor, memory: Tensor) -> Tensor:
    """Return the damped Newton step [B, q] in h, from the Laplacian scaled to b^-1/2 H b^-1/2."""
    a, b = problem.a, problem.b
    root = b.sqrt()
    inverse = torch.where(b > 0, b.rsqrt(), 0.0)
    scaled = torch.mul(state.e, (a.sqrt() / state.row)[:, :, None], out=memory)
    matrix = torch.bmm(scaled.mT, scaled)
    # The Laplacian's null vector, root b, is filled: potentials may be shifted by a constant, and no step changes.
    matrix.mul_(inverse[:, :, None] * inverse[:, None, :]).neg_().add_(root[:, :, None] * root[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).add_(state.col * inverse.square() + damping[:, None])
    # LU and not Cholesky: in batches of this size it is twice as fast on a CPU.
    return inverse * torch.linalg.solve_ex(matrix, (problem.b - state.col) * inverse)[0]
