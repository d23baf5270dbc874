"""One optimizer step, and the outputs of a whole split."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Batch, Error, Loss, Samples, Score
from orca_cli.losses.weights import counts_targets, is_sum, shares
from orca_cli.training.engine import Engine
from orca_cli.training.feed import Feed
from orca_cli.training.memory import governed_by

_WAITING_BYTES = 2**26  # of outputs that wait on a GPU


@dataclass(frozen=True)
class Mixed:
    """What a model made of samples that something else was mixed into.

    Args:
        outputs: for the samples' own task.
        share: scalar in 0..1, of `loss` in what is differentiated; the rest is that of the samples' own.
        loss: scalar, of what was mixed in.
    """

    outputs: Tensor
    share: Tensor
    loss: Tensor


Mixer = Callable[[Any, Batch, int], Mixed]  # model, batch on the device, number of the batch in its step


def batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into runs of `size`; the last may be shorter."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def read_step(
    samples: Samples, indices: np.ndarray, batch_size: int, *, seed: int, step: int
) -> Iterator[Callable[[], Batch]]:
    """Yield what reads the batches of one optimizer step; augmentation is drawn for each by the step and its place."""
    for part, chosen in enumerate(batches(indices, batch_size)):
        yield functools.partial(_read, samples, chosen, seed, step, part)


def _read(samples: Samples, chosen: np.ndarray, seed: int, step: int, part: int) -> Batch:
    return samples.batch(chosen, seeding.numpy_generator(seed, "finetune", "augment", step, part))


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
    unit: float | Tensor = 1.0,
    prepared: Iterable[Batch] | None = None,
    mixer: Mixer | None = None,
) -> tuple[float, float]:
    """Take one optimizer step on the mean loss over `indices`; returns (loss, gradient norm before clipping).

    The samples go through the model in batches of `batch_size`; each batch's mean counts by what it averages over, its
    samples or its known targets, so accumulation does not change the gradient. With reduce="sum" the means of all batches are
    added. The gradient is clipped once, as a whole.

    What is differentiated is the loss of outputs and targets divided by `unit`. A loss in the task's units would make the
    gradient depend on them: that of a squared error shrinks with their square, and falls below Adam's epsilon. One unit for
    all outputs keeps its direction. The loss that is returned is in the task's units, or in those of the outputs where each has
    its own.

    The CPU waits for a GPU once a step, for losses and norm together (at fp16 its scaler asks a second time).

    Args:
        engine, model, optimizer, loss: what computes.
        samples: the training split.
        indices: of the step's samples.
        batch_size, clip, reduce: as in `schema.Train`.
        seed: the run's.
        step: names the step's draws.
        unit: in which outputs and targets are measured, in the task's units: one for all outputs, or one for each, [K].
        prepared: the step's batches, where they have been read already (see `read_step`).
        mixer: computes the outputs in the model's place, of samples that it mixes something into; the loss that is returned
            is that of the samples' own task.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
    """
    model.train()
    optimizer.zero_grad()
    sizes = [len(chosen) for chosen in batches(indices, batch_size)]
    if prepared is None:
        prepared = (read() for read in read_step(samples, indices, batch_size, seed=seed, step=step))
    if reduce == "sum" or is_sum(loss):
        weights = [1.0] * len(sizes)
    elif len(sizes) > 1 and counts_targets(loss):
        prepared = list(prepared)
        weights = shares(loss, [batch.y for batch in prepared])
    else:
        weights = [size / len(indices) for size in sizes]
    numbers = []
    for part, (batch, share) in enumerate(zip(prepared, weights, strict=True)):
        if share == 0:  # nothing to learn from, and torch's cross-entropy of no class would be NaN
            continue
        seeding.seed_torch(seed, "finetune", "dropout", step, part)
        moved = engine.move(batch)
        with engine.autocast():
            mixed = None if mixer is None else mixer(model, moved, part)
            outputs = model(moved.x, moved.valid) if mixed is None else mixed.outputs
        value, reported = loss_values(loss, outputs.float(), moved.y, unit)
        if moved.partner is not None:
            of_partner = loss_values(loss, outputs.float(), moved.partner, unit)
            value, reported = (
                moved.share * own + (1 - moved.share) * other
                for own, other in zip((value, reported), of_partner, strict=True)
            )
        if mixed is not None:
            value = (1 - mixed.share) * value + mixed.share * mixed.loss
        numbers.append(reported * share)
        engine.backward(value * share)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers.append(engine.clip(trained, clip))
    *losses, norm = _on_the_cpu(numbers)
    total = sum(losses)
    if not math.isfinite(total):
        raise _not_finite("loss", total, step, optimizer)
    if not (math.isfinite(norm) or engine.skips_overflow):
        raise _not_finite("gradient", norm, step, optimizer)
    optimizer.step()
    return total, norm


def _on_the_cpu(numbers: Sequence[Tensor]) -> list[float]:
    """Return scalars in one transfer."""
    kinds = {number.dtype for number in numbers}
    wide = torch.float32 if numbers[0].device.type == "mps" or kinds == {torch.float32} else torch.float64
    return torch.stack([number.to(wide) for number in numbers]).tolist()


def loss_values(loss: Loss, outputs: Tensor, targets: Tensor, unit: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss to differentiate, of numbers divided by `unit`, and the loss to report."""
    if isinstance(unit, Tensor):
        value = loss(outputs / unit, targets / unit)
        return value, value.detach()
    if unit == 1:
        value = loss(outputs, targets)
        return value, value.detach()
    with torch.no_grad():  # in float64 where there is one: squares of large units exceed float32
        wide = outputs if outputs.device.type == "mps" else outputs.double()
        reported = loss(wide, targets.to(wide.dtype))
    return loss(outputs / unit, targets / unit), reported


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
    outputs: list[Tensor] = []
    waiting: list[Tensor] = []
    targets: list[Tensor] = []
    most = 0 if engine.device.type == "cpu" else _WAITING_BYTES
    reads = (functools.partial(_pinned, engine, samples, rows) for rows in batches(np.arange(len(samples)), batch_size))
    with (
        governed_by("train.eval_batch_size", f"use less than {batch_size}" if batch_size > 1 else "use a smaller body"),
        Feed(reads) as feed,
    ):
        for batch, known in feed:
            signals.check()
            moved = engine.move(batch)
            with engine.autocast():
                waiting.append(model(moved.x, moved.valid).float())
            targets.append(known)
            # Outputs leave a GPU many at a time: a transfer waits for all that is being computed.
            if sum(output.nbytes for output in waiting) > most:
                outputs.extend(output.cpu() for output in waiting)
                waiting.clear()
        outputs.extend(output.cpu() for output in waiting)
        return torch.cat(outputs), torch.cat(targets)


def _pinned(engine: Engine, samples: Samples, rows: np.ndarray) -> tuple[Batch, Tensor]:
    """Return a batch to compute with, and its targets as they were read."""
    batch = samples.batch(rows)
    return engine.pin(batch), batch.y


def score(error: Error, outputs: Tensor, samples: Samples, targets: Tensor) -> Score:
    """Return the error of a whole split from its outputs, with the records that its samples belong to."""
    groups = samples.groups()
    return error(outputs, targets, None if groups is None else torch.from_numpy(np.asarray(groups)))


@torch.no_grad()
def whole_loss(
    engine: Engine, loss: Loss, outputs: Tensor, targets: Tensor, batch_size: int, unit: float | Tensor = 1.0
) -> float | None:
    """Return the loss of a whole split as `train_step` reports it, from the outputs of `predict`; None if it is not finite.

    Args:
        engine, loss: what computes.
        outputs, targets: of the split.
        batch_size: samples that are computed with at once, which bounds the memory.
        unit: as in `train_step`.
    """
    parts = batches(np.arange(len(outputs)), batch_size)
    weights = shares(loss, [targets[rows] for rows in parts])
    total = 0.0
    for rows, share in zip(parts, weights, strict=True):
        if share == 0:
            continue
        moved = engine.move(Batch(outputs[rows], targets[rows]))
        total += float(loss_values(loss, moved.x, moved.y, unit)[1]) * share
    return total if math.isfinite(total) else None
