"""One optimizer step, and the outputs of a whole split.

Processes of one run cut each batch of a step into pieces. A batch is read and augmented as a whole,
and cut afterwards, so that the samples of a step and the draws of their augmentation do not depend
on the number of processes. Dropout is drawn for each piece.
"""

import functools
import math
import threading
from collections import defaultdict, deque
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

_WAITING_BYTES = 2**26  # maximum size of the outputs that wait on a GPU
_AHEAD = 2  # number of batches that are read ahead
# Held while a thread reads: two readers of one process may share files, such as the files of a
# split.
_READING = threading.Lock()


def read_ahead(calls: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
    """Yield the results of calls in their order; a thread makes the calls, two results ahead.

    A result must not depend on when its call is made. The exception of a call is raised in place of
    its result, and ends the generator. Close the generator if it is not used up.
    """

    def read(call: Callable[[], T]) -> T:
        with _READING:
            return call()

    # A single thread: a second would only wait for the lock.
    thread = ThreadPoolExecutor(1, thread_name_prefix="orca-feed")
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(thread.submit(read, call))
            # Results that wait take memory, so no more than `_AHEAD` of them are kept.
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an exception or a close, calls that have not begun are dropped.
        thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Piece:
    """Neighbouring samples of a batch, for one process of a run.

    Args:
        batch: number of the batch in the step.
        part: number of the piece in the step, which names its draws.
        start: position of its first sample in the batch.
        stop: position after its last sample.
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
        if len(self) == len(batch.x):
            return batch
        return batch.mapped(lambda tensor: tensor[self.start : self.stop])


def pieces_of(sizes: Sequence[int], batch_size: int, rank: int, processes: int) -> list[Piece]:
    """Return the pieces of a step, of all processes, in the order of their samples.

    Pieces without samples are left out.

    Args:
        sizes: sizes of the step's batches; the last may be smaller.
        batch_size: size of the other batches.
        rank: number of this process.
        processes: number of processes.
    """
    # Every process gets a piece of the same length, except at the end of a short batch.
    piece_length = math.ceil(batch_size / processes)
    pieces = []
    for batch_number, samples_in_batch in enumerate(sizes):
        for process in range(processes):
            start = process * piece_length
            # A short batch may leave the last processes without a sample.
            if start >= samples_in_batch:
                break
            piece = Piece(
                batch=batch_number,
                # Unique within the step; with a single process, the number of the batch.
                part=batch_number * processes + process,
                start=start,
                stop=min(start + piece_length, samples_in_batch),
                is_own=process == rank,
            )
            pieces.append(piece)
    return pieces


def batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut indices into batches of `size`; the last may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def read_step(
    samples: Samples, indices: np.ndarray, batch_size: int, *, seed: int, step: int
) -> Iterator[Callable[[], Batch]]:
    """Yield, for each batch of one optimizer step, a function that reads the batch.

    The draws of its augmentation are named by the step and by the batch's number in the step.
    """

    def read(rows: np.ndarray, batch_number: int) -> Batch:
        # One generator per batch: batches may be read ahead of their step, in any order.
        draws = seeding.numpy_generator(seed, "finetune", "augment", step, batch_number)
        return samples.batch(rows, draws)

    for batch_number, rows in enumerate(batches(indices, batch_size)):
        yield functools.partial(read, rows, batch_number)


def train_step(
    engine: Engine,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    samples: Samples,
    indices: np.ndarray,
    batch_size: int,
    clip: float | None,
    seed: int,
    step: int,
    reduce: str = "mean",
    unit: float | Tensor = 1.0,
    prepared: Iterable[Batch] | None = None,
) -> tuple[float, float]:
    """Take one optimizer step on the mean loss over `indices`.

    The samples go through the model in batches of `batch_size`, of which each process has a piece.
    The mean of a piece is weighted by the number of samples or known targets that it averages over,
    so that the gradient is as with one batch of all samples. It is clipped once, as a whole.

    Args:
        samples, indices: the training split, and the rows of this step.
        batch_size, clip: as in `schema.Train`.
        seed, step: name the draws.
        reduce: mean, or sum, which adds the mean losses of the batches instead.
        unit: as in `loss_values`.
        prepared: the step's batches, if they have been read already (see `read_step`).

    Returns:
        the loss, and the gradient's norm before clipping.

    Raises:
        NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
    """
    model.train()  # `predict` leaves it in evaluation mode
    optimizer.zero_grad()
    if prepared is None:
        reads = read_step(samples, indices, batch_size, seed=seed, step=step)
        prepared = (read() for read in reads)
    batch_lengths = list(map(len, batches(indices, batch_size)))
    pieces = pieces_of(batch_lengths, batch_size, engine.rank, engine.processes)
    prepared, factors = _with_factors(engine, loss, pieces, prepared, adds_batches=reduce == "sum")

    def add_gradients() -> dict[int, Tensor]:
        """Add the gradients of this process's pieces; returns the loss of each by its index."""
        losses = {}
        # Each process reads all batches, so that augmentation draws the same.
        for batch_number, batch in enumerate(prepared):
            for piece_index, piece in enumerate(pieces):
                factor = factors[piece_index]
                # A piece with a factor of 0 has no known targets.
                if piece.batch == batch_number and piece.is_own and factor:
                    # Dropout depends on neither earlier steps nor other pieces.
                    seeding.seed_torch(seed, "finetune", "dropout", step, piece.part)
                    losses[piece_index] = _add_gradient(
                        engine, model, loss, piece.cut(batch), factor=factor, unit=unit
                    )
        return losses

    # All groups count as one vector: clipping keeps the direction of the whole gradient.
    trained: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        trained += group["params"]
    if engine.team is None:
        total_loss, gradient_norm = _gradient_alone(engine, add_gradients, trained, clip)
    else:
        total_loss, gradient_norm = _gradient_of_team(
            engine, add_gradients, trained, clip=clip, num_pieces=len(pieces)
        )
    # The model still has the weights before the step.
    if not math.isfinite(total_loss):
        raise _not_finite("loss", total_loss, optimizer, step)
    # At fp16 the scaler leaves out such a step by itself and lowers the scale.
    if not math.isfinite(gradient_norm) and not engine.skips_overflow:
        raise _not_finite("gradient", gradient_norm, optimizer, step)
    optimizer.step()
    return total_loss, gradient_norm


def _not_finite(
    quantity: str, number: float, optimizer: torch.optim.Optimizer, step: int
) -> NonFiniteError:
    """Return the error of a step whose loss or gradient is NaN or infinite."""
    rate = optimizer.param_groups[0]["lr"]
    return NonFiniteError(
        f"the {quantity} is {number} at step {step}, with a learning rate of {rate:g}; the step "
        "was not taken",
        where="train.lr",
        hint="try a smaller train.lr, or set train.clip=1",
    )


def _with_factors(
    engine: Engine,
    loss: Loss,
    pieces: Sequence[Piece],
    prepared: Iterable[Batch],
    *,
    adds_batches: bool,
) -> tuple[Iterable[Batch], list[float]]:
    """Return the batches of a step, and the factor of each piece's mean loss in the step's loss.

    Args:
        engine, loss: engine and loss of the step.
        pieces: pieces of all processes.
        prepared: the step's batches; they are read here if their known targets have to be counted.
        adds_batches: whether the loss of the step is the sum of its batches' means; else it is the
            mean over all samples.
    """
    # A loss that adds up its samples needs no weights: the sums of pieces add up to the sum of the
    # step.
    if is_sum(loss):
        return prepared, [1.0 for _ in pieces]
    # Number of a mean -> the indices of its pieces, whose factors add up to 1.
    pieces_of_means: dict[int, list[int]] = defaultdict(list)
    for piece_index, piece in enumerate(pieces):
        mean_number = piece.batch if adds_batches else 0
        pieces_of_means[mean_number].append(piece_index)
    lengths = list(map(len, pieces))
    weights: Sequence[float] = lengths
    # A mean over known targets weighs a piece by their number. The only piece of a mean has a
    # factor of 1 anyway.
    if counts_targets(loss) and len(pieces) > len(pieces_of_means):
        read_batches: list[Batch] = []

        def weigh_own() -> dict[int, float]:
            # Reading is part of the gathered work: if it fails, it must fail in all processes.
            read_batches.extend(prepared)
            own_weights = {}
            for piece_index, piece in enumerate(pieces):
                if piece.is_own:
                    own_batch = piece.cut(read_batches[piece.batch])
                    own_weights[piece_index] = weight_of(loss, own_batch.y)
            return own_weights

        weights = engine.gathered(weigh_own, len(pieces))
        # They are read now; an iterator would be used up.
        prepared = read_batches
    factors: list[float] = []
    # The pieces of one mean are neighbours, so the factors are in the order of the pieces.
    for piece_indices in pieces_of_means.values():
        weights_in_mean = [weights[piece_index] for piece_index in piece_indices]
        lengths_in_mean = [lengths[piece_index] for piece_index in piece_indices]
        factors += normalized(weights_in_mean, lengths_in_mean)
    return prepared, factors


def _add_gradient(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    factor: float,
    unit: float | Tensor,
) -> Tensor:
    """Add the gradient of a batch's mean loss times a factor; return the reported loss times it."""
    batch_on_device = engine.move(batch)
    with engine.autocast():
        outputs = model(batch_on_device.x, batch_on_device.valid)
    # Looking at the targets of `batch`, which is still on the CPU, does not wait for a GPU.
    if is_undefined(loss, batch.y):
        # With this loss, the parameters get gradients of 0.
        differentiated = outputs.sum() * 0
        reported = torch.zeros((), device=outputs.device)
    else:
        differentiated, reported = loss_values(loss, outputs, batch_on_device.y, unit)
    engine.backward(differentiated * factor)
    return reported * factor


def _gradient_alone(
    engine: Engine,
    add_gradients: Callable[[], dict[int, Tensor]],
    trained: list[nn.Parameter],
    clip: float | None,
) -> tuple[float, float]:
    """Compute and clip the gradient of a step in one process.

    Returns:
        the loss, and the gradient's norm before clipping.
    """
    # Gradients are complete before they are clipped.
    losses = add_gradients().values()
    losses_and_norm = [*losses, engine.clip(trained, clip)]
    dtypes = {number.dtype for number in losses_and_norm}
    common_dtype = torch.float64
    # MPS has no float64, and numbers that are all float32 need none.
    if engine.device.type == "mps" or dtypes == {torch.float32}:
        common_dtype = torch.float32
    # One transfer for all numbers: a step waits for the device only here.
    joined = torch.stack([number.to(common_dtype) for number in losses_and_norm])
    *losses_on_cpu, gradient_norm = joined.tolist()
    return sum(losses_on_cpu), gradient_norm


def _gradient_of_team(
    engine: Engine,
    add_gradients: Callable[[], dict[int, Tensor]],
    trained: list[nn.Parameter],
    *,
    clip: float | None,
    num_pieces: int,
) -> tuple[float, float]:
    """Compute and clip the gradient of a step that several processes share.

    Returns:
        the loss of all pieces, and the gradient's norm before clipping.
    """

    # As numbers, which the processes can exchange; a device waits here for each loss.
    def own_losses() -> dict[int, float]:
        return {index: float(loss) for index, loss in add_gradients().items()}

    def own_gradients() -> dict[int, float]:
        return {index: 1.0 for index, parameter in enumerate(trained) if parameter.grad is not None}

    losses = engine.gathered(own_losses, num_pieces)
    gradient_counts = engine.gathered(own_gradients, len(trained))
    # All processes have to add up the same list of tensors, so a process without a gradient that
    # another one has contributes zeros.
    gradients = []
    # A parameter without a gradient in every process, such as an unused layer, keeps None: an
    # optimizer skips it, while zeros would still apply momentum and weight decay.
    for parameter, gradient_count in zip(trained, gradient_counts, strict=True):
        if not gradient_count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    # Sums, not means: the factors of the pieces have weighted the losses already.
    engine.add_up(gradients)
    # Every process clips the same sum, so that all take the same step without another exchange.
    return sum(losses), float(engine.clip(trained, clip))


def loss_values(
    loss: Loss, outputs: Tensor, targets: Tensor, unit: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss to differentiate and the loss to report, of one batch.

    The loss to differentiate takes outputs and targets divided by `unit`, since a gradient depends
    on the units of the task: the gradient of a squared error shrinks with their square, and may
    fall below Adam's epsilon. The loss to report is in the task's units.

    Args:
        loss, outputs, targets: loss, and outputs and targets of the batch.
        unit: one number for all outputs, which keeps the direction of the gradient, or one for each
            output, [K], in which the loss to report is measured as well.
    """
    if isinstance(unit, Tensor):
        differentiated = loss(outputs / unit, targets / unit)
        return differentiated, differentiated.detach()
    # Dividing by 1 would cost a second evaluation of the loss.
    if unit == 1:
        differentiated = loss(outputs, targets)
        return differentiated, differentiated.detach()
    # In float64, which MPS lacks: squares of large numbers exceed float32.
    with torch.no_grad():
        wide_outputs = outputs if outputs.device.type == "mps" else outputs.double()
        reported = loss(wide_outputs, targets.to(wide_outputs.dtype))
    return loss(outputs / unit, targets / unit), reported


@torch.no_grad()
def predict(
    engine: Engine, model: nn.Module, samples: Samples, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of a whole split, on the CPU, in the order of the split.

    The model stays in evaluation mode.

    Returns:
        outputs [n, K] or [n, K, *E] in the dtype that the model gives, and targets [n, ...].

    Raises:
        MemoryExhaustedError: a batch does not fit into memory.
    """
    model.eval()
    outputs: list[Tensor] = []
    on_device: list[Tensor] = []
    targets: list[Tensor] = []
    # On the CPU a transfer copies nothing, so outputs need not wait.
    most_waiting_bytes = 0 if engine.device.type == "cpu" else _WAITING_BYTES

    def read(rows: np.ndarray) -> tuple[Batch, Tensor]:
        # Targets stay as they were read, on the CPU.
        batch = samples.batch(rows)
        return engine.pin(batch), batch.y

    def transfer_outputs() -> None:
        outputs.extend(output.cpu() for output in on_device)
        on_device.clear()

    advice = f"lower it (now {batch_size})" if batch_size > 1 else "use a smaller body"
    reads = (functools.partial(read, rows) for rows in batches(np.arange(len(samples)), batch_size))
    with (
        governed_by("train.eval_batch_size", advice),
        # Closed even if a batch fails, since its thread would go on reading.
        closing(read_ahead(reads)) as read_batches,
    ):
        for batch, batch_targets in read_batches:
            signals.check()
            batch_on_device = engine.move(batch)
            with engine.autocast():
                on_device.append(model(batch_on_device.x, batch_on_device.valid))
            targets.append(batch_targets)
            # Few transfers of many outputs: each waits until the GPU has computed them all.
            if sum(output.nbytes for output in on_device) > most_waiting_bytes:
                transfer_outputs()
        transfer_outputs()
        return torch.cat(outputs), torch.cat(targets)


def score(error: Error, outputs: Tensor, samples: Samples, targets: Tensor) -> Score:
    """Return the error of a whole split from its outputs, with the records of its samples."""
    return error(outputs.numpy(), targets.numpy(), samples.groups())


@torch.no_grad()
def whole_loss(
    engine: Engine,
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    *,
    batch_size: int,
    unit: float | Tensor = 1.0,
) -> float | None:
    """Return the loss of a whole split as `train_step` reports it; None if it is not finite.

    It takes the outputs of `predict`, `batch_size` samples at a time, which bounds the memory.
    """
    rows_of_batches = batches(np.arange(len(outputs)), batch_size)
    # The shares add up to 1, and a short last batch counts by its samples or known targets.
    factors = shares(loss, [targets[rows] for rows in rows_of_batches])
    total_loss = 0.0
    for rows, factor in zip(rows_of_batches, factors, strict=True):
        # A batch with a factor of 0 has no known targets.
        if factor:
            # Outputs take the place of inputs: the loss is computed on the device of the run.
            batch_on_device = engine.move(Batch(outputs[rows], targets[rows]))
            _, reported = loss_values(loss, batch_on_device.x, batch_on_device.y, unit)
            total_loss += float(reported) * factor
    # A loss is reported as None rather than NaN, which JSON lacks.
    return total_loss if math.isfinite(total_loss) else None
