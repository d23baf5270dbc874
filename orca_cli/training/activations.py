"""What the layers of a body keep for the backward pass, in which precision, and whether they are compiled.

With gradient checkpointing a layer keeps its inputs alone and computes the rest once more in the backward pass (Chen et al.
2016). The draws of dropout are repeated, and so are all bits; a step takes one more forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from orca_cli.exceptions import ConfigError, UnavailableError

COMPILER = "inductor"  # torch's own; it needs a C++ compiler for a CPU and Triton for a GPU


def checkpoint_layers(body: nn.Module) -> None:
    """Let the layers of a body keep only their inputs for the backward pass.

    Raises:
        ConfigError: the family has no layers that can.
    """
    for layer in _layers(body, "train.gradient_checkpointing"):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


def compile_layers(body: nn.Module, device: torch.device, compiler: str = COMPILER) -> None:
    """Let the layers of a body be compiled at their first call; they are alike, so that one compilation serves all.

    Args:
        body: whose layers.
        device: where they will compute.
        compiler: a backend of torch.compile.

    Raises:
        ConfigError: the family does not tell its layers.
        UnavailableError: nothing can be compiled on this machine.
    """
    layers = _layers(body, "train.compile")
    try:
        torch.compile(lambda x: torch.tanh(x) + 1, backend=compiler)(torch.ones(2, device=device))
    except Exception as error:  # compilers raise their own types
        inner = getattr(error, "inner_exception", error)  # the compiler's own error, which torch wraps in many lines
        reason = next(iter(str(inner).strip().splitlines()), type(inner).__name__)
        what = f"torch.compile does not work for {device.type} on this machine: {reason}"
        hint = "install a C++ compiler (CPU) or Triton (GPU), or leave train.compile out"
        raise UnavailableError(what, where="train.compile", hint=hint) from error
    for layer in layers:
        layer.compile(backend=compiler)


def _layers(body: nn.Module, setting: str) -> list[Any]:
    """Return the innermost layers of a body, as transformers marks them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    marked = [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]
    around = {id(outer) for outer in marked for inner in outer.modules() if inner is not outer and inner in set(marked)}
    innermost = [module for module in marked if id(module) not in around]
    if not innermost:
        hint = f"leave {setting} out, or use another body"
        raise ConfigError("this body does not tell where its layers are", where=setting, hint=hint)
    return innermost


_CAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def cast_once(module: nn.Module, precision: str) -> Iterator[None]:
    """Inside the block, keep the frozen weights of linear layers in the type that autocast casts them to.

    Autocast caches its casts of trained weights only, and would cast frozen ones in every forward pass. Results have the same
    bits: the same numbers are rounded either way. Weights shared with another kind of layer, such as an embedding's table,
    stay as they are.

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
    """Return the frozen float32 weights and biases that belong to linear layers only."""
    layers = [(type(one) is nn.Linear, one.parameters(recurse=False)) for one in module.modules()]
    others = {parameter for is_linear, layer_parameters in layers if not is_linear for parameter in layer_parameters}
    return [
        parameter
        for parameter in module.parameters()
        if parameter not in others and not parameter.requires_grad and parameter.dtype == torch.float32
    ]
