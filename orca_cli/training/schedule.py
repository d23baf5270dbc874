"""Learning rates and optimizers. A rate is a function of the step, so schedules have no state."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

BETAS = (0.9, 0.98)  # betas of adam and adamw in stage 3, as in the released code


def warmup_then_linear(step: int, *, peak: float, warmup_steps: float, decay_steps: float) -> float:
    """Return the learning rate of one optimizer step: linear warm-up, then linear decay to 0.

    Paper A.3.5. The rate is positive at every step before `decay_steps`, so that neither the first
    nor the last step is lost. It is never below 0.

    Args:
        step: 0 for the first step.
        peak: the rate at the end of the warm-up.
        warmup_steps: length of the warm-up, at least 0.
        decay_steps: the step at which the rate reaches 0.
    """
    if step < warmup_steps:
        # With 1 added in both terms, the rate is above 0 at step 0 and below the peak until the
        # warm-up ends.
        return peak * (step + 1) / (warmup_steps + 1)
    # If the warm-up ends where the decay does, the rate falls within one step.
    decay_length = max(decay_steps - warmup_steps, 1.0)
    remaining_share = (decay_steps - step) / decay_length
    # Training may go on after the decay has ended, at a rate of 0.
    return peak * min(1.0, max(0.0, remaining_share))


def step_decay(step: int, *, start: float, every: int, factor: float) -> float:
    """Return the learning rate of one alignment step (paper A.3.4).

    It begins at `start` and is multiplied by `factor` after every `every` steps.
    """
    return start * factor ** (step // every)


def make_optimizer(
    kind: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
    outer: Iterable[nn.Parameter] = (),
    outer_rate: float = 1.0,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer of a stage over the parameters that it trains (paper A.3.3).

    Each of its one or two groups has a factor on the rate, "rate", by which the caller multiplies
    the "lr" of a step.

    Args:
        kind: sgd, adam or adamw.
        parameters: parameters, of which those that require a gradient are trained.
        lr, weight_decay, momentum, betas: as in torch.
        outer: further parameters, whose rate is multiplied by `outer_rate`.
        outer_rate: factor on the rate of `outer`.
        fused: whether adam and adamw update a parameter in one pass, by torch's fused kernel,
            instead of about ten passes. This takes a third of the time on a CPU, and changes the
            last bits.
    """
    groups = [_parameter_group(parameters, 1.0), _parameter_group(outer, outer_rate)]
    trained_groups = [group for group in groups if group["params"]]
    if kind == "sgd":
        return torch.optim.SGD(trained_groups, lr=lr, weight_decay=weight_decay, momentum=momentum)
    adam_class = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    # None, unlike False, lets torch choose between its unfused implementations.
    return adam_class(
        trained_groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=fused or None
    )


def _parameter_group(candidates: Iterable[nn.Parameter], rate_factor: float) -> dict[str, Any]:
    """Return the optimizer's group of the candidates that require a gradient."""
    trained_parameters = [parameter for parameter in candidates if parameter.requires_grad]
    return {"params": trained_parameters, "rate": rate_factor}
