"""Entropic optimal transport by Sinkhorn's algorithm in the log domain.

Problems are written with potentials f, g and the plan P_ij = a_i b_j exp((f_i + g_j - c_ij) / reg), so that

    OT_reg(a, b) = max <a, f> + <b, g> - reg (sum_ij P_ij - 1)

is the cost of transport plus reg times the relative entropy of P to a x b (Feydy et al. 2019).

Between two clouds reg is lowered from the largest cost by a constant factor, `scaling` (annealing), and every level is solved
before the next: at the final reg a bad start costs hundreds of iterations, since Sinkhorn's rate tends to 1 there. Updates go
beyond Sinkhorn's own (over-relaxation, Thibault et al. 2021) while the error falls. One pass over the cost gives both updates:
with the row potentials eliminated the column sums of the plan are a product with the same exponentials. A cloud against itself
needs neither: with one potential for both sides the averaged update is a contraction by 1/2 or better.

Shapes, here and in `newton`: costs [B, p, q] of B problems, at least 0, symmetric for a cloud against itself; weights a [B, p]
and b [B, q] that sum to 1, 0 for padding; potentials f and g likewise. `tolerance` is the L1 error of a plan's column sums at
which a problem counts as solved, `max_iterations` bounds the iterations at the final reg.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_LEVEL_ERROR = 1e-3  # L1 marginal error beyond which solving a level does not help the next one
_LEVEL_ITERATIONS = 200
_RELAXATION = 1.8
_MAX_EXPONENT = 30.0
# Far below rounding, and above the denormal numbers, with which arithmetic on a CPU is many times slower.
_MIN_EXPONENT = -80.0
_CPU_ELEMENTS = 2**18  # exponents that are computed at once: what a cache holds;
_GPU_ELEMENTS = 2**26  # as much as keeps a GPU busy
_GPU_LOOK_EVERY = 8  # iterations between looks at the error, which make the host wait for the device


class Solution(NamedTuple):
    """Solutions of B problems, by their potentials."""

    f: Tensor
    g: Tensor
    value: Tensor  # [B], a dual value: never above the true one, and off it by the square of the error only
    error: Tensor  # [B], L1 distance of the plan's column sums (of symmetric problems: of both sums) from their weights
    iterations: int  # annealing included

    def merged(self, problems: Tensor, other: Solution) -> Solution:
        """Return these solutions with those of some problems, by index, taken from `other`."""
        pairs = zip(self[:4], other[:4], strict=True)
        f, g, value, error = (mine.index_copy(0, problems, theirs) for mine, theirs in pairs)
        return Solution(f, g, value, error, self.iterations + other.iterations)


Solver = Callable[[Tensor, Tensor, Tensor], Solution]  # of cost, a and b


def annealing(largest: float, reg: float, scaling: float) -> list[float]:
    """Return the levels of reg: from the largest cost down by the factor `scaling`, ending with reg itself."""
    levels = []
    while largest > reg:
        levels.append(largest)
        largest *= scaling
    return [*levels, reg]


def solve(
    cost: Tensor, a: Tensor, b: Tensor, reg: float, *, tolerance: float, max_iterations: int, scaling: float
) -> Solution:
    """Solve B problems; memory beyond the cost is only that of pieces of it."""
    log_b = torch.where(b > 0, b.log(), 0.0)
    g = torch.zeros_like(b)
    sums, columns = torch.empty_like(a), torch.empty_like(b)
    iterations, every = 0, _look_every(cost)
    for level in annealing(float(cost.amax()), reg, scaling):
        goal, limit = (tolerance, max_iterations) if level == reg else (max(tolerance, _LEVEL_ERROR), _LEVEL_ITERATIONS)
        before = torch.full_like(b[:, 0], torch.inf)
        unsolved = [True] * len(b)
        for step in range(limit + 1):
            _sweep(cost, torch.where(b > 0, log_b + g / level, -torch.inf), a, level, unsolved, (sums, columns))
            error = (columns - b).abs().sum(1)
            if step % every == 0 or step == limit:
                unsolved = (error > goal).tolist()
                if step == limit or not any(unsolved):
                    break
            # Solved problems wait for the others; where the error rose, the update is Sinkhorn's own.
            reach = torch.where(error <= before, _RELAXATION, 1.0).masked_fill_(error <= goal, 0.0)
            g = g + (level * reach)[:, None] * torch.where(b > 0, log_b - columns.log(), 0.0)
            before = error
        iterations += step
    f = sums.mul_(-reg)
    return Solution(f, g, (a * f).sum(1) + (b * g).sum(1), error, iterations)


def solve_symmetric(cost: Tensor, a: Tensor, reg: float, *, tolerance: float, max_iterations: int) -> Solution:
    """Solve B problems of clouds against themselves, with one potential f = g for both sides."""
    f, update, iterations = symmetric_potential(
        lambda f: softmin(cost, f, a, reg), a, reg, tolerance=tolerance, max_iterations=max_iterations
    )
    return Solution(f, f, (a * (f + update)).sum(1), _marginal_error(f, update, a, reg), iterations)


def symmetric_potential(
    softmin: Callable[[Tensor], Tensor], a: Tensor, reg: float, *, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, int]:
    """Return the potential f with f = softmin(f), found by going half the way at a time, softmin(f) and the iterations.

    The dual value is <a, f + softmin(f)>.
    """
    f = torch.zeros_like(a)
    update = softmin(f)
    iterations, every = 0, _look_every(a)
    while iterations < max_iterations:
        f = (f + update) / 2
        update = softmin(f)
        iterations += 1
        if iterations % every == 0 and bool((_marginal_error(f, update, a, reg) <= tolerance).all()):
            break
    return f, update, iterations


def softmin(cost: Tensor, g: Tensor, b: Tensor, reg: float) -> Tensor:
    """Return -reg log sum_j b_j exp((g_j - c_ij) / reg), [B, p]."""
    h = b.log() + g / reg
    result = cost.new_empty(cost.shape[:2])
    for problems, rows in pieces(cost):
        exponent = torch.sub(h[problems, None], cost[problems, rows], alpha=1 / reg)
        result[problems, rows] = log_sum_exp(exponent)
    return result.mul_(-reg)


def log_sum_exp(exponent: Tensor) -> Tensor:
    """Return log sum exp over the last axis; the argument's memory is overwritten."""
    top = exponent.amax(-1)
    return exp_(exponent.sub_(top[..., None])).sum(-1).log_().add_(top)


def exp_(exponent: Tensor) -> Tensor:
    """Return the exponential, in place, without denormal numbers: tiny entries are 1e-35 or so."""
    return exponent.clamp_(min=_MIN_EXPONENT).exp_()


def row_exp(exponent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exponentials with largest entry 1 in every row, in place, their sums [B, p], and the largest exponents [B, p]."""
    top = exponent.amax(2)
    # The floor is below rounding. Without it products of tiny entries become denormal, which costs a factor of 20.
    floor = -32.0 if exponent.dtype == torch.float32 else -72.0
    e = exponent.sub_(top[:, :, None]).clamp_(min=floor).exp_()
    return e, e.sum(2), top


def pieces(cost: Tensor, elements: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cut costs into (problems, rows) of at most `elements` entries, but one row or more; as suits the device by default."""
    problems, rows, columns = cost.shape
    room = elements or (_CPU_ELEMENTS if cost.device.type == "cpu" else _GPU_ELEMENTS)
    height = min(rows, max(1, room // columns))
    together = max(1, room // (rows * columns))
    for first in range(0, problems, together):
        for start in range(0, rows, height):
            yield slice(first, first + together), slice(start, start + height)


def _sweep(
    cost: Tensor, h: Tensor, a: Tensor, reg: float, unsolved: list[bool], results: tuple[Tensor, Tensor]
) -> None:
    """Write log sum_j exp(h_j - c_ij / reg) [B, p], and the column sums [B, q] of the plan with exact row sums, to `results`.

    Solved problems may keep their old entries.
    """
    sums, columns = results
    memory = cost.new_empty(0)
    for problems, rows in pieces(cost):
        if not any(unsolved[problems]):
            continue
        block = cost[problems, rows]
        memory = memory if len(memory) else cost.new_empty(block.numel())
        e = torch.sub(h[problems, None], block, alpha=1 / reg, out=memory[: block.numel()].view(block.shape))
        e, row, top = row_exp(e)
        part = torch.bmm((a[problems, rows] / row)[:, None], e)[:, 0]
        columns[problems] = part if rows.start == 0 else columns[problems] + part
        sums[problems, rows] = row.log_().add_(top)


def _look_every(like: Tensor) -> int:
    return 1 if like.device.type == "cpu" else _GPU_LOOK_EVERY


def _marginal_error(f: Tensor, update: Tensor, a: Tensor, reg: float) -> Tensor:
    """Return the L1 error [B] of the marginal at f: the plan's sums are a exp((f - update) / reg)."""
    return (a * torch.expm1(((f - update) / reg).clamp(max=_MAX_EXPONENT)).abs()).sum(1)
