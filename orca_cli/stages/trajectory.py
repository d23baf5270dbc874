"""The alignment's trajectory: the embedder after some numbers of steps, and the curve (paper 3.2).

Class-wise as in the paper's Algorithm 1: groups of target classes (one class by default) are compared with the whole source,
the losses are weighted by the classes' shares, and one optimizer step is taken per epoch. A trajectory depends on data, body,
source, metric, embedder, seed and `align.*`, but not on how one of its steps is chosen nor on stage 3. So runs that agree in
these share one (`fingerprint`, `training.cache`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import signals
from orca_cli.exceptions import InterruptionError, NonFiniteError
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory
from orca_cli.schema import METHOD_SETTINGS, Align, Config
from orca_cli.stages.build import Built
from orca_cli.stages.collapse import collapse
from orca_cli.stages.compared import Compared
from orca_cli.stages.objective import Objective
from orca_cli.stages.problem import embed
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry
from orca_cli.training.engine import Engine
from orca_cli.training.numerics import numerics
from orca_cli.training.schedule import make_optimizer, step_decay

_VERSION = 6  # of what is stored; a change makes every cached entry a miss
_COLLAPSE_SAMPLES = 64  # of the validation split; enough for two digits of both diagnostics
# Relative: the tokens are float32 whatever align.dtype is, and a sum over thousands of them is sure to a few last places.
_ROUNDING = 8 * torch.finfo(torch.float32).eps
# Settings of align that no step depends on, and those that only some methods read: these say so themselves.
_OF_THE_CHOICE = ("select", "probe_epochs")
_OF_THE_METHOD = ("method", *itertools.chain(*METHOD_SETTINGS.values()))


@dataclass(frozen=True)
class Candidate:
    """The embedder after some number of steps.

    Args:
        weights: of the embedder.
        value: the metric on a fixed draw of training points.
        collapse: diagnostics of its tokens on held-out samples (`stages/collapse.py`).
    """

    weights: dict[str, Tensor]
    value: float
    collapse: dict[str, float]


@dataclass(frozen=True)
class Trajectory:
    """What one alignment leaves.

    Args:
        before: the metric on a fixed draw of training points, before the first step.
        lines: the curve, a line per step.
        candidates: steps -> the embedder then; 0 and the last step are always among them.
    """

    before: float
    lines: list[dict[str, Any]]
    candidates: dict[int, Candidate]

    @property
    def steps(self) -> int:
        """Return the number of steps taken."""
        return len(self.lines)

    def to_entry(self) -> Entry:
        """Return the trajectory as content of the cache."""
        candidates = {str(step): {"value": c.value, "collapse": c.collapse} for step, c in self.candidates.items()}
        record = {"before": self.before, "lines": self.lines, "candidates": candidates}
        return Entry(checkpoint.flat({step: candidate.weights for step, candidate in self.candidates.items()}), record)

    @classmethod
    def from_entry(cls, entry: Entry) -> Trajectory:
        """Return what `to_entry` was called on."""
        weights, record = checkpoint.by_number(entry.tensors), entry.record
        candidates = {int(step): Candidate(weights[int(step)], **facts) for step, facts in record["candidates"].items()}
        return cls(record["before"], record["lines"], candidates)


def fingerprint(config: Config, built: Built, compared: Compared, objective: Objective, device: torch.device) -> str:
    """Return the name of a trajectory: equal for runs whose trajectories have the same bits."""
    unread = (*_OF_THE_CHOICE, *_OF_THE_METHOD)
    settings = {name: value for name, value in asdict(config.align).items() if name not in unread}
    facts = {
        "version": _VERSION,
        "kind": built.task.kind,
        "data": [built.summary["splits"][name]["sha256"] for name in ("train", "val")],
        "source": compared.source.key,
        "metric": config.metric,
        "align": settings,
        "embedder": [config.embedder, repr(built.model.embedder.layout)],
        "first_weights": checkpoint.weights_sha256(built.model.embedder.state_dict()),
        "seed": config.seed,
        "numerics": numerics(device),
    } | objective.facts()
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


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
    own = [names[id(parameter)] for parameter in group["params"]]
    roots = [sizes.get(f"{name.removesuffix('bias')}weight", sizes[name]) for name in own]
    return [min(1.0, settings.largest_step * root / settings.lr) if root > 0 else 1.0 for root in roots]


class Trainer:
    """One alignment on its way: the optimizer, how far it has come, the candidates so far."""

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
        self._optimizer = make_optimizer(config.align, self._model.embedder.parameters())
        self._shares = _limited_rates(self._optimizer, self._model.embedder, config.align)
        self._saver = checkpoint.Saver(
            run.stage("align") / CHECKPOINTS, owner=run.name.identity, every_s=config.train.checkpoint_s
        )
        self._step, self._before = 0, 0.0
        self._lines: list[dict[str, Any]] = []
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._resume()

    def _resume(self) -> None:
        saved = self._saver.load()
        if saved is None:
            self._before = self._compared.value(self._model, self._engine)
        else:
            self._model.embedder.load_state_dict(saved.weights)
            checkpoint.restore_optimizer(self._optimizer, saved.optimizer)
            self._step, self._before, self._lines = saved.step, saved.records["before"], saved.records["lines"]
            self._kept = checkpoint.by_number(saved.kept)
            self._reporter.say(f"align: resumed at step {self._step} of {self._config.align.epochs}")
        self._run.rewind("align", self._lines)

    def train(self) -> Trajectory:
        """Take the remaining steps, one per epoch, until the last or until patience ends.

        Raises:
            NonFiniteError: a distance, a gradient or a token is NaN or infinite.
        """
        settings = self._config.align
        try:
            with self._reporter.track("align", settings.epochs) as advance:
                advance(self._step)
                while self._step < settings.epochs and not (self._is_stuck() or self._is_on_the_floor()):
                    if self._step in (0, *settings.candidates):
                        self._kept[self._step] = checkpoint.snapshot(self._model.embedder)
                    self._lines.append(self._epoch())
                    self._step += 1
                    self._run.record("align", self._lines[-1])
                    advance(1, f"{self._objective.name} {self._lines[-1]['loss']:.4g}")
                    if signals.pending() or self._saver.is_due(self._step):
                        self._save()
                    signals.check()
            self._kept[self._step] = checkpoint.snapshot(self._model.embedder)
            return self._measured()
        except InterruptionError:  # between two groups of classes: the weights are those of the last step
            self._save()
            raise

    def _save(self) -> None:
        saved = checkpoint.Checkpoint(
            self._step,
            checkpoint.snapshot(self._model.embedder),
            checkpoint.optimizer_tensors(self._optimizer),
            checkpoint.flat(self._kept),
            {"before": self._before, "lines": self._lines},
        )
        if self._saver.save(saved):
            self._run.set_state("align", step=self._step)

    def _measured(self) -> Trajectory:
        """Measure every candidate; the last one is loaded in the end."""
        self._save()  # so that a run that is killed from here on does not repeat the steps
        found = {}
        for step, weights in sorted(self._kept.items()):
            self._model.embedder.load_state_dict(weights)
            value = self._compared.value(self._model, self._engine)
            found[step] = Candidate(weights, value, self._diagnose())
        return Trajectory(self._before, self._lines, found)

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
            loss, found = self._objective.backward(self._step)
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
        return line | {"loss": loss, "lr": lr, "gradient_norm": norm, **found, "seconds": seconds}

    def _look(self) -> dict[str, float]:
        """Return what the embedder makes of held-out data: diagnostics and distances, at every `check_every`-th step."""
        if self._step % self._config.align.check_every:
            return {}
        compared = self._compared
        found = self._diagnose()
        found["heldout"] = compared.problem.value(self._model, self._engine, compared.heldout)
        if self._config.align.exact:
            found["heldout_exact"] = compared.exact.value(self._model, self._engine)
        return found

    @torch.no_grad()
    def _diagnose(self) -> dict[str, float]:
        """Return how the tokens of fixed held-out samples are spread."""
        samples = self._compared.heldout.samples
        self._model.eval()
        return collapse(embed(self._model, self._engine, samples, np.arange(min(len(samples), _COLLAPSE_SAMPLES))))

    def _is_stuck(self) -> bool:
        """Return whether the held-out distance has not fallen, beyond rounding, for `patience` checks."""
        patience = self._config.align.patience
        seen = [line["heldout"] for line in self._lines if "heldout" in line]
        if patience is None or len(seen) <= patience:
            return False
        best = min(seen[:-patience])
        return min(seen[-patience:]) >= best - _ROUNDING * abs(best)

    def _is_on_the_floor(self) -> bool:
        """Return whether stop=floor is set, and the last step's distance was at or below the floor."""
        floor = self._compared.floor
        if self._config.align.stop != "floor" or floor is None or not self._lines:
            return False
        return self._lines[-1]["loss"] <= floor.mean
