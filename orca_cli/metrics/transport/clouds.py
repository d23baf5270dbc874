"""Clouds of points [n, d] and [m, d]: what every metric checks of them, ground costs, and gradients.

Gradients are by the envelope theorem: plans are held, costs are differentiated. Where a value is a sum of half squared
distances with weights that the solver found,

    value = sum_ij cross_ij |x_i - z_j|^2 / 2 + sum_jk own_jk |z_j - z_k|^2 / 2 + (entropies),

its gradient in z is that of the distances alone. So metrics solve without autograd, and the gradient is attached afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from orca_cli.exceptions import DataError, NonFiniteError, UnavailableError
from orca_cli.interfaces import Distance, Features

Solved = tuple[Tensor, Tensor, dict[str, float]]  # value, gradient in the target's features [m, d], diagnostics

_NO_DOUBLE = ("mps",)  # kinds of devices without float64
_HINT = "lower the learning rate"


def check_features(features: Features, name: str) -> None:
    """Raise DataError for a cloud of another form than Features asks for, NonFiniteError for NaN or infinite features."""
    x, labels = features.x, features.labels
    where = f"metric, {name} features"
    if x.dim() != 2 or not len(x) or labels.shape != x.shape[:1] or x.dtype not in (torch.float32, torch.float64):
        what = f"[n, d] float32 or float64 with n labels is needed, got {list(x.shape)} {x.dtype}, {list(labels.shape)}"
        raise DataError(what, where=where)
    allowed = ((labels >= 0) & (labels < features.num_classes)).all()
    # The extremes are NaN or infinite if any entry is, and cost a fifth of looking at every one.
    finite = torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()
    are_allowed, are_finite = torch.stack([allowed, finite]).tolist()  # at once: the host waits for a GPU once
    if not are_allowed:
        raise DataError(f"labels must be in 0..{features.num_classes - 1}", where=where)
    if not are_finite:
        raise NonFiniteError("a feature is NaN or infinite", where=where, hint=_HINT)


def check_finite(*results: Tensor) -> None:
    """Raise NonFiniteError if a value or a gradient has an entry that is NaN or infinite."""
    if not bool(torch.stack([torch.isfinite(result).all() for result in results]).all()):
        raise NonFiniteError("the distance is not finite", where="metric", hint=_HINT)


def class_sizes(labels: Tensor, num_classes: int) -> Tensor:
    """Return the number of points of every class, [k] int64; unlike `bincount` the host does not wait for a GPU."""
    return labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))


def prepare_nothing(self: object, source: Features) -> dict[str, Tensor]:
    """Check the source and return nothing: the `prepare` of metrics of which no part depends on the source alone."""
    check_features(source, "source")
    return {}


def half_squared_distances(x: Tensor, z: Tensor) -> Tensor:
    """Return 1/2 |x_i - z_j|^2 of clouds, or batches of them, [..., n, m] in the dtype of x, clamped at 0.

    The expanded form |x|^2 / 2 + |z|^2 / 2 - x.z loses digits far from the origin: use `centred` first.
    """
    cost = x @ z.mT
    return torch.sub(_half_squares(x)[..., :, None], cost, out=cost).add_(_half_squares(z)[..., None, :]).clamp_(min=0)


def centred(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return all clouds minus the mean of the first; distances between them stay as they are."""
    centre = x.mean(0)
    return tuple(cloud - centre for cloud in (x, *others))


def resolved(reg: float, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return clouds as `centred` does, in float64 where float32 would round costs by more than a hundredth of `reg`."""
    clouds = centred(x, *others)
    largest = 2 * (_half_squares(clouds[0]).max() + _half_squares(clouds[-1]).max())  # bounds half squared distances
    # The plan is exp((f + g - c) / reg).
    if x.dtype == torch.float64 or not bool(largest * torch.finfo(torch.float32).eps > reg / 100):
        return clouds
    if x.device.type in _NO_DOUBLE:
        raise UnavailableError(
            f"features of this size need float64 at reg={reg:g}, which '{x.device.type}' does not have",
            where="metric.reg",
            hint="raise it, or use device=cpu",
        )
    return tuple(cloud.double() for cloud in clouds)


def double(x: Tensor) -> Tensor:
    """Return a float64 copy, on the CPU where the device has no float64."""
    return (x.cpu() if x.device.type in _NO_DOUBLE else x).double()


def gradient(cross: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return d value / dz, [m, d], for weights of pairs [n, m], source [n, d] and target [m, d]."""
    return cross.sum(0)[:, None] * z - cross.T @ x


def class_mass(plan: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return what a plan [n, m] carries between classes, [k, l]; rows [n] and columns [m] are the points' classes."""
    by_row = plan.new_zeros(shape[0], plan.shape[1]).index_add_(0, rows, plan)
    return plan.new_zeros(shape).index_add_(1, columns, by_row)


def closed_form(solve: Callable[[Any, Features, dict[str, Tensor], Features], Solved]) -> Callable[..., Distance]:
    """Make the `distance` of a metric from a method that needs no autograd, because it returns the gradient as well.

    Clouds and results are checked; results are cast to the dtype and device of the target's features.
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
        return Distance(value + (carrier - carrier.detach()), diagnostics)

    return distance


def _half_squares(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1).square_().div_(2)
