"""One optimizer step, and the outputs of a whole split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Batch, Error, Loss, Samples, Score
from orca_cli.losses.weights import counts_targets, is_sum, shares
from orca_cli.training.engine import Engine
from orca_cli.training.memory import governed_by


def batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into runs of `size`; the last may be shorter."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def train_step(
    engine: Engine,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    samples: Samples,
    indices: np.ndarray,
    *,
    batch_size: int,
    clip: float | None,
    seed: int,
    step: int,
    reduce: str = "mean",
    unit: float = 1.0,
) -> tuple[float, float]:
    """Take one optimizer step on the mean loss over `indices`; returns (loss, gradient norm before clipping).

    The samples go through the model in batches of `batch_size`; each batch's mean counts by what it averages over, its
    samples or its known targets, so accumulation does not change the gradient. With reduce="sum" the means of all batches are
    added. The gradient is clipped once, as a whole.

    What is differentiated is the loss of outputs and targets divided by `unit`. A loss in the task's units would make the
    gradient depend on them: that of a squared error shrinks with their square, and falls below Adam's epsilon. One unit for
    all outputs keeps its direction. The loss that is returned is in the task's units.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
    """
    model.train()
    optimizer.zero_grad()
    total = 0.0
    parts = batches(indices, batch_size)

    def read() -> Iterator[Batch]:
        for part, chosen in enumerate(parts):
            yield samples.batch(chosen, seeding.numpy_generator(seed, "finetune", "augment", step, part))

    read_parts: Iterable[Batch] = read()
    if reduce == "sum" or is_sum(loss):
        weights = [1.0] * len(parts)
    elif len(parts) > 1 and counts_targets(loss):
        read_parts = list(read_parts)
        weights = shares(loss, [batch.y for batch in read_parts])
    else:
        weights = [len(chosen) / len(indices) for chosen in parts]
    for part, (batch, share) in enumerate(zip(read_parts, weights, strict=True)):
        if share == 0:  # nothing to learn from, and torch's cross-entropy of no class would be NaN
            continue
        seeding.seed_torch(seed, "finetune", "dropout", step, part)
        batch = engine.move(batch)
        with engine.autocast():
            outputs = model(batch.x, batch.valid)
        value, told = _losses(loss, outputs.float(), batch.y, unit)
        total += (told * share).item()
        if not math.isfinite(total):
            raise _not_finite("loss", total, step, optimizer)
        engine.backward(value * share)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = engine.clip(trained, clip)
    if not (math.isfinite(norm) or engine.skips_overflow):
        raise _not_finite("gradient", norm, step, optimizer)
    optimizer.step()
    return total, norm


def _losses(loss: Loss, outputs: Tensor, targets: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Return the loss to differentiate, of numbers divided by `unit`, and the loss to report."""
    if unit == 1:
        value = loss(outputs, targets)
        return value, value.detach()
    with torch.no_grad():  # in float64 where there is one: squares of large units exceed float32
        wide = outputs if outputs.device.type == "mps" else outputs.double()
        told = loss(wide, targets.to(wide.dtype))
    return loss(outputs / unit, targets / unit), told


def _not_finite(what: str, value: float, step: int, optimizer: torch.optim.Optimizer) -> NonFiniteError:
    lr = optimizer.param_groups[0]["lr"]
    return NonFiniteError(
        f"the {what} is {value} at step {step}, with a rate of {lr:g}; the step was not taken",
        where="train.lr",
        hint="try a smaller train.lr, or train.clip=1",
    )


@torch.no_grad()
def predict(engine: Engine, model: nn.Module, samples: Samples, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of a whole split, on the CPU, in the order of the split.

    Returns:
        outputs [n, K] or [n, K, *E] float32, and targets [n, ...].

    Raises:
        MemoryExhaustedError: a batch does not fit.
    """
    model.eval()
    outputs, targets = [], []
    with governed_by(
        "train.eval_batch_size", f"use less than {batch_size}" if batch_size > 1 else "use a smaller body"
    ):
        for chosen in batches(np.arange(len(samples)), batch_size):
            signals.check()
            batch = engine.move(samples.batch(chosen))
            with engine.autocast():
                output = model(batch.x, batch.valid)
            outputs.append(output.float().cpu())
            targets.append(batch.y.cpu())
        return torch.cat(outputs), torch.cat(targets)


def score(error: Error, outputs: Tensor, samples: Samples, targets: Tensor) -> Score:
    """Return the error of a whole split from its outputs, with the records that its samples belong to."""
    groups = samples.groups()
    return error(outputs, targets, None if groups is None else torch.from_numpy(np.asarray(groups)))
