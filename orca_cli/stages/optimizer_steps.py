"""The optimizer steps of stage 3: which samples each sees, and at what rate; a function of the seed and the step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.config.practices import PRACTICES
from orca_cli.exceptions import MemoryExhaustedError
from orca_cli.interfaces import Batch, Samples
from orca_cli.stages import ridge_start
from orca_cli.stages.build import Built
from orca_cli.stages.pare import Mixing
from orca_cli.stages.plan import TrainPlan
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.activations import cast_once
from orca_cli.training.engine import Engine
from orca_cli.training.feed import Feed
from orca_cli.training.loop import read_step, train_step
from orca_cli.training.memory import StepMemoryError, governed_by
from orca_cli.training.schedule import BETAS, make_optimizer, set_lr, warmup_then_linear
from orca_cli.training.team import Team

PLAN, STEP = "plan", "step"  # orders; see `Team`
_SMALLEST = "use a smaller body or embedder.max_tokens"


@dataclass(frozen=True)
class _Read:
    """A batch of an optimizer step; the samples of the step, and how many of its batches follow."""

    batch: Batch
    indices: np.ndarray
    more: int


def _reads(
    engine: Engine, samples: Samples, settings: TrainPlan, seed: int, steps: range
) -> Iterator[Callable[[], _Read]]:
    """Yield what reads the batches of some steps, one after the other; the order of an epoch is drawn once."""
    batch_size = settings.batch_size
    size = batch_size * settings.accumulation
    per_epoch = -(-len(samples) // size)
    drawn, order = -1, np.empty(0, np.int64)
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        if epoch != drawn:
            order = seeding.numpy_generator(seed, "finetune", "order", epoch).permutation(len(samples))
            drawn = epoch
        chosen = order[place * size : (place + 1) * size]
        reads = list(read_step(samples, chosen, batch_size, seed=seed, step=step))
        for part, read in enumerate(reads):
            yield functools.partial(_read, engine, read, chosen, len(reads) - 1 - part)


def _read(engine: Engine, read: Callable[[], Batch], indices: np.ndarray, more: int) -> _Read:
    return _Read(engine.pin(read()), indices, more)


def loss_unit(built: Built) -> float | Tensor:
    """Return the unit of outputs and targets in the loss, in the task's: one for all, or one for each, [K]."""
    return 1.0 if PRACTICES[built.plan.protocol].uses_task_units else built.model.deviation


class OptimizerSteps:
    """The optimizer steps of one run's stage 3.

    Batches are read ahead, so close it or use it as a context manager. Inside the context, frozen weights of the body are
    cast to the precision of the forward passes.

    `mixing` is what `align.method=pare` trains beside the model, else None.

    Args:
        built: model, loss, training split and settings; which parameters train is chosen before.
        engine: the device.
        steps: how many will be taken, from step 0; nothing is read beyond. Default: all.
        samples: what is trained on. Default: the training split.
        seed: of all draws. Default: the run's.
    """

    def __init__(
        self,
        built: Built,
        engine: Engine,
        steps: int | None = None,
        *,
        samples: Samples | None = None,
        seed: int | None = None,
    ) -> None:
        plan = built.plan
        self._train = plan.train
        self._samples = built.task.train if samples is None else samples
        self._settings = plan.train.fitted(len(self._samples))
        self._seed, self._built, self._engine = plan.seed if seed is None else seed, built, engine
        self._sums_batches = PRACTICES[plan.protocol].sums_batches
        if isinstance(built.loss, nn.Module):
            built.loss.to(engine.device)  # weights of classes
        self.per_epoch = plan.train.steps_per_epoch(len(self._samples))
        self._steps = plan.train.epochs * self.per_epoch if steps is None else steps
        body: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        prefixes = tuple(f"{part}." for part in self._known_parts())
        for name, parameter in built.model.named_parameters():
            (body if name.startswith(prefixes) else outer).append(parameter)
        self.mixing = self._made_mixing()
        if self.mixing is not None:
            outer += self.mixing.parameters()
        optimizer = make_optimizer(
            plan.train.optimizer,
            body,
            lr=plan.train.lr,
            weight_decay=plan.train.weight_decay,
            momentum=plan.train.momentum,
            betas=BETAS,
            outer=outer,
            outer_rate=plan.train.outer_rate,
            fused=engine.device.type == "cpu",
        )
        self.optimizer = engine.prepare(optimizer)
        unit = loss_unit(built)
        self.unit = unit.to(engine.device) if isinstance(unit, Tensor) else unit  # of outputs and targets in the loss
        self._feed: Feed[_Read] | None = None
        self._next = 0
        self._is_shared = False
        self._casts = ExitStack()

    def _known_parts(self) -> list[str]:
        """Return the parts of the model that do not start at random, and so learn at the rate of the body."""
        parts = {
            "body": True,
            "embedder": getattr(self._built.model.embedder, "is_body_layer", False),
            "predictor": ridge_start.is_wanted(self._built.plan, self._built.model),
        }
        return [name for name, is_known in parts.items() if is_known]

    def _made_mixing(self) -> Mixing | None:
        """Return what mixes source tokens into the samples; None for methods that do not."""
        plan = self._built.plan
        source = self._built.source if plan.align.method == "pare" else None
        if source is None:
            return None
        steps = plan.train.epochs * self.per_epoch
        mixing = Mixing(self._built.model.body, source, plan.align, steps=steps, seed=self._seed)
        return mixing.to(self._engine.device)

    def take(self, step: int) -> tuple[float, np.ndarray]:
        """Take step 0, 1, ...; returns the mean loss over its samples, and their places among all.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
            MemoryExhaustedError: not even one sample fits.
        """
        set_lr(self.optimizer, self.rate(step))
        while True:
            try:
                with signals.postponed() if self._engine.team is not None else nullcontext():
                    return self._taken(step)
            except StepMemoryError as error:
                if self._engine.team is not None and not self._engine.team.leads:
                    raise  # the first process says what is next
                cause = error.with_traceback(None)
            cause.__cause__ = cause.__context__ = None  # its frames hold the activations
            self._split_further(step, cause)

    def _taken(self, step: int) -> tuple[float, np.ndarray]:
        settings, team = self._settings, self._engine.team
        if team is not None and team.leads:
            if not self._is_shared:
                self._share(team)
            team.order(STEP, step=step, splits=self._engine.cuts.splits)
        with governed_by("train.batch_size", _smaller(settings)):
            feed = self._feed_from(step)
            first = next(feed)
            loss, _ = train_step(
                self._engine,
                self._built.model,
                self.optimizer,
                self._built.loss,
                self._samples,
                first.indices,
                batch_size=settings.batch_size,
                clip=settings.clip or None,
                seed=self._seed,
                step=step,
                reduce="sum" if self._sums_batches else "mean",
                unit=self.unit,
                mixer=None if self.mixing is None else self.mixing.at(step),
                prepared=itertools.chain([first.batch], (read.batch for read in itertools.islice(feed, first.more))),
            )
        self._next = step + 1
        return loss, first.indices

    def _share(self, team: Team) -> None:
        """Let the other processes make this plan, and give them the weights and the optimizer's state as they are now."""
        place = team.locate(self._samples)
        assert place is not None, "what is trained on is a split that all processes have"
        scaler = self._engine.scaler_state()
        team.order(PLAN, split=place[0], train=dataclasses.asdict(self._train), seed=self._seed, scaler=scaler)
        team.share({"rows": place[1]}, torch.device("cpu"))
        team.share_weights(self._built.model, self._engine.device)
        team.share(checkpoint.optimizer_tensors(self.optimizer), torch.device("cpu"))
        team.gathered(lambda: {}, 0)
        self._is_shared = True

    def _split_further(self, step: int, cause: StepMemoryError) -> None:
        """Go on in pieces half as long, which say the same, where the batches of a step do not fit.

        Raises:
            MemoryExhaustedError: not even one sample fits.
        """
        size, cuts = self._settings.batch_size, self._engine.cuts
        if not self._engine.split_further(size):
            raise MemoryExhaustedError(cause.what, where=cause.where, hint=_SMALLEST) from cause
        before, after = cuts.longest(size), self._engine.cuts.longest(size)
        log.warning(
            f"finetune: not enough memory for {before} samples at a time; from step {step + 1} on {after} at a time, which add "
            f"up to the same steps (train.batch_size={size})"
        )

    def close(self) -> None:
        """Stop reading ahead."""
        if self._feed is not None:
            self._feed.close()
        self._feed = None

    def __enter__(self) -> Self:
        # Processes of a team share all weights, in full; PARE sends source tokens through the body as well; a compiled layer
        # would be compiled once more.
        if self._engine.team is None and self.mixing is None and not self._train.compile:
            self._casts.enter_context(cast_once(self._built.model.body, self._engine.precision))
        return self

    def __exit__(self, *error: object) -> None:
        self._casts.close()
        self.close()

    def _feed_from(self, step: int) -> Feed[_Read]:
        if self._feed is None or step != self._next or step >= self._steps:
            self.close()
            last = max(self._steps, step + 1)
            self._feed = Feed(_reads(self._engine, self._samples, self._settings, self._seed, range(step, last)))
        # An error leaves the feed inside the step.
        self._next = -1
        return self._feed

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self._settings
        return warmup_then_linear(
            step,
            peak=settings.lr,
            warmup_steps=settings.warmup_length * self.per_epoch,
            decay_steps=(settings.decay_epochs or settings.epochs) * self.per_epoch,
        )


def _smaller(settings: TrainPlan) -> str:
    """Return settings that take the same steps with half the memory for activations."""
    size = settings.batch_size
    if size == 1:
        return _SMALLEST
    half = -(-size // 2)
    return f"try train.batch_size={half} train.accumulation={settings.accumulation * 2}, or embedder.max_tokens"
