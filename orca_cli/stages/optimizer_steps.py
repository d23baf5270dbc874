"""The optimizer steps of stage 3: the samples and the learning rate of each step.

Both are functions of the seed and the step. The rate follows A.3.5 of the paper; a step may add up
the gradients of several batches, as in A.3.3. The module also has the work of the other processes
of a run (`training/team.py`): they compute their part of each step when the first process orders
it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.config.schema import AS_PUBLISHED, Config
from orca_cli.data.fraction import Part
from orca_cli.exceptions import DataError, NonFiniteError, governed_by
from orca_cli.interfaces import Batch, Samples
from orca_cli.progress import Silent
from orca_cli.stages.build import Built, Record, build, starts_as_ridge, with_train
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine, choose_device
from orca_cli.training.loop import read_ahead, read_step, train_step
from orca_cli.training.schedule import BETAS, make_optimizer, warmup_then_linear
from orca_cli.training.team import END, Team

# Orders to the other processes; see `Team`.
_BUILD = "build"
_PLAN = "plan"
_STEP = "step"
_CPU = torch.device("cpu")
_SMALLER = (
    "lower train.batch_size and raise train.accumulation, or lower embedder.max_tokens, or use a "
    "smaller body"
)


class OptimizerSteps:
    """The optimizer steps of stage 3 on some samples; close it, since it reads batches ahead.

    Args:
        built: output of stage 1; its model must be on the engine's device.
        engine: engine of the run.
        samples: samples to train on.
        seed: seed of all draws: order, augmentation and dropout.

    Attributes:
        per_epoch: number of steps of one pass over the samples; the last step may be smaller.
        total: number of steps of all passes.
        optimizer: optimizer whose state belongs into a checkpoint. Parameters of embedder and
            predictor that start at random have `outer_rate` times the rate of all others.
        unit: unit of outputs and targets in the loss, in the task's units: one number for all
            outputs, or one for each, [K].
    """

    def __init__(self, built: Built, engine: Engine, samples: Samples, seed: int) -> None:
        train = built.plan.train
        self._built = built
        self._engine = engine
        self._samples = samples
        self._seed = seed
        # A fold or a part may have fewer samples than a step would see.
        self._settings = train.fitted(len(samples))
        if isinstance(built.loss, nn.Module):
            built.loss.to(engine.device)  # class weights
        self.per_epoch = train.steps_per_epoch(len(samples))
        self.total = train.epochs * self.per_epoch
        self.optimizer = engine.prepare(_make_optimizer(built, engine.device))
        self._reduce = "mean"
        unit = built.model.deviation
        # The released code leaves real targets in the task's units, and adds up the mean losses of
        # a step's batches (docs/protocols.md).
        if built.plan.protocol in AS_PUBLISHED:
            self._reduce = "sum"
            unit = 1.0
        self.unit = unit.to(engine.device) if isinstance(unit, Tensor) else unit

        # Drawn once an epoch; batches that are read ahead may belong to the next epoch.
        @functools.lru_cache(2)
        def order(epoch: int) -> np.ndarray:
            # Named by the epoch, so that a resumed run has the same order (decision 0003).
            generator = seeding.numpy_generator(seed, "finetune", "order", epoch)
            return generator.permutation(len(samples))

        self._order = order
        self._feed: Generator[Batch, None, None] | None = None
        self._next = 0
        self._is_shared = False

    def take(self, step: int) -> tuple[float, np.ndarray]:
        """Take one optimizer step; steps are numbered from 0.

        Steps may be taken in any order, but out of order, batches that were read ahead are read
        again.

        Returns:
            the loss as `train_step` reports it, and the rows of its samples, [m] int64.

        Raises:
            NonFiniteError, MemoryExhaustedError: the step failed; the weights are unchanged.
        """
        # Set at every step, so that no checkpoint needs the state of a schedule.
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = self.rate(step) * parameter_group["rate"]
        batch_size = self._settings.batch_size
        team = self._engine.team
        sample_rows = self._rows(step)
        with (
            # An exception by a signal inside a step would leave the other processes in a collective
            # call forever (decision 0019).
            signals.postponed() if team is not None else nullcontext(),
            governed_by("train.batch_size", _SMALLER),
        ):
            if team is not None and team.leads:
                # Once for each plan: after that, the number of a step tells the others all they
                # need.
                if not self._is_shared:
                    self._share(team)
                team.order(_STEP, step=step)
            if self._feed is None or step != self._next:
                # The first step, or a step out of order.
                self.close()
                self._feed = read_ahead(self._reads(step))
            self._next = -1  # an error leaves the feed inside the step
            num_batches = -(-len(sample_rows) // batch_size)
            loss, _ = train_step(
                self._engine,
                self._built.model,
                self.optimizer,
                self._built.loss,
                samples=self._samples,
                indices=sample_rows,
                batch_size=batch_size,
                clip=self._settings.clip or None,
                seed=self._seed,
                step=step,
                reduce=self._reduce,
                unit=self.unit,
                # The feed goes on to the batches of the next step.
                prepared=itertools.islice(self._feed, num_batches),
            )
        self._next = step + 1
        return loss, sample_rows

    def _rows(self, step: int) -> np.ndarray:
        """Return the rows of the samples that a step sees."""
        epoch, step_of_epoch = divmod(step, self.per_epoch)
        step_size = self._settings.step_size(len(self._samples))
        start = step_of_epoch * step_size
        return self._order(epoch)[start : start + step_size]

    def _reads(self, first_step: int) -> Iterator[Callable[[], Batch]]:
        """Yield calls that read the batches of a step and then of all steps after it."""
        batch_size = self._settings.batch_size
        pinned = self._engine.pin
        # Up to the end of training, so that the next step's batches are read during this one.
        for step in range(first_step, self.total):
            sample_rows = self._rows(step)
            for read in read_step(
                self._samples, sample_rows, batch_size, seed=self._seed, step=step
            ):
                # Bound now: the loop has moved on by the time that the thread calls.
                yield functools.partial(lambda read: pinned(read()), read)

    def _share(self, team: Team) -> None:
        """Let the other processes make this plan.

        They get the weights and the optimizer's state as they are now.
        """
        built = self._built
        learned = built.learned
        # Rows travel, not samples: every process has read the same data itself.
        if self._samples is learned:
            sample_rows = np.arange(len(learned))
        else:
            sample_rows = cast(Part, self._samples).rows
        team.order(
            _PLAN,
            train=dataclasses.asdict(built.plan.train),
            seed=self._seed,
            scaler=self._engine.scaler_state(),
        )
        team.share({"rows": torch.from_numpy(sample_rows.astype("int64"))}, _CPU)
        team.share_weights(built.model, self._engine.device)
        team.share(checkpoint.optimizer_tensors(self.optimizer), _CPU)
        _await_all(team)
        # From here on every process has the plan, or the error has been raised above.
        self._is_shared = True

    def close(self) -> None:
        """Stop reading ahead."""
        if self._feed is not None:
            self._feed.close()
        self._feed = None

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self._settings
        # Settings count epochs, the schedule counts steps.
        warmup_steps = settings.warmup_length * self.per_epoch
        decay_steps = (settings.decay_epochs or settings.epochs) * self.per_epoch
        return warmup_then_linear(
            step, peak=settings.lr, warmup_steps=warmup_steps, decay_steps=decay_steps
        )


def _make_optimizer(built: Built, device: torch.device) -> torch.optim.Optimizer:
    """Return an optimizer in which parameters that start at random have the outer rate."""
    train = built.plan.train
    is_body_layer = built.model.embedder.is_body_layer
    is_ridge = starts_as_ridge(built.plan, built.model)

    # A body layer and a ridge are fitted already: they learn at the rate of the body.
    def starts_random(name: str) -> bool:
        if name.startswith("embedder."):
            return not is_body_layer
        if name.startswith("predictor."):
            return not is_ridge
        return not name.startswith("body.")

    inner_parameters: list[nn.Parameter] = []
    outer_parameters: list[nn.Parameter] = []
    for name, parameter in built.model.named_parameters():
        if starts_random(name):
            outer_parameters.append(parameter)
        else:
            inner_parameters.append(parameter)
    return make_optimizer(
        train.optimizer,
        inner_parameters,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        betas=BETAS,
        outer=outer_parameters,
        outer_rate=train.outer_rate,
        # A third of the time on a CPU; on other devices torch chooses (`make_optimizer`).
        fused=device.type == "cpu",
    )


def _await_all(team: Team) -> None:
    """Return once all processes have carried out an order; raise the error if one has failed."""
    team.gathered(lambda: {}, 0)


def lead(team: Team, built: Built, engine: Engine) -> None:
    """Make the other processes build the same model as this process.

    Raises:
        OrcaError: a process cannot build the model, or has read different data.
    """
    team.order(
        _BUILD,
        precision=engine.precision,
        splits=built.summary["splits"],
        decided=built.summary["decided"],
    )
    _await_all(team)


def share(team: Team, settings: Callable[[], Config]) -> int:
    """Share the work of a run that another process leads; returns the exit code once it is over.

    A failure in a step is a failure in all processes, and the first process decides how to go on.
    So this function raises only an error that occurred in this process alone.

    Args:
        team: processes of the run.
        settings: function that composes the run's settings; it is called when the first process has
            read the data, and so has created the files that all processes share.
    """
    with ExitStack() as plans:
        order = team.listen()
        while order["name"] != END:
            try:
                if order["name"] == _BUILD:
                    built, engine = _build(team, settings, order)
                elif order["name"] == _PLAN:
                    # A plan that was replaced must not go on reading ahead.
                    plans.close()
                    steps = _follow_plan(team, built, engine, order)
                    plans.callback(steps.close)
                    _await_all(team)
                elif order["name"] == _STEP:
                    steps.take(order["step"])
            except NonFiniteError:
                pass  # the first process ends the run
            except Exception as error:
                # All processes know of `team.failure`, and the first one reports it.
                if error is not team.failure and error.__cause__ is not team.failure:
                    raise
            order = team.listen()
    return int(order["code"])


def _follow_plan(team: Team, built: Built, engine: Engine, order: Record) -> OptimizerSteps:
    """Return the steps that the first process has made, with its weights and optimizer state."""
    # Received in the order in which `_share` sends: rows, weights, optimizer.
    sample_rows = team.share({}, _CPU)["rows"].numpy()
    samples = built.learned
    # If there are as many rows as samples, the rows are all samples in their own order.
    if len(sample_rows) != len(built.learned):
        samples = Part(built.learned, sample_rows)
    team.share_weights(built.model, engine.device)
    optimizer_state = team.share({}, _CPU)
    ordered_built = with_train(built, **order["train"])
    steps = OptimizerSteps(ordered_built, engine, samples, order["seed"])
    # Before the first step an optimizer has no state.
    if optimizer_state:
        checkpoint.restore_optimizer(steps.optimizer, optimizer_state)
    engine.restore_scaler(order["scaler"])
    return steps


def _build(team: Team, settings: Callable[[], Config], order: Record) -> tuple[Built, Engine]:
    """Build the same model as the first process, on the device of this process."""
    # `gathered` tells all processes of a failure in `make`, but returns numbers only.
    built_engines: list[tuple[Built, Engine]] = []

    def make() -> dict[int, float]:
        config = settings()
        device = team.device(choose_device(config.device))
        built = build(config, Silent(), order)
        # With other data, the rows of an order would mean other samples.
        for name, split in built.summary["splits"].items():
            first_split = order["splits"][name]
            if split != first_split:
                raise DataError(
                    f"process {team.rank.number} and process 0 have read different data: "
                    f"{split['n']} samples and {first_split['n']} samples",
                    where=f"task ({name})",
                    hint="give all processes the same data folder (paths.data)",
                )
        built.model.to(device)
        built_engines.append((built, Engine(device, order["precision"], team)))
        return {}

    team.gathered(make, 0)
    return built_engines[0]
