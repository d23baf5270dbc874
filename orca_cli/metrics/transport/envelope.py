"""The envelope theorem on a dataset distance: plans are held, costs are differentiated.

Where a value is a sum of half squared distances with weights that the solver found,

    value = sum_ij cross_ij |x_i - z_j|^2 / 2 + sum_jk own_jk |z_j - z_k|^2 / 2 + (entropies),

its gradient in z is that of the distances alone. So metrics solve without autograd and attach the gradient afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Distance


def gradient(cross: Tensor, own: Tensor | None, x: Tensor, z: Tensor) -> Tensor:
    """Return d value / dz, [m, d].

    Args:
        cross: [n, m], weights of pairs of source and target.
        own: [m, m], weights of pairs within the target; None for none.
        x: [n, d].
        z: [m, d].
    """
    slope = cross.sum(0)[:, None] * z - cross.T @ x
    if own is None:
        return slope
    both = own + own.T
    return slope + both.sum(0)[:, None] * z - both @ z


def class_mass(plan: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return what a plan [n, m] carries between classes, [k, l]; rows [n] and columns [m] are the points' classes."""
    by_row = plan.new_zeros(shape[0], plan.shape[1]).index_add_(0, rows, plan)
    return plan.new_zeros(shape).index_add_(1, columns, by_row)


def attach(value: Tensor, slope: Tensor, z: Tensor, diagnostics: dict[str, float]) -> Distance:
    """Return a distance of this value whose gradient in z [m, d] is `slope`, both cast to the dtype and device of z.

    Raises:
        NonFiniteError: the value or the gradient is NaN or infinite.
    """
    value, slope = value.detach().to(z), slope.detach().to(z)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(slope).all()):
        raise NonFiniteError("the distance is not finite", where="metric", hint="lower the learning rate")
    # The gradient is known in closed form; this product carries it and adds exactly 0 to the value.
    carrier = (z * slope).sum()
    return Distance(value + (carrier - carrier.detach()), diagnostics)
