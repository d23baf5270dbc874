"""The envelope theorem on a dataset distance: plans are held, costs are differentiated.

Where a value is a sum of half squared distances with weights that the solver found,

    value = sum_ij cross_ij |x_i - z_j|^2 / 2 + sum_jk own_jk |z_j - z_k|^2 / 2 + (entropies),

its gradient in z is that of the distances alone. So metrics solve without autograd, and the gradient is attached afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Distance, Features
from orca_cli.metrics.transport.clouds import check_features, check_finite

Solved = tuple[Tensor, Tensor, dict[str, float]]  # value, gradient in the target's features [m, d], diagnostics


def gradient(cross: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return d value / dz, [m, d], for weights of pairs [n, m], source [n, d] and target [m, d]."""
    return cross.sum(0)[:, None] * z - cross.T @ x


def class_mass(plan: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return what a plan [n, m] carries between classes, [k, l]; rows [n] and columns [m] are the points' classes."""
    by_row = plan.new_zeros(shape[0], plan.shape[1]).index_add_(0, rows, plan)
    return plan.new_zeros(shape).index_add_(1, columns, by_row)


def closed_form(solve: Callable[[Any, Features, dict[str, Tensor], Features], Solved]) -> Callable[..., Distance]:
    """Make the `distance` of a metric from a method that needs no autograd, because it returns the gradient as well.

    Both clouds are checked, and their sizes n and m are added to the diagnostics. Value and gradient are cast to the dtype
    and device of the target's features; NonFiniteError is raised where one of them is NaN or infinite.
    """

    @functools.wraps(solve)
    def distance(self: Any, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        check_features(source, "source")
        check_features(target, "target")
        if source.x.shape[1] != target.x.shape[1]:
            what = f"features of {source.x.shape[1]} and {target.x.shape[1]} dimensions cannot be compared"
            raise DataError(what, where="metric", hint="both have to come from the same space")
        with torch.no_grad():
            value, slope, diagnostics = solve(self, source, prepared, target)
        value, slope = value.to(target.x), slope.to(target.x)
        check_finite(value, slope)
        carrier = (target.x * slope).sum()  # carries the gradient, and adds exactly 0 to the value
        sizes = {"n": float(len(source.x)), "m": float(len(target.x))}
        return Distance(value + (carrier - carrier.detach()), diagnostics | sizes)

    return distance
