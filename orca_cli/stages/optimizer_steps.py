"""The optimizer steps of stage 3: which samples each sees, and at what rate; a function of the seed and the step.

Also what the other processes of a run do (`training/team.py`): their part of each step, as ordered.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.config.schema import AS_PUBLISHED, Config
from orca_cli.data.fraction import Part
from orca_cli.exceptions import ConfigError, DataError, NonFiniteError, OrcaError
from orca_cli.interfaces import Batch, Samples
from orca_cli.progress import Silent
from orca_cli.stages import ridge_start
from orca_cli.stages.build import Built, build, with_train
from orca_cli.stages.pare import Mixing
from orca_cli.stages.plan import TrainPlan
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine, choose_device
from orca_cli.training.loop import read_ahead, read_step, train_step
from orca_cli.training.memory import governed_by
from orca_cli.training.schedule import BETAS, make_optimizer, set_lr, warmup_then_linear
from orca_cli.training.team import END, Team

_PLAN, _STEP = "plan", "step"  # orders; see `Team`
_CPU = torch.device("cpu")
_SMALLER = "lower it and raise train.accumulation, or use a smaller body or embedder.max_tokens"


class _Read(NamedTuple):
    """A batch of an optimizer step; the samples of the step, and how many of its batches follow."""

    batch: Batch
    indices: np.ndarray
    more: int


def _reads(
    engine: Engine, samples: Samples, settings: TrainPlan, seed: int, steps: range
) -> Iterator[Callable[[], _Read]]:
    """Yield what reads the batches of some steps, one after the other; the order of an epoch is drawn once."""
    size = settings.batch_size * settings.accumulation
    per_epoch = -(-len(samples) // size)
    drawn, order = -1, np.empty(0, np.int64)

    def read(call: Callable[[], Batch], indices: np.ndarray, more: int) -> _Read:
        return _Read(engine.pin(call()), indices, more)

    for step in steps:
        epoch, place = divmod(step, per_epoch)
        if epoch != drawn:
            order = seeding.numpy_generator(seed, "finetune", "order", epoch).permutation(len(samples))
            drawn = epoch
        chosen = order[place * size : (place + 1) * size]
        calls = list(read_step(samples, chosen, settings.batch_size, seed=seed, step=step))
        for part, call in enumerate(calls):
            yield functools.partial(read, call, chosen, len(calls) - 1 - part)


def loss_unit(built: Built, device: torch.device) -> float | Tensor:
    """Return the unit of outputs and targets in the loss, in the task's: one for all, or one for each, [K]."""
    unit = 1.0 if built.plan.protocol in AS_PUBLISHED else built.model.deviation
    return unit.to(device) if isinstance(unit, Tensor) else unit


class OptimizerSteps:
    """The optimizer steps of one run's stage 3. Batches are read ahead, so close it.

    Attributes:
        mixing: what `align.method=pare` trains beside the model, else None.
        unit: of outputs and targets in the loss, see `loss_unit`.

    Args:
        built: model, loss and settings; which parameters train is chosen before.
        engine: the device.
        samples: what is trained on.
        seed: of all draws.
    """

    def __init__(self, built: Built, engine: Engine, samples: Samples, seed: int) -> None:
        plan, model = built.plan, built.model
        self._settings = plan.train.fitted(len(samples))
        self._samples, self._seed, self._built, self._engine = samples, seed, built, engine
        if isinstance(built.loss, nn.Module):
            built.loss.to(engine.device)  # weights of classes
        self.per_epoch = plan.train.steps_per_epoch(len(samples))
        self._total = plan.train.epochs * self.per_epoch
        # Parts of the model that do not start at random, and so learn at the rate of the body.
        known = {
            "body.": True,
            "embedder.": getattr(model.embedder, "is_body_layer", False),
            "predictor.": ridge_start.is_wanted(plan, model),
        }
        prefixes = tuple(prefix for prefix, is_known in known.items() if is_known)
        body: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (body if name.startswith(prefixes) else outer).append(parameter)
        self.mixing: Mixing | None = None
        if plan.align.method == "pare" and built.source is not None:
            mixing = Mixing(model.body, built.source, plan.align, steps=self._total, seed=seed)
            self.mixing = mixing.to(engine.device)
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
        self.unit = loss_unit(built, engine.device)
        self._feed: Generator[_Read, None, None] | None = None
        self._next = 0
        self._is_shared = False

    def take(self, step: int) -> tuple[float, np.ndarray]:
        """Take step 0, 1, ...; returns the mean loss over its samples, and their places among all.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
            MemoryExhaustedError: a batch does not fit; the weights are as before.
        """
        set_lr(self.optimizer, self.rate(step))
        with signals.postponed() if self._engine.team is not None else nullcontext():
            return self._taken(step)

    def _taken(self, step: int) -> tuple[float, np.ndarray]:
        settings, team = self._settings, self._engine.team
        if team is not None and team.leads:
            if not self._is_shared:
                self._share(team)
            team.order(_STEP, step=step)
        with governed_by("train.batch_size", _SMALLER):
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
                reduce="sum" if self._built.plan.protocol in AS_PUBLISHED else "mean",
                unit=self.unit,
                mixer=None if self.mixing is None else self.mixing.at(step),
                prepared=itertools.chain([first.batch], (read.batch for read in itertools.islice(feed, first.more))),
            )
        self._next = step + 1
        return loss, first.indices

    def _share(self, team: Team) -> None:
        """Let the other processes make this plan, and give them the weights and the optimizer's state as they are now."""
        samples = self._samples
        is_part = isinstance(samples, Part) and samples.whole is self._built.learned
        rows = cast(Part, samples).rows if is_part else np.arange(len(samples))
        scaler = self._engine.scaler_state()
        team.order(_PLAN, train=dataclasses.asdict(self._built.plan.train), seed=self._seed, scaler=scaler)
        team.share({"rows": torch.from_numpy(rows.astype("int64"))}, _CPU)
        team.share_weights(self._built.model, self._engine.device)
        team.share(checkpoint.optimizer_tensors(self.optimizer), _CPU)
        team.gathered(lambda: {}, 0)
        self._is_shared = True

    def close(self) -> None:
        """Stop reading ahead."""
        if self._feed is not None:
            self._feed.close()
        self._feed = None

    def _feed_from(self, step: int) -> Generator[_Read, None, None]:
        if self._feed is None or step != self._next:
            self.close()
            steps = range(step, self._total)
            self._feed = read_ahead(_reads(self._engine, self._samples, self._settings, self._seed, steps))
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


def share(team: Team, settings: Callable[[], Config]) -> int:
    """Share the work of a run that another process leads; returns the exit code once it is over.

    Args:
        team: the processes of the run.
        settings: composes those of the same run; called once the first process has read the data, and so has
            made what others share.
    """
    order = team.listen()
    made: list[tuple[Built, Engine]] = []

    def make() -> dict[int, float]:
        config = settings()
        device = team.device(choose_device(config.device))
        built = build(config, Silent(), order)
        for name, split in built.summary["splits"].items():
            first = order["splits"][name]
            if split != first:
                what = f"process {team.rank.number} reads other data than process 0: {split['n']} samples, not {first['n']}"
                raise DataError(what, where=f"task ({name})", hint="give all processes the same paths.data")
        made.append((built, Engine(device, order["precision"], team)))
        return {}

    if order["name"] != END:
        with suppress(OrcaError):  # already reported to the first process
            team.gathered(make, 0)
        if made:
            return _follow(team, *made[0])
    while order["name"] != END:
        order = team.listen()
    return int(order["code"])


def lead(team: Team, built: Built, engine: Engine) -> None:
    """Let the other processes build what this one has built, and wait until they have.

    Raises:
        ConfigError: the method trains more than the model, of which the others would know nothing.
        OrcaError: one of them cannot, or has read other data.
    """
    if built.plan.align.method == "pare":
        what = "trains more than the model, which several processes do not support"
        raise ConfigError(what, where="align.method=pare", hint="start one process")
    team.order("build", precision=engine.precision, **{name: built.summary[name] for name in ("splits", "decided")})
    team.gathered(lambda: {}, 0)


def _follow(team: Team, built: Built, engine: Engine) -> int:
    """Do what the first process orders; returns the exit code once the run is over.

    What fails in a step fails in all processes, and the first one decides what is next.
    """
    built.model.to(engine.device)
    plan: OptimizerSteps | None = None
    while (order := team.listen())["name"] != END:
        try:
            if order["name"] == _PLAN:
                if plan is not None:
                    plan.close()
                rows = team.share({}, _CPU)["rows"].numpy()
                samples = built.learned if len(rows) == len(built.learned) else Part(built.learned, rows)
                team.share_weights(built.model, engine.device)
                state = team.share({}, _CPU)
                plan = OptimizerSteps(with_train(built, **order["train"]), engine, samples, order["seed"])
                if state:
                    checkpoint.restore_optimizer(plan.optimizer, state)
                engine.restore_scaler(order["scaler"])
                team.gathered(lambda: {}, 0)
            elif order["name"] == _STEP:
                assert plan is not None
                plan.take(order["step"])
        except NonFiniteError:
            continue
        except Exception as error:
            if error is not team.failure and error.__cause__ is not team.failure:
                raise
    if plan is not None:
        plan.close()
    return int(order["code"])
