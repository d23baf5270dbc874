"""Rigid alignment: the embedder's filter is turned in the body's space and its tokens are shifted; nothing else moves.

A turn keeps the inner products of the filter's columns, and so the distances between any two inputs before the body's
norm: what distinguishes samples stays, and only where they lie changes. It is a step of gradient descent over rotations by
the Cayley transform (Wen and Yin 2013), which is orthogonal exactly:

    A = G W' - W G'        W <- (I + c A)^-1 (I - c A) W,        c = angle / (sqrt(2) |A|)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from orca_cli.exceptions import ConfigError


def moved(embedder: nn.Module, motion: str) -> tuple[nn.Parameter | None, list[nn.Parameter]]:
    """Return the filter, where it is to be turned, and the parameters that an optimizer is to move.

    Args:
        embedder: a layer that an Embedder (interfaces) returned.
        motion: as `Align.motion`.

    Raises:
        ConfigError: the motion is rigid, and the layer has no `filter`.
    """
    parameters = dict(embedder.named_parameters())
    if motion == "free":
        return None, list(parameters.values())
    name: str | None = getattr(embedder, "filter", None)
    shifts: tuple[str, ...] = getattr(embedder, "shifts", ())
    if name is None:
        what = f"{type(embedder).__name__} names no filter that could be turned"
        raise ConfigError(what, where="align.motion=rigid", hint="use align.motion=free")
    return parameters[name], [parameters[shift] for shift in shifts if shift in parameters]


@torch.no_grad()
def turn(weight: nn.Parameter, angle: float) -> None:
    """Turn a filter down its gradient, in place; without a gradient it stays.

    Args:
        weight: [D, ...], with its gradient in `grad`.
        angle: radians, the root of the summed squares over the planes of the rotation (to its third order).
    """
    assert weight.grad is not None
    old, gradient = weight.flatten(1).double(), weight.grad.flatten(1).double()
    skew = gradient @ old.T
    skew = skew - skew.T
    size = torch.linalg.matrix_norm(skew).clamp(min=torch.finfo(torch.float64).tiny)
    half: Tensor = skew * (angle / (math.sqrt(2) * size))
    identity = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
    weight.copy_(torch.linalg.solve(identity + half, (identity - half) @ old).view_as(weight))
