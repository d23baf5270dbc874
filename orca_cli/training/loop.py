"""One optimizer step, and the outputs of a whole split.

Processes of one run cut each batch of a step into pieces. It is read and augmented as a whole, and cut afterwards: the samples
of a step, and what is drawn for them, do not depend on how many processes share it. Dropout is drawn for each piece.
"""

import functools
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.exceptions import NonFiniteError, governed_by
from orca_cli.interfaces import Batch, Error, Loss, Samples, Score
from orca_cli.scoring.losses import (
    counts_targets,
    is_sum,
    is_undefined,
    normalized,
    shares,
    weight_of,
)
from orca_cli.training.engine import Engine

T = TypeVar("T")

_WAITING_BYTES = 2**26  # of outputs that wait on a GPU
_AHEAD = 2  # batches that wait
_READING = (
    threading.Lock()
)  # two readers of one process share files, such as the splits of a task; one reads at a time


def read_ahead(calls: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
    """Yield the results of calls in their order; a thread makes them, at most two results ahead. Close it if not used up.

    What a call returns must not depend on the moment. An exception comes out when its turn has come, as if the call were made
    then, and ends the results.
    """

    def read(call: Callable[[], T]) -> T:
        with _READING:
            return call()

    thread = ThreadPoolExecutor(1, thread_name_prefix="orca-feed")
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(thread.submit(read, call))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Piece:
    """Neighbouring samples of a batch, for one process of a run.

    Args:
        batch: number of the batch in the step.
        part: number of the piece in the step, which names its draws.
        start, stop: its first sample in the batch, and the one after its last.
        is_own: whether this process computes it.
    """

    batch: int
    part: int
    start: int
    stop: int
    is_own: bool

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, batch: Batch) -> Batch:
        """Return the samples of the piece; they share the batch's memory."""
        return (
            batch
            if len(self) == len(batch.x)
            else batch.mapped(lambda value: value[self.start : self.stop])
        )


def pieces_of(sizes: Sequence[int], batch_size: int, rank: int, processes: int) -> list[Piece]:
    """Return the pieces of a step that have samples, those of all processes, in order.

    Args:
        sizes: of the step's batches; the last may be shorter.
        batch_size: of a whole one.
        rank, processes: number of this process, and of all.
    """
    length = -(-batch_size // processes)
    return [
        Piece(
            number,
            number * processes + place,
            place * length,
            min((place + 1) * length, size),
            place == rank,
        )
        for number, size in enumerate(sizes)
        for place in range(processes)
        if place * length < size
    ]


def batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into runs of `size`; the last may be shorter."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def read_step(
    samples: Samples, indices: np.ndarray, batch_size: int, *, seed: int, step: int
) -> Iterator[Callable[[], Batch]]:
    """Yield what reads the batches of one optimizer step; augmentation is drawn for each by the step and its place."""

    def read(chosen: np.ndarray, part: int) -> Batch:
        return samples.batch(
            chosen, seeding.numpy_generator(seed, "finetune", "augment", step, part)
        )

    for part, chosen in enumerate(batches(indices, batch_size)):
        yield functools.partial(read, chosen, part)


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
) -> tuple[float, float]:
    """Take one optimizer step on the mean loss over `indices`; returns (loss, gradient norm before clipping).

    The samples go through the model in batches of `batch_size`, of which each process has a piece. The mean of a piece is
    weighted by what it averages over, samples or known targets, so that the gradient is that of one batch of all samples. With
    reduce="sum" the means of all batches are added instead. The gradient is clipped once, as a whole.

    Args:
        samples, indices: the training split, and the rows of this step.
        batch_size, clip, unit: the first two as in `schema.Train`, the last as in `loss_values`.
        seed, step: name the draws.
        prepared: the step's batches, where they have been read already (see `read_step`).

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
    """
    model.train()
    optimizer.zero_grad()
    if prepared is None:
        prepared = (
            read() for read in read_step(samples, indices, batch_size, seed=seed, step=step)
        )
    sizes = [len(chosen) for chosen in batches(indices, batch_size)]
    pieces = pieces_of(sizes, batch_size, engine.rank, engine.processes)
    prepared, shares = _shares(engine, loss, pieces, prepared, reduce)

    def gradient() -> dict[int, Tensor]:
        values = {}
        for number, batch in enumerate(
            prepared
        ):  # each process reads all, so that augmentation draws the same
            for place, piece in enumerate(pieces):
                if (
                    piece.batch == number and piece.is_own and shares[place]
                ):  # without a share it teaches nothing
                    seeding.seed_torch(seed, "finetune", "dropout", step, piece.part)
                    values[place] = _add_gradient(
                        engine, model, loss, piece.cut(batch), shares[place], unit
                    )
        return values

    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses, norm = _summed(engine, gradient, len(pieces), trained, clip)
    total, lr = sum(losses), optimizer.param_groups[0]["lr"]
    for name, value in (("loss", total), ("gradient", norm)):
        if not (math.isfinite(value) or (name == "gradient" and engine.skips_overflow)):
            what = f"the {name} is {value} at step {step}, with a rate of {lr:g}; the step was not taken"
            raise NonFiniteError(
                what, where="train.lr", hint="try a smaller train.lr, or train.clip=1"
            )
    optimizer.step()
    return total, norm


def _shares(
    engine: Engine, loss: Loss, pieces: Sequence[Piece], prepared: Iterable[Batch], reduce: str
) -> tuple[Iterable[Batch], list[float]]:
    """Return the batches of a step, and the factor of each piece's mean loss in the loss of the step."""
    if is_sum(loss):
        return prepared, [1.0] * len(pieces)
    # The means of batches are added up where `reduce` says so; else a piece has a share of the step.
    numbers = [piece.batch if reduce == "sum" else 0 for piece in pieces]
    sizes = [len(piece) for piece in pieces]
    weights = [float(size) for size in sizes]
    if counts_targets(loss) and len(pieces) > len(set(numbers)):
        whole: list[Batch] = []

        def weigh_pieces() -> dict[int, float]:
            whole.extend(prepared)
            mine = ((place, piece) for place, piece in enumerate(pieces) if piece.is_own)
            return {
                place: weight_of(loss, piece.cut(whole[piece.batch]).y) for place, piece in mine
            }

        weights = engine.gathered(weigh_pieces, len(pieces))
        prepared = whole
    step_shares: list[float] = []
    for _, group in itertools.groupby(range(len(pieces)), numbers.__getitem__):
        places = list(group)
        step_shares += normalized(
            [weights[place] for place in places], [sizes[place] for place in places]
        )
    return prepared, step_shares


def _add_gradient(
    engine: Engine, model: nn.Module, loss: Loss, batch: Batch, share: float, unit: float | Tensor
) -> Tensor:
    """Add the gradient of a batch's mean loss times its share; returns that product as it is reported."""
    moved = engine.move(batch)
    with engine.autocast():
        outputs = model(moved.x, moved.valid)
    if is_undefined(loss, batch.y):  # what was read lies on the CPU: looking at it waits for no GPU
        value, reported = outputs.sum() * 0, torch.zeros((), device=outputs.device)
    else:
        value, reported = loss_values(loss, outputs, moved.y, unit)
    engine.backward(value * share)
    return reported * share


def _summed(
    engine: Engine,
    gradient: Callable[[], dict[int, Tensor]],
    count: int,
    trained: list[nn.Parameter],
    clip: float | None,
) -> tuple[list[float], float]:
    """Compute the gradient of a step, of all processes; returns the losses of its pieces and the norm before clipping."""
    if engine.team is None:
        numbers = [*gradient().values(), engine.clip(trained, clip)]
        is_narrow = numbers[0].device.type == "mps" or {number.dtype for number in numbers} == {
            torch.float32
        }
        wide = torch.float32 if is_narrow else torch.float64
        *losses, norm = torch.stack(
            [number.to(wide) for number in numbers]
        ).tolist()  # in one transfer
        return losses, norm
    losses = engine.gathered(
        lambda: {place: float(value) for place, value in gradient().items()}, count
    )
    held = {place: 1.0 for place, parameter in enumerate(trained) if parameter.grad is not None}
    counts = engine.gathered(lambda: held, len(trained))
    # A parameter that has no gradient anywhere is left without.
    used = [parameter for parameter, count in zip(trained, counts, strict=True) if count]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    engine.team.add_up([parameter.grad for parameter in used if parameter.grad is not None])
    return losses, float(engine.clip(trained, clip))


def loss_values(
    loss: Loss, outputs: Tensor, targets: Tensor, unit: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss to differentiate, of numbers divided by `unit`, and the loss to report, in the task's units.

    A gradient in the task's units would depend on them: that of a squared error shrinks with their square, and falls below
    Adam's epsilon. One unit for all outputs keeps its direction.

    Args:
        loss, outputs, targets: of a batch.
        unit: in which outputs and targets are measured, in the task's units: one for all outputs, or one for each, [K]; the
            loss to report is then in these units as well.
    """
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


@torch.no_grad()
def predict(
    engine: Engine, model: nn.Module, samples: Samples, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of a whole split, on the CPU, in the order of the split; leaves the model in evaluation mode.

    Returns:
        outputs [n, K] or [n, K, *E] in the dtype that the model gives, and targets [n, ...].

    Raises:
        MemoryExhaustedError: a batch does not fit.
    """
    model.eval()
    outputs: list[Tensor] = []
    waiting: list[Tensor] = []
    targets: list[Tensor] = []
    most = 0 if engine.device.type == "cpu" else _WAITING_BYTES

    def read(rows: np.ndarray) -> tuple[Batch, Tensor]:
        batch = samples.batch(rows)
        return engine.pin(batch), batch.y  # targets stay as they were read

    reads = (functools.partial(read, rows) for rows in batches(np.arange(len(samples)), batch_size))
    with (
        governed_by(
            "train.eval_batch_size",
            f"use less than {batch_size}" if batch_size > 1 else "use a smaller body",
        ),
        closing(read_ahead(reads)) as results,
    ):
        for batch, batch_targets in results:
            signals.check()
            moved = engine.move(batch)
            with engine.autocast():
                waiting.append(model(moved.x, moved.valid))
            targets.append(batch_targets)
            # Outputs leave a GPU many at a time: a transfer waits for all that is being computed.
            if sum(output.nbytes for output in waiting) > most:
                outputs.extend(output.cpu() for output in waiting)
                waiting.clear()
        outputs.extend(output.cpu() for output in waiting)
        return torch.cat(outputs), torch.cat(targets)


def score(error: Error, outputs: Tensor, samples: Samples, targets: Tensor) -> Score:
    """Return the error of a whole split from its outputs, with the records that its samples belong to."""
    return error(outputs.numpy(), targets.numpy(), samples.groups())


@torch.no_grad()
def whole_loss(
    engine: Engine,
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    batch_size: int,
    unit: float | Tensor = 1.0,
) -> float | None:
    """Return the loss of a whole split as `train_step` reports it, from the outputs of `predict`; None if it is not finite.

    It is computed with `batch_size` samples at once, which bounds the memory.
    """
    parts = batches(np.arange(len(outputs)), batch_size)
    total = 0.0
    for rows, share in zip(parts, shares(loss, [targets[rows] for rows in parts]), strict=True):
        if share:
            moved = engine.move(Batch(outputs[rows], targets[rows]))
            total += float(loss_values(loss, moved.x, moved.y, unit)[1]) * share
    return total if math.isfinite(total) else None
