"""Stage 2: train the embedder alone, so that embedded target data come close to embedded source data (paper 3.2, A.3.4).

What is minimised is `problem.Problem`, between f_t(x_t), y_t and f_s(x_s), y_s: f_t is the embedder, f_s the body's own input
layer, which stays as it is. One optimizer step is taken per epoch, on all of `Problem.groups`.

A trajectory depends on data, body, source, metric, embedder, seed and `align.*`, but not on stage 3 (except for its optimizer
in the protocols of paper and release). So runs that agree in these share one (`fingerprint`, `training.cache`). `align` is the
stage of a run, with its files; `trained` is the part of it that members of stage 3 need as well.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli import signals, storage
from orca_cli.config.schema import AS_PUBLISHED, Align
from orca_cli.exceptions import InterruptionError, NonFiniteError, governed_by
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory, short_curve
from orca_cli.stages.build import Built, cache_folder, has_alignment
from orca_cli.stages.plan import Plan
from orca_cli.stages.problem import Problem, compare, embed
from orca_cli.stages.source_features import EmbeddedSource, collapse
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, cached, numerics, save_tensors
from orca_cli.training.engine import Engine
from orca_cli.training.schedule import BETAS, make_optimizer, step_decay

_CACHE = "alignments"  # below the cache folder: a trajectory for each fingerprint
_EMBEDDER = "embedder.safetensors"
_COLUMNS = ("epoch", "loss", "heldout", "heldout_exact")
_COLLAPSED = 0.1  # part of the earlier variance below which a warning is due
_VERSION = 9  # of what is stored; a change makes every cached entry a miss
# Of `Align.largest_step`, for an embedder that begins as the body's own layer: larger steps lose what it knows (decision 0025).
_KNOWN = 0.001
_COLLAPSE_SAMPLES = 64  # of the validation split; enough for two digits of both diagnostics


def align(built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> dict[str, Any]:
    """Train the embedder in place, or load the one that an earlier attempt or another run trained.

    Writes 2_align/metrics.jsonl, embedder.safetensors and summary.json, then seals the folder and drops its checkpoints. Logs a
    warning where the tokens have drawn together: where token_variance falls below a tenth of its value before the first step,
    or the whole variance below a tenth of that before the first step and of the source's. Raises as `trained`.

    Returns:
        "before" and "after", the metric on a fixed draw of training points, before the first step and after the last; "steps";
        "collapse": name of a diagnostic (`source_features.collapse`) -> its values "before" and "after" on held-out samples,
        and that of the "source" where it has one; "curve", at most 100 lines; "seconds" of the steps, in the run that took
        them, which may be another. Empty where nothing was minimised.
    """
    if not has_alignment(built.plan):
        return {}
    if (summary := run.sealed_summary("align")) is not None:
        built.model.embedder.load_state_dict(storage.read_tensors(run.stage("align") / _EMBEDDER))
        return dict(summary["aligned"])
    run.set_state("align", step=0)
    source, trajectory = trained(built, engine, run, reporter)
    record, lines = trajectory.record, trajectory.record["lines"]
    spread = {
        name: {"before": lines[0][name], "after": value}
        for name, value in record["collapse"].items()
    }
    for name, value in source.spread.items():
        spread[name]["source"] = value
    share, *parts = (
        spread[name] for name in ("token_variance", "variance_within", "variance_between")
    )
    total = {when: sum(part[when] for part in parts) for when in ("before", "after", "source")}
    is_alike = share["after"] < _COLLAPSED * share["before"]
    if is_alike or total["after"] < _COLLAPSED * min(total["before"], total["source"]):
        what = "the tokens have drawn together, so a lower distance does not mean a better match"
        log.warning(f"align: {what}; compare with metric=none, or lower align.epochs")
    aligned = {
        **{name: record[name] for name in ("before", "after")},
        "steps": len(lines),
        "collapse": spread,
        "curve": short_curve(lines, _COLUMNS),
        "seconds": round(sum(line["seconds"] for line in lines), 3),
    }
    built.model.embedder.load_state_dict(trajectory.tensors)
    storage.write_with(
        run.stage("align") / _EMBEDDER, lambda path: save_tensors(path, trajectory.tensors)
    )
    run.write_summary("align", {"aligned": aligned})
    run.seal("align")
    return aligned


def trained(
    built: Built, engine: Engine, run: RunDirectory, reporter: Reporter
) -> tuple[EmbeddedSource, Entry]:
    """Return the source and the trajectory (see `Trainer.train`), from the cache or made here.

    The caller loads the trajectory's weights: one from the cache leaves the model's embedder as it was. Writes the stage's
    fingerprint.json and metrics.jsonl, checkpoints while steps are taken, and the cache entry, unless the run is inexact.

    Raises:
        ConfigError: with `align.features=sequence`, too few source examples, or no drawn sample of a class, are long enough.
        UnavailableError: the device has no float64.
        FingerprintError: the run began with another trajectory, and the user has not allowed it.
        NonFiniteError: the distance or its gradient is NaN or infinite; the weights are those of the last step taken.
        MemoryExhaustedError: the distance does not fit into memory.
        InterruptionError: a signal asked to stop; the steps so far are in a checkpoint.
    """
    built.model.to(engine.device)
    hint = f"lower align.max_samples or align.source_points ({built.plan.align.source_points} now)"
    with governed_by("align", hint), trainable(built.model.embedder):
        with signals.immediate():
            problem, source = compare(built, engine, reporter)
        key = fingerprint(built, source.key, engine.device)
        run.check_fingerprint("align", {"trajectory": key})
        path = cache_folder(built.plan) / _CACHE / key
        trainer = functools.partial(Trainer, built, problem, engine, run, reporter)
        trajectory = cached(path, lambda: trainer().train(), keep=lambda: not run.inexact())
    run.rewind("align", trajectory.record["lines"])
    return source, trajectory


@contextmanager
def trainable(embedder: nn.Module) -> Iterator[None]:
    """Train the whole embedder inside the block, whichever parameters stage 3 trains; its gradients are dropped at the end."""
    before = [(parameter, parameter.requires_grad) for parameter in embedder.parameters()]
    embedder.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
            parameter.grad = None


def fingerprint(built: Built, source_key: str, device: torch.device) -> str:
    """Return the name of a trajectory, 32 hexadecimal digits: runs with equal names have trajectories of the same bits."""
    plan = built.plan
    facts = {
        "version": _VERSION,
        "kind": built.task.kind,
        "data": [built.summary["splits"][name]["sha256"] for name in ("train", "val")],
        "source": source_key,
        "metric": plan.metric,
        "align": asdict(plan.align),
        "optimizer": _optimizer_settings(plan),
        "embedder": [plan.embedder, repr(built.model.embedder.layout)],
        "first_weights": checkpoint.weights_sha256(built.model.embedder.state_dict()),
        "seed": plan.seed,
        "numerics": numerics(device),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _optimizer_settings(plan: Plan) -> dict[str, Any]:
    if plan.protocol in AS_PUBLISHED:  # as stage 3 (paper A.3.4)
        return {"kind": plan.train.optimizer, "momentum": plan.train.momentum, "betas": BETAS}
    return {"kind": "adamw", "momentum": 0.0, "betas": (0.9, 0.999)}


def limited_rates(
    optimizer: torch.optim.Optimizer, embedder: nn.Module, settings: Align
) -> list[float]:
    """Give every parameter a group of its own and return, in their order, the factor on the rate of each, in (0, 1].

    With it no rate exceeds `Align.largest_step` times the root mean square of the parameter at the call, before the first step.
    A bias has the factor of its layer's weight, since it starts at 0; any other parameter that is 0 has no limit. The optimizer
    has to have one group, of all parameters of the embedder in their order.
    """
    (group,) = optimizer.param_groups
    sizes = {
        name: float(value.detach().float().square().mean().sqrt())
        for name, value in embedder.named_parameters()
    }
    optimizer.param_groups[:] = [group | {"params": [parameter]} for parameter in group["params"]]
    if settings.largest_step is None:
        return [1.0] * len(group["params"])
    largest = settings.largest_step * (_KNOWN if embedder.is_body_layer else 1.0)
    roots = [sizes.get(f"{name.removesuffix('bias')}weight", size) for name, size in sizes.items()]
    return [min(1.0, largest * root / settings.lr) if root > 0 else 1.0 for root in roots]


@dataclass
class Trainer:
    """The steps of one alignment, made by `trained` where the cache has no trajectory.

    It resumes from the run's last checkpoint or, where there is none, measures the distance before the first step.
    """

    built: Built
    problem: Problem
    engine: Engine
    run: RunDirectory
    reporter: Reporter

    def __post_init__(self) -> None:
        plan, embedder, problem = self.built.plan, self.built.model.embedder, self.problem
        rates: dict[str, Any] = {"lr": plan.align.lr, "weight_decay": plan.align.weight_decay}
        self._optimizer = make_optimizer(
            parameters=embedder.parameters(), **rates, **_optimizer_settings(plan)
        )
        self._shares = limited_rates(self._optimizer, embedder, plan.align)
        folder, owner = self.run.stage("align") / CHECKPOINTS, self.run.name.identity
        self._saver = checkpoint.Saver(folder, owner=owner, every_s=plan.train.checkpoint_s)
        self._lines: list[dict[str, Any]] = []  # one for each step taken
        if (saved := self._saver.load()) is None:
            self._before = problem.value(problem.train)
        else:
            embedder.load_state_dict(saved.weights)
            checkpoint.restore_optimizer(self._optimizer, saved.optimizer)
            self._before, self._lines = saved.records["before"], saved.records["lines"]
            self.reporter.say(f"align: resumed at step {saved.step} of {plan.align.epochs}")
        self.run.rewind("align", self._lines)

    def train(self) -> Entry:
        """Take the remaining steps; raises as `trained`.

        Returns:
            The embedder's state and a record: "before" and "after" as in `align`; "collapse", its values after the last step;
            and "lines", those of metrics.jsonl, one for each step. A line has epoch (from 0), loss (the distance that was
            differentiated), lr (before `limited_rates`), gradient_norm (before `align.unit_gradient`), seconds, iterations and
            marginal_error where the metric has them and, every `align.check_every` epochs, of validation samples before the
            step: heldout (their distance), heldout_exact (with `align.exact`) and what `source_features.collapse` returns.
        """
        epochs, lines, problem = self.built.plan.align.epochs, self._lines, self.problem
        try:
            with self.reporter.track("align", epochs) as advance:
                advance(len(lines))
                while len(lines) < epochs:
                    lines.append(self._epoch(len(lines)))
                    self.run.record("align", lines[-1])
                    advance(1, f"distance {lines[-1]['loss']:.4g}")
                    if signals.pending() or self._saver.is_due(len(lines)):
                        self._save()
                    signals.check()
            self._save()  # so that a run that is killed from here on does not repeat the steps
            after = problem.value(problem.train)
            record = {
                "before": self._before,
                "after": after,
                "collapse": self._diagnose(),
                "lines": lines,
            }
            return Entry(checkpoint.snapshot(self.built.model.embedder), record)
        except (
            InterruptionError
        ):  # between two groups of classes: the weights are those of the last step
            self._save()
            raise

    def _save(self) -> None:
        step, records = len(self._lines), {"before": self._before, "lines": self._lines}
        weights, state = (
            checkpoint.snapshot(self.built.model.embedder),
            checkpoint.optimizer_tensors(self._optimizer),
        )
        if self._saver.save(checkpoint.Checkpoint(step, weights, state, records=records)):
            self.run.set_state("align", step=step)

    def _epoch(self, step: int) -> dict[str, Any]:
        """Take one optimizer step; returns its line. NonFiniteError leaves the weights as they were."""
        start = time.monotonic()
        settings, model, problem = self.built.plan.align, self.built.model, self.problem
        lr = step_decay(
            step, start=settings.lr, every=settings.decay_every, factor=settings.decay_factor
        )
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = lr * share
        try:
            line: dict[str, Any] = {"epoch": step}
            if step % settings.check_every == 0:
                line |= self._diagnose() | {"heldout": problem.value(problem.heldout)}
                if settings.exact:
                    line["heldout_exact"] = problem.exact_value()
            model.train()
            self._optimizer.zero_grad()
            loss, diagnostics = problem.backward(step)
            gradients = [p.grad for p in model.embedder.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                raise NonFiniteError(f"the gradient of the distance is {norm}")
        except NonFiniteError as error:
            what = f"{error.what}, with a rate of {lr:g}; the step was not taken"
            raise NonFiniteError(
                what, where=f"align, epoch {step}", hint="try a smaller align.lr"
            ) from error
        first = self._lines[0]["gradient_norm"] if self._lines else norm
        if settings.unit_gradient and first > 0:
            torch._foreach_mul_(gradients, 1 / first)
        self._optimizer.step()
        seconds = round(time.monotonic() - start, 3)
        return line | {
            "loss": loss,
            "lr": lr,
            "gradient_norm": norm,
            **diagnostics,
            "seconds": seconds,
        }

    @torch.no_grad()
    def _diagnose(self) -> dict[str, float]:
        """Return how the tokens of fixed held-out samples are spread."""
        samples = self.problem.heldout.samples
        model = self.built.model.eval()
        return collapse(
            embed(model, self.engine, samples, np.arange(min(len(samples), _COLLAPSE_SAMPLES)))
        )
