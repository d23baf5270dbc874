"""Weights that are not trained, cast to the precision of the forward passes once, instead of in each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_CAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def cast_once(module: nn.Module, precision: str) -> Iterator[None]:
    """Let the frozen weights of linear layers have, inside the block, the type that autocast gives them in every forward pass.

    Results have the same bits, since either way the same numbers are rounded. Autocast itself keeps what it has cast of trained
    weights only. A weight that another kind of layer has as well, such as an embedding's table, stays as it is.

    Args:
        module: forward passes inside the block are under autocast at `precision`; its state is not for saving there.
        precision: fp32, bf16 or fp16.
    """
    dtype = _CAST.get(precision)
    kept = {} if dtype is None else {parameter: parameter.data for parameter in _frozen_linear(module)}
    try:
        for parameter, whole in kept.items():
            parameter.data = whole.to(dtype)
        yield
    finally:
        for parameter, whole in kept.items():
            parameter.data = whole


def _frozen_linear(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights and biases in float32 that only linear layers have, and nothing trains."""
    layers = [(type(one) is nn.Linear, one.parameters(recurse=False)) for one in module.modules()]
    others = {parameter for is_linear, own in layers if not is_linear for parameter in own}
    return [
        parameter
        for parameter in module.parameters()
        if parameter not in others and not parameter.requires_grad and parameter.dtype == torch.float32
    ]
