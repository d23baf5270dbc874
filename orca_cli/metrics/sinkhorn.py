"""Entropic optimal transport by Sinkhorn's algorithm in the log domain.

Problems are written with potentials f, g and the plan P_ij = a_i b_j exp((f_i + g_j - c_ij) / reg), so that

    OT_reg(a, b) = max <a, f> + <b, g> - reg (sum_ij P_ij - 1)

is the cost of transport plus reg times the relative entropy of P to a x b (Feydy et al. 2019).
Reg is lowered from the largest cost by a constant factor (annealing), with one symmetrised update at each level, and then
held until the marginals are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CHECK_EVERY = 5  # iterations between two looks at the error, each of which waits for the device
_MAX_EXPONENT = 30.0
# Far below rounding, and above the denormal numbers, with which arithmetic on a CPU is many times slower.
_MIN_EXPONENT = -80.0


@dataclass(frozen=True)
class Solution:
    """Solutions of B problems.

    Args:
        f: [B, p], potentials of the rows.
        g: [B, q], potentials of the columns.
        plan: [B, p, q]. Its row sums are exact and it sums to 1 in each problem; for symmetric problems both hold up to
            `error`.
        value: [B], a dual value: never above the true one, and off it by the square of the error only.
        error: [B], L1 distance of the plan's other marginal from its weights.
        iterations: number of iterations, annealing included.
    """

    f: Tensor
    g: Tensor
    plan: Tensor
    value: Tensor
    error: Tensor
    iterations: int


def annealing(largest: float, reg: float, scaling: float) -> list[float]:
    """Return the levels of reg: from the largest cost down by the factor `scaling`, ending with reg itself."""
    levels = []
    level = largest
    while level > reg:
        levels.append(level)
        level *= scaling
    return [*levels, reg]


def solve(
    cost: Tensor, a: Tensor, b: Tensor, reg: float, *, tolerance: float, max_iterations: int, scaling: float
) -> Solution:
    """Solve B problems of the same number of points. A weight of zero stands for padding: it gets no mass.

    Args:
        cost: [B, p, q], non-negative.
        a: [B, p], each problem's weights sum to 1.
        b: [B, q], likewise.
        reg: entropic strength, in units of the cost.
        tolerance: L1 error of the column sums at which a problem counts as solved.
        max_iterations: bound on the iterations at the final reg.
        scaling: factor between the levels of annealing.
    """
    log_a, log_b = a.log(), b.log()
    levels = annealing(float(cost.max()), reg, scaling)
    f = _softmin(cost, torch.zeros_like(b), log_b, levels[0])
    g = _softmin(cost.mT, torch.zeros_like(a), log_a, levels[0])
    for level in levels:
        f, g = (
            (f + _softmin(cost, g, log_b, level)) / 2,
            (g + _softmin(cost.mT, f, log_a, level)) / 2,
        )
    iterations = 0
    while iterations < max_iterations:
        f = _softmin(cost, g, log_b, reg)
        before, g = g, _softmin(cost.mT, f, log_a, reg)
        iterations += 1
        if iterations % _CHECK_EVERY == 0 and bool((_marginal_error(before, g, b, reg) <= tolerance).all()):
            break
    f = _softmin(cost, g, log_b, reg)
    plan = _plan(cost, f, g, log_a, log_b, reg)
    return Solution(
        f=f,
        g=g,
        plan=plan,
        value=(a * f).sum(1) + (b * g).sum(1),
        error=(plan.sum(1) - b).abs().sum(1),
        iterations=len(levels) + iterations,
    )


def solve_symmetric(
    cost: Tensor, a: Tensor, reg: float, *, tolerance: float, max_iterations: int, scaling: float
) -> Solution:
    """Solve B problems of clouds against themselves, with one potential f = g for both sides.

    Args:
        cost: [B, p, p], symmetric and non-negative.
        a: [B, p], each problem's weights sum to 1.
        reg: entropic strength, in units of the cost.
        tolerance: L1 error of the plan's marginal at which a problem counts as solved.
        max_iterations: bound on the iterations at the final reg.
        scaling: factor between the levels of annealing.
    """
    log_a = a.log()
    f, update, iterations = symmetric_potential(
        lambda f, level: _softmin(cost, f, log_a, level),
        a,
        annealing(float(cost.max()), reg, scaling),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    plan = _plan(cost, f, f, log_a, log_a, reg)
    value = (a * (f + update)).sum(1)
    return Solution(f=f, g=f, plan=plan, value=value, error=_marginal_error(f, update, a, reg), iterations=iterations)


def symmetric_potential(
    softmin: Callable[[Tensor, float], Tensor],
    a: Tensor,
    levels: list[float],
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, int]:
    """Find the potential f with f = softmin(f, reg), of which half the way is taken at a time.

    Args:
        softmin: (f [B, p], level) -> -level log sum_j a_j exp((f_j - c_ij) / level), [B, p].
        a: [B, p].
        levels: reg in falling order; the last one is held.
        tolerance: L1 error of the plan's marginal at which all problems count as solved.
        max_iterations: bound on the iterations at the last level.

    Returns:
        f, softmin(f, reg) and the number of iterations. The dual value is <a, f + softmin(f)>.
    """
    f = torch.zeros_like(a)
    for level in levels:
        f = (f + softmin(f, level)) / 2
    iterations = 0
    update = softmin(f, levels[-1])
    while iterations < max_iterations:
        f = (f + update) / 2
        update = softmin(f, levels[-1])
        iterations += 1
        solved = iterations % _CHECK_EVERY == 0 and bool((_marginal_error(f, update, a, levels[-1]) <= tolerance).all())
        if solved:
            break
    return f, update, len(levels) + iterations


def log_sum_exp(exponent: Tensor) -> Tensor:
    """Return log sum exp over the last axis; the argument's memory is overwritten."""
    top = exponent.amax(-1)
    return exponent.sub_(top[..., None]).clamp_(min=_MIN_EXPONENT).exp_().sum(-1).log_().add_(top)


def _softmin(cost: Tensor, g: Tensor, log_b: Tensor, reg: float) -> Tensor:
    """Return -reg log sum_j b_j exp((g_j - c_ij) / reg): [B, p] from cost [B, p, q], g and log_b [B, q]."""
    return log_sum_exp(torch.sub((log_b + g / reg)[:, None, :], cost, alpha=1 / reg)).mul_(-reg)


def _plan(cost: Tensor, f: Tensor, g: Tensor, log_a: Tensor, log_b: Tensor, reg: float) -> Tensor:
    exponent = (log_a + f / reg)[:, :, None] + (log_b + g / reg)[:, None, :]
    return exponent.sub_(cost, alpha=1 / reg).clamp_(min=_MIN_EXPONENT).exp_()


def _marginal_error(f: Tensor, update: Tensor, a: Tensor, reg: float) -> Tensor:
    """Return the L1 error [B] of the marginal at f: the plan's sums are a exp((f - update) / reg)."""
    return (a * torch.expm1(((f - update) / reg).clamp(max=_MAX_EXPONENT)).abs()).sum(1)
