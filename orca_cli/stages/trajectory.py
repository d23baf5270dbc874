"""The alignment's trajectory: what its steps descend, the curve, and the embedder at its end (paper 3.2).

Class-wise as in the paper's Algorithm 1: groups of target classes (one class by default) are compared with the whole source,
the losses are weighted by the classes' shares, and one optimizer step is taken per epoch. A trajectory depends on data, body,
source, metric, embedder, seed and `align.*`, but not on stage 3. So runs that agree in these share one (`fingerprint`,
`training.cache`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import signals
from orca_cli.config.practices import PRACTICES
from orca_cli.config.schema import METHOD_SETTINGS, Align, Config
from orca_cli.exceptions import InterruptionError, NonFiniteError
from orca_cli.interfaces import Reporter
from orca_cli.models.transfer import TransferModel
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory
from orca_cli.stages.build import Built
from orca_cli.stages.collapse import collapse
from orca_cli.stages.compared import Compared
from orca_cli.stages.mona import Mona
from orca_cli.stages.problem import embed
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, numerics
from orca_cli.training.engine import Engine
from orca_cli.training.schedule import BETAS, make_optimizer, step_decay

_VERSION = 8  # of what is stored; a change makes every cached entry a miss
# Of `Align.largest_step`, for an embedder that begins as the body's own layer: larger steps lose what it knows (decision 0025).
_KNOWN = 0.001
_COLLAPSE_SAMPLES = 64  # of the validation split; enough for two digits of both diagnostics
# Settings of align that only some methods read: these say so themselves.
_OF_THE_METHOD = ("method", *itertools.chain(*METHOD_SETTINGS.values()))


@dataclass(frozen=True)
class Trajectory:
    """What one alignment leaves.

    Args:
        weights: of the embedder after the last step.
        before, after: the metric on a fixed draw of training points, before the first step and after the last.
        collapse: diagnostics of the aligned tokens on held-out samples (`stages/collapse.py`).
        lines: the curve, a line per step.
    """

    weights: dict[str, Tensor]
    before: float
    after: float
    collapse: dict[str, float]
    lines: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Return the number of steps taken."""
        return len(self.lines)

    def to_entry(self) -> Entry:
        """Return the trajectory as content of the cache."""
        record = {name: value for name, value in vars(self).items() if name != "weights"}
        return Entry(self.weights, record)

    @classmethod
    def from_entry(cls, entry: Entry) -> Trajectory:
        """Return what `to_entry` was called on."""
        return cls(entry.tensors, **entry.record)


def fingerprint(config: Config, built: Built, compared: Compared, objective: Objective, device: torch.device) -> str:
    """Return the name of a trajectory: equal for runs whose trajectories have the same bits."""
    settings = {name: value for name, value in asdict(config.align).items() if name not in _OF_THE_METHOD}
    facts = {
        "version": _VERSION,
        "kind": built.task.kind,
        "data": [built.summary["splits"][name]["sha256"] for name in ("train", "val")],
        "source": compared.source.key,
        "metric": config.metric,
        "align": settings,
        "optimizer": _optimizer_settings(config),
        "embedder": [config.embedder, repr(built.model.embedder.layout)],
        "first_weights": checkpoint.weights_sha256(built.model.embedder.state_dict()),
        "seed": config.seed,
        "numerics": numerics(device),
    } | objective.facts()
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _optimizer_settings(config: Config) -> dict[str, Any]:
    """Return kind, momentum and betas of the optimizer, as `make_optimizer` takes them."""
    if PRACTICES[config.protocol].aligns_as_finetune:
        return {"kind": config.train.optimizer, "momentum": config.train.momentum, "betas": BETAS}
    return {"kind": "adamw", "momentum": 0.0, "betas": (0.9, 0.999)}


def _limited_rates(optimizer: torch.optim.Optimizer, embedder: nn.Module, settings: Align) -> list[float]:
    """Give every parameter a group of its own; returns the share of the rate that each may have (`Align.largest_step`).

    A bias has that of its layer's weight, since it starts at 0.
    """
    (group,) = optimizer.param_groups
    names = {id(parameter): name for name, parameter in embedder.named_parameters()}
    sizes = {name: float(value.detach().float().square().mean().sqrt()) for name, value in embedder.named_parameters()}
    optimizer.param_groups[:] = [group | {"params": [parameter]} for parameter in group["params"]]
    if settings.largest_step is None:
        return [1.0] * len(group["params"])
    ordered_names = [names[id(parameter)] for parameter in group["params"]]
    largest = settings.largest_step * (_KNOWN if getattr(embedder, "is_body_layer", False) else 1.0)
    roots = [sizes.get(f"{name.removesuffix('bias')}weight", sizes[name]) for name in ordered_names]
    return [min(1.0, largest * root / settings.lr) if root > 0 else 1.0 for root in roots]


class Trainer:
    """One alignment on its way: the optimizer, and how far it has come."""

    def __init__(
        self,
        config: Config,
        built: Built,
        compared: Compared,
        objective: Objective,
        engine: Engine,
        run: RunDirectory,
        reporter: Reporter,
    ) -> None:
        """Start, or resume from the run's last checkpoint."""
        self._config, self._compared, self._objective, self._engine = config, compared, objective, engine
        self._model, self._run, self._reporter = built.model, run, reporter
        self._optimizer = make_optimizer(
            parameters=self._model.embedder.parameters(),
            lr=config.align.lr,
            weight_decay=config.align.weight_decay,
            **_optimizer_settings(config),
        )
        self._shares = _limited_rates(self._optimizer, self._model.embedder, config.align)
        self._saver = checkpoint.Saver(
            run.stage("align") / CHECKPOINTS, owner=run.name.identity, every_s=config.train.checkpoint_s
        )
        self._step, self._before = 0, 0.0
        self._lines: list[dict[str, Any]] = []
        self._resume()

    def _resume(self) -> None:
        saved = self._saver.load()
        if saved is None:
            self._before = self._compared.value(self._model, self._engine)
        else:
            self._model.embedder.load_state_dict(saved.weights)
            checkpoint.restore_optimizer(self._optimizer, saved.optimizer)
            self._step, self._before, self._lines = saved.step, saved.records["before"], saved.records["lines"]
            self._reporter.say(f"align: resumed at step {self._step} of {self._config.align.epochs}")
        self._run.rewind("align", self._lines)

    def train(self) -> Trajectory:
        """Take the remaining steps, one per epoch.

        Raises:
            NonFiniteError: a distance, a gradient or a token is NaN or infinite.
        """
        settings = self._config.align
        try:
            with self._reporter.track("align", settings.epochs) as advance:
                advance(self._step)
                while self._step < settings.epochs:
                    self._lines.append(self._epoch())
                    self._step += 1
                    self._run.record("align", self._lines[-1])
                    advance(1, f"{self._objective.name} {self._lines[-1]['loss']:.4g}")
                    if signals.pending() or self._saver.is_due(self._step):
                        self._save()
                    signals.check()
            self._save()  # so that a run that is killed from here on does not repeat the steps
            after = self._compared.value(self._model, self._engine)
            weights = checkpoint.snapshot(self._model.embedder)
            return Trajectory(weights, self._before, after, self._diagnose(), self._lines)
        except InterruptionError:  # between two groups of classes: the weights are those of the last step
            self._save()
            raise

    def _save(self) -> None:
        saved = checkpoint.Checkpoint(
            self._step,
            checkpoint.snapshot(self._model.embedder),
            checkpoint.optimizer_tensors(self._optimizer),
            records={"before": self._before, "lines": self._lines},
        )
        if self._saver.save(saved):
            self._run.set_state("align", step=self._step)

    def _epoch(self) -> dict[str, Any]:
        """Take one optimizer step; returns the line of it.

        Raises:
            NonFiniteError: the loss, the gradient or a token is NaN or infinite; the weights are as before.
        """
        start = time.monotonic()
        settings, model = self._config.align, self._model
        lr = step_decay(self._step, start=settings.lr, every=settings.decay_every, factor=settings.decay_factor)
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = lr * share
        try:
            line: dict[str, Any] = {"epoch": self._step} | self._look()
            model.train()
            self._optimizer.zero_grad()
            loss, diagnostics = self._objective.backward(self._step)
            gradients = [p.grad for p in model.embedder.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                raise NonFiniteError(f"the gradient of the {self._objective.name} is {norm}")
            first = self._lines[0]["gradient_norm"] if self._lines else norm
            if settings.unit_gradient and first > 0:
                torch._foreach_mul_(gradients, 1 / first)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error.what}, with a rate of {lr:g}; the step was not taken",
                where=f"align, epoch {self._step}",
                hint="try a smaller align.lr",
            ) from error
        self._optimizer.step()
        seconds = round(time.monotonic() - start, 3)
        return line | {"loss": loss, "lr": lr, "gradient_norm": norm, **diagnostics, "seconds": seconds}

    def _look(self) -> dict[str, float]:
        """Return what the embedder makes of held-out data: diagnostics and distances, at every `check_every`-th step."""
        if self._step % self._config.align.check_every:
            return {}
        compared = self._compared
        diagnostics = self._diagnose()
        diagnostics["heldout"] = compared.problem.value(self._model, self._engine, compared.heldout)
        if self._config.align.exact:
            diagnostics["heldout_exact"] = compared.exact.value(self._model, self._engine)
        return diagnostics

    @torch.no_grad()
    def _diagnose(self) -> dict[str, float]:
        """Return how the tokens of fixed held-out samples are spread."""
        samples = self._compared.heldout.samples
        self._model.eval()
        return collapse(embed(self._model, self._engine, samples, np.arange(min(len(samples), _COLLAPSE_SAMPLES))))


class Objective(Protocol):
    """A loss of stage 2.

    Attributes:
        name: of its values, for people.
    """

    name: str

    def facts(self) -> dict[str, Any]:
        """Return, JSON-able, what its gradients depend on beside what every alignment does; see `trajectory.fingerprint`."""

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradient of a step to that of the embedder's parameters; returns the loss, and diagnostics by name.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """


def objective_of(config: Config, built: Built, compared: Compared, engine: Engine) -> Objective:
    """Return what `align.method` descends in stage 2.

    Raises:
        ConfigError: the method does not suit the finetune mode.
    """
    if config.align.method == "mona":
        return Mona(config, built, compared.data, engine)
    return MetricObjective(built.model, compared, engine)


class MetricObjective:
    """The metric between target classes and source, summed over all problems (paper 3.2, Algorithm 1)."""

    name = "distance"

    def __init__(self, model: TransferModel, compared: Compared, engine: Engine) -> None:
        """Take what is compared."""
        self._model, self._problem, self._engine = model, compared.problem, engine

    def facts(self) -> dict[str, Any]:
        """Return nothing: the metric and its settings are part of every alignment's."""
        return {}

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradients of all problems; returns the weighted sum of distances, and the worst diagnostics."""
        loss = 0.0
        worst: dict[str, float] = {}
        for distances in self._problem.parts(self._model, self._engine, self._problem.train, step):
            part = torch.stack([weight * distance.value for weight, distance in distances]).sum()
            part.backward()
            loss += float(part.detach())
            for name in ("iterations", "marginal_error"):
                values = [distance.diagnostics[name] for _, distance in distances if name in distance.diagnostics]
                if values:
                    worst[name] = max(worst.get(name, 0.0), *values)
        return loss, worst
