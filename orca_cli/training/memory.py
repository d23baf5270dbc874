"""Memory: gradient checkpointing, and the message where memory runs out."""

import errno
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from orca_cli.exceptions import ConfigError, MemoryExhaustedError

# torch on CPU, CUDA and MPS; safetensors; C++; cuBLAS and cuDNN; oneDNN, whose whole message this is
_WORDS = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|bad_alloc|STATUS_ALLOC_FAILED|could not create a (?:primitive|memory)$",
    re.IGNORECASE,
)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out; most libraries have no type for it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_WORDS.search(str(error)))


@contextmanager
def governed_by(where: str, hint: str = "") -> Iterator[None]:
    """Raise MemoryExhaustedError that names the setting to lower if memory runs out inside; an inner block goes first."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise MemoryExhaustedError("not enough memory", where=where, hint=hint) from error


def checkpoint_layers(body: nn.Module) -> None:
    """Let the layers of a body keep only their inputs for the backward pass, and compute the rest once more in it.

    The draws of dropout are repeated, and so are all bits; a step takes one more forward pass (Chen et al. 2016).

    Raises:
        ConfigError: transformers marks no layers of the family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    def marked(module: nn.Module) -> list[Any]:
        return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]

    innermost = [module for module in marked(body) if marked(module) == [module]]
    if not innermost:
        what = "transformers does not mark the layers of this body"
        raise ConfigError(what, where="train.gradient_checkpointing", hint="leave it out, or use another body")
    for layer in innermost:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
