"""Ground costs between clouds of points: half squared Euclidean distances."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import UnavailableError

_NO_DOUBLE = ("mps",)  # kinds of devices without float64


def half_squared_distances(x: Tensor, z: Tensor) -> Tensor:
    """Return 1/2 |x_i - z_j|^2, clamped at 0.

    The expanded form |x|^2 / 2 + |z|^2 / 2 - x.z loses digits far from the origin: use `centred` first.

    Args:
        x: [..., n, d].
        z: [..., m, d].

    Returns:
        [..., n, m] in the dtype of x.
    """
    cost = x @ z.mT
    return torch.sub(_half_squares(x)[..., :, None], cost, out=cost).add_(_half_squares(z)[..., None, :]).clamp_(min=0)


def centred(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return all clouds [*, d] minus the mean of the first; distances between them stay as they are."""
    centre = x.mean(0)
    return tuple(cloud - centre for cloud in (x, *others))


def resolved(reg: float, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return clouds as `centred` does, in float64 where float32 cannot resolve `reg` at the size of their costs."""
    clouds = centred(x, *others)
    return tuple(cloud.double() for cloud in clouds) if needs_double(clouds[0], clouds[-1], reg) else clouds


def needs_double(x: Tensor, z: Tensor, reg: float) -> bool:
    """Return whether float32 would round costs by more than a hundredth of `reg`; the plan is exp((f + g - c) / reg).

    Raises:
        UnavailableError: it would, and the device has no float64.
    """
    if x.dtype == torch.float64:
        return True
    largest = 2 * (_half_squares(x).max() + _half_squares(z).max())  # at least the largest half squared distance
    if not bool(largest * torch.finfo(torch.float32).eps > reg / 100):
        return False
    if x.device.type in _NO_DOUBLE:
        raise UnavailableError(
            f"features of this size need float64 at reg={reg:g}, which '{x.device.type}' does not have",
            where="metric.reg",
            hint="raise it, or use device=cpu",
        )
    return True


def double(x: Tensor) -> Tensor:
    """Return a float64 copy, on the CPU where the device has no float64."""
    return (x.cpu() if x.device.type in _NO_DOUBLE else x).double()


def _half_squares(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1).square_().div_(2)
