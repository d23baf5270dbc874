"""Learning rates and optimizers. A rate is a function of the step, so schedules have no state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from orca_cli.config.schema import Train, settled

BETAS = (0.9, 0.98)  # of adam and adamw in stage 3, as in the released code


def warmup_then_linear(step: int, *, peak: float, warmup_steps: float, decay_steps: float) -> float:
    """Return the learning rate of one optimizer step (paper A.3.5): linear warm-up, then linear decay to 0.

    The rate is positive at every step before `decay_steps`: step 0 already moves, and the last step is not lost. It is
    never below 0.

    Args:
        step: 0 for the first step.
        peak: the rate at the end of the warm-up.
        warmup_steps: length of the warm-up, at least 0.
        decay_steps: the step at which the rate reaches 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * min(1.0, max(0.0, (decay_steps - step) / max(decay_steps - warmup_steps, 1.0)))


def warmup_length(train: Train) -> float:
    """Return the length of the warm-up in epochs: as set, or `train.warmup_limit` of the epochs before the rate is 0.

    A longer one would end training before the rate is at its peak, or leave no time after it.
    """
    length = settled(train.warmup_epochs)
    if train.warmup_limit is None:
        return length
    epochs = settled(train.epochs)
    return min(length, train.warmup_limit * min(epochs, train.decay_epochs or epochs))


def shortened_warmup(train: Train) -> str:
    """Return a note on a warm-up that is shorter than set; empty where it is as set."""
    length, setting = warmup_length(train), settled(train.warmup_epochs)
    if length == setting:
        return ""
    return (
        f"warm-up shortened from {setting:g} to {length:g} of {train.epochs} epochs "
        f"(train.warmup_limit={train.warmup_limit:g})"
    )


def fitted_batch(train: Train, num_train: int) -> Train:
    """Return settings whose optimizer step asks for no more samples than there are: as given, or with a smaller batch.

    Batches per step stay as they are, where there are samples enough for them.
    """
    size = settled(train.batch_size)
    if size * train.accumulation <= num_train:
        return train
    accumulation = train.accumulation if train.accumulation <= num_train else max(1, num_train // size)
    batch_size = min(size, num_train // accumulation)
    return dataclasses.replace(train, batch_size=batch_size, accumulation=accumulation)


def smaller_batch(train: Train, num_train: int) -> str:
    """Return a note on a batch that is smaller than set; empty where it is as set."""
    fitted = fitted_batch(train, num_train)
    if fitted == train:
        return ""
    names = ("batch_size",) if fitted.accumulation == train.accumulation == 1 else ("batch_size", "accumulation")
    requested, taken = (", ".join(f"train.{name}={getattr(one, name)}" for name in names) for one in (train, fitted))
    return f"{taken} instead of {requested}: there are {num_train} training samples"


def step_decay(step: int, *, start: float, every: int, factor: float) -> float:
    """Return the learning rate of one alignment step (paper A.3.4): `start`, times `factor` after every `every` steps."""
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
    """Return the optimizer of a stage over what it trains (paper A.3.3): sgd, adam or adamw.

    Args:
        kind: which one.
        parameters: those that require a gradient are trained.
        lr, weight_decay: of all of them.
        momentum: of sgd.
        betas: of adam and adamw.
        outer: more of them, whose rate is `outer_rate` times that of the others.
        outer_rate: see `outer`.
        fused: whether adam and adamw go over a parameter once, by a kernel of torch's, instead of some ten times: a third of
            the time on a CPU, with other last bits.
    """
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in candidates if parameter.requires_grad], "rate": rate}
        for candidates, rate in ((parameters, 1.0), (outer, outer_rate))
    ]
    trained = [group for group in groups if group["params"]]
    if kind == "sgd":
        return torch.optim.SGD(trained, lr=lr, weight_decay=weight_decay, momentum=momentum)
    adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return adam(trained, lr=lr, weight_decay=weight_decay, betas=betas, fused=fused or None)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times its own `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
