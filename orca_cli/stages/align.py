"""Stage 2: train the embedder alone, so that embedded target data come close to embedded source data (paper 3.2).

Class-wise as in the paper's Algorithm 1: groups of target classes (one class by default) are compared with the whole source,
the losses are weighted by the classes' shares, and one optimizer step is taken per epoch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from orca_cli import parts, seeding, signals, storage
from orca_cli.exceptions import CheckpointError, ChecksumError, InterruptionError, NonFiniteError
from orca_cli.interfaces import Features, Metric, Reporter
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.transfer import TransferModel
from orca_cli.part_groups import check_classes
from orca_cli.runs.directory import RunDirectory
from orca_cli.schema import Config
from orca_cli.stages import probe
from orca_cli.stages.build import Built, read_source
from orca_cli.stages.collapse import collapse
from orca_cli.stages.problem import Labelled, Problem, embed
from orca_cli.stages.pseudo_labels import class_labels
from orca_cli.stages.source_features import prepared_metric, source_features
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.memory import governed_by
from orca_cli.training.schedule import make_optimizer, set_lr, step_decay

_COLLAPSE_SAMPLES = 64  # of the validation split; enough for two digits of both diagnostics
_EXACT_SOURCE_POINTS = 500
_EXACT_TARGET_POINTS = 200
_COLLAPSED = 0.1  # of the tokens' variance within samples before alignment: less is told


@dataclass(frozen=True)
class Aligned:
    """What stage 2 tells.

    Args:
        before: the metric on a fixed draw of training points, before the first step; None where nothing was minimised.
        after: the same with the embedder that goes on.
        steps: alignment steps behind the embedder that goes on.
        tried: for select=validation: steps -> validation error of the probe.
        collapse: name of a diagnostic (`stages/collapse.py`) -> its values "before" and "after" on held-out samples.
    """

    before: float | None = None
    after: float | None = None
    steps: int = 0
    tried: dict[str, float | None] = field(default_factory=dict)
    collapse: dict[str, dict[str, float]] = field(default_factory=dict)


def align(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Aligned:
    """Train the embedder, or load the one that an earlier attempt trained.

    Writes 2_align/metrics.jsonl, embedder.safetensors and summary.json. The model's embedder is changed in place.

    Raises:
        NonFiniteError: the distance or its gradient is NaN or infinite.
        MemoryExhaustedError: the distance between so many points does not fit.
    """
    if config.metric.get(parts.TARGET) is None or config.align.epochs == 0:
        return Aligned()
    folder = run.stage("align")
    done = _finished(folder, built.model, run.name.identity)
    if done is not None:
        return done
    run.set_state("align", step=0)
    start = storage.monotonic()
    with governed_by("align", _smaller(config)):
        trainer = _Trainer(config, built, engine, run, reporter)
        try:
            trainer.train()
            aligned = trainer.select()
        except InterruptionError:  # between two groups of classes: the weights are those of the last step
            trainer.save()
            raise
    weights = checkpoint.snapshot(built.model.embedder)
    storage.write_with(folder / "embedder.safetensors", lambda path: save_file(weights, path))
    summary = {
        "schema": 1,
        "value": {"before": aligned.before, "after": aligned.after},
        "steps": aligned.steps,
        "steps_taken": trainer.step,
        "tried": aligned.tried,
        "collapse": aligned.collapse,
        "classes": len(trainer.problem.train.members),
        "embedder_sha256": checkpoint.weights_sha256(weights),
        "seconds": storage.monotonic() - start,
    }
    storage.write_json(folder / "summary.json", summary)
    storage.seal(folder, (file for file in folder.iterdir() if file.is_file()), owner=run.name.identity)
    for leftover in ("checkpoints", "candidates"):
        checkpoint.clear(folder / leftover)
    return aligned


def _smaller(config: Config) -> str:
    settings = config.align
    return f"lower align.max_samples ({settings.max_samples} now) or align.source_points ({settings.source_points} now)"


def _finished(folder: Path, model: TransferModel, owner: str) -> Aligned | None:
    """Load the embedder of an alignment that an earlier attempt finished; None where there is none that is whole."""
    if not (folder / storage.MANIFEST).exists():
        return None
    try:
        if storage.verify_folder(folder, extra_allowed=True) != owner:
            raise ChecksumError("belongs to another run", where=str(folder))
    except ChecksumError as error:
        log.warning(f"align: damaged, and aligned again: {error}")
        for name in (storage.MANIFEST, "embedder.safetensors", "summary.json"):
            if (folder / name).exists():
                storage.quarantine(folder / name)
        return None
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    model.embedder.load_state_dict(storage.read_tensors(folder / "embedder.safetensors"))
    value = summary["value"]
    return Aligned(value["before"], value["after"], summary["steps"], summary["tried"], summary["collapse"])


class _Trainer:
    """The state of one alignment: what is compared, the optimizer, how far it has come."""

    def __init__(self, config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> None:
        self._config, self._built, self._engine, self._run, self._reporter = config, built, engine, run, reporter
        self._folder = run.stage("align")
        self._model = built.model.to(engine.device)
        with signals.immediate():
            self.problem, self._heldout, self._exact, source = _compared(config, built, engine, reporter)
        run.settle("align", {"source": source})
        self._model.embedder.requires_grad_(True)
        settings = config.align
        self._optimizer = make_optimizer(
            settings.optimizer,
            self._model.embedder.parameters(),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            betas=settings.betas,
        )
        self.step = self._saved = 0
        self._before = 0.0
        self._records: list[dict[str, Any]] = []
        self._resume()

    def train(self) -> None:
        """Take the remaining steps, one per epoch, until the last or until patience ends."""
        settings = self._config.align
        last_save = storage.monotonic()
        with self._reporter.track("align", settings.epochs) as advance:
            advance(self.step)
            while self.step < settings.epochs and not self._is_stuck():
                self._keep_candidate()
                self._records.append(self._epoch())
                self.step += 1
                storage.append_json_line(self._folder / "metrics.jsonl", self._records[-1])
                advance(1, f"distance {self._records[-1]['loss']:.4g}")
                if signals.pending() or storage.monotonic() - last_save >= self._config.train.checkpoint_s:
                    self.save()
                    last_save = storage.monotonic()
                signals.check()
        self._keep_candidate(last=True)

    def select(self) -> Aligned:
        """Load the embedder that goes on: the last one, or the one whose probe validates best."""
        settings, chosen = self._config.align, self.step
        tried: dict[str, float | None] = {}
        if settings.select == "validation":
            self.save()  # the probes take longer than the steps; a run that is killed here does not repeat them
            steps = sorted({*(step for step in settings.candidates if step < self.step), self.step})
            candidates = {step: self._candidate(step) for step in steps}
            for path in candidates.values():
                _check_candidate(path)
            chosen, tried = probe.choose(
                self._config, self._built, self._engine, candidates, self._folder, self._reporter
            )
            self._model.embedder.load_state_dict(storage.read_tensors(candidates[chosen] / probe.CANDIDATE))
        after = self.problem.value(self._model, self._engine, self.problem.train)
        return Aligned(self._before, after, chosen, tried, self._collapse())

    def _collapse(self) -> dict[str, dict[str, float]]:
        """Return the diagnostics before the first step and now, and warn where tokens have become alike."""
        now, first = self._diagnose(), self._records[0]
        found = {name: {"before": first[name], "after": value} for name, value in now.items()}
        share = found["token_variance"]
        if share["after"] < _COLLAPSED * share["before"]:
            log.warning(
                f"align: tokens of a sample have become alike (share of variance {share['before']:.2g} before, "
                f"{share['after']:.2g} after); compare with metric=none, or let align.select=validation judge"
            )
        return found

    def _epoch(self) -> dict[str, Any]:
        """Take one optimizer step on the sum over all target classes; returns the record of it.

        Raises:
            NonFiniteError: a distance, the gradient or a token is NaN or infinite; the weights are as before.
        """
        start = storage.monotonic()
        settings, model = self._config.align, self._model
        lr = step_decay(self.step, start=settings.lr, every=settings.decay_every, factor=settings.decay_factor)
        set_lr(self._optimizer, lr)
        try:
            record: dict[str, Any] = {"epoch": self.step} | self._look()
            model.train()
            self._optimizer.zero_grad()
            loss, worst = self._backward()
            gradients = [p.grad for p in model.embedder.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                raise NonFiniteError(f"the gradient of the distance is {norm}")
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error.what}, with a rate of {lr:g}; the step was not taken",
                where=f"align, epoch {self.step}",
                hint="try a smaller align.lr",
            ) from error
        self._optimizer.step()
        seconds = round(storage.monotonic() - start, 3)
        return record | {"loss": loss, "lr": lr, "gradient_norm": norm, **worst, "seconds": seconds}

    def _backward(self) -> tuple[float, dict[str, float]]:
        """Add the gradients of all problems; returns the weighted sum of distances, and the worst diagnostics."""
        loss, number = 0.0, 0
        worst: dict[str, float] = {}
        try:
            for weight, distance in self.problem.parts(self._model, self._engine, self.problem.train, self.step):
                part = weight * distance.value
                part.backward()
                loss += float(part.detach())
                if not math.isfinite(loss):
                    raise NonFiniteError(f"the distance is {loss}")
                for name in ("iterations", "marginal_error"):
                    if name in distance.diagnostics:
                        worst[name] = max(worst.get(name, 0.0), distance.diagnostics[name])
                number += 1
        except NonFiniteError as error:
            each = ", a class of the target each" if self._config.align.classes_per_problem == 1 else ""
            raise NonFiniteError(f"{error.what} in problem {number} (from 0 on{each})") from error
        return loss, worst

    def _look(self) -> dict[str, float]:
        """Return what the embedder makes of held-out data: collapse at every step, distances at every `check_every`-th."""
        model, engine, found = self._model, self._engine, self._diagnose()
        if self.step % self._config.align.check_every == 0:
            found["heldout"] = self.problem.value(model, engine, self._heldout)
            found["heldout_exact"] = self._exact.value(model, engine)
        return found

    @torch.no_grad()
    def _diagnose(self) -> dict[str, float]:
        """Return how alike the tokens of fixed held-out samples are."""
        samples = self._heldout.samples
        self._model.eval()
        return collapse(embed(self._model, self._engine, samples, np.arange(min(len(samples), _COLLAPSE_SAMPLES))))

    def _is_stuck(self) -> bool:
        """Return whether the held-out distance has not fallen below its lowest value for `patience` checks."""
        patience = self._config.align.patience
        seen = [record["heldout"] for record in self._records if "heldout" in record]
        return patience is not None and len(seen) > patience and min(seen[-patience:]) >= min(seen[:-patience])

    def _keep_candidate(self, last: bool = False) -> None:
        settings = self._config.align
        if settings.select != "validation" or not (last or self.step in settings.candidates):
            return
        weights = checkpoint.snapshot(self._model.embedder)
        with storage.commit_folder(self._candidate(self.step), owner=self._run.name.identity) as temporary:
            save_file(weights, temporary / probe.CANDIDATE)

    def _candidate(self, step: int) -> Path:
        return self._folder / "candidates" / f"step-{step:08d}"

    def save(self) -> None:
        """Commit a checkpoint of the last step, unless there is one."""
        if self.step == self._saved:
            return
        weights, state = checkpoint.snapshot(self._model.embedder), checkpoint.optimizer_tensors(self._optimizer)
        kept = {"before": self._before, "lines": self._records}
        saved = checkpoint.Checkpoint(self.step, weights, state, records=kept)
        checkpoint.save(self._folder / "checkpoints", saved, owner=self._run.name.identity)
        self._run.set_state("align", step=self.step)
        self._saved = self.step

    def _resume(self) -> None:
        saved = checkpoint.load_latest(self._folder / "checkpoints", owner=self._run.name.identity)
        if saved is None:
            self._before = self.problem.value(self._model, self._engine, self.problem.train)
        else:
            self._model.embedder.load_state_dict(saved.weights)
            checkpoint.restore_optimizer(self._optimizer, saved.optimizer)
            self.step, self._before, self._records = saved.step, saved.records["before"], saved.records["lines"]
            self._saved = self.step
            self._reporter.say(f"align: resumed at step {self.step} of {self._config.align.epochs}")
        storage.rewrite_json_lines(self._folder / "metrics.jsonl", self._records)


def _check_candidate(path: Path) -> None:
    try:
        storage.verify_folder(path)
    except ChecksumError as error:
        what = f"the embedder of an earlier step is damaged: {error.what}"
        hint = f"delete {path.parent.parent} to begin the stage anew"
        raise CheckpointError(what, where=str(path), hint=hint) from error


class _Exact:
    """The exact OTDD, by linear programming, between fixed samples of the held-out data and of the source (paper, Figure 6)."""

    def __init__(self, source: Features, heldout: Labelled, problem: Problem, seed: int) -> None:
        generator = seeding.numpy_generator(seed, "align", "exact", "source")
        chosen = np.sort(generator.permutation(len(source.x))[:_EXACT_SOURCE_POINTS])
        index = torch.from_numpy(chosen).to(source.x.device)
        self._source = Features(source.x[index], source.labels[index], source.num_classes)
        self._metric = OTDDExact()
        self._prepared = self._metric.prepare(self._source)
        self._heldout, self._problem, self._seed = heldout, problem, seed

    @torch.no_grad()
    def value(self, model: TransferModel, engine: Engine) -> float:
        """Return the distance with all classes in one problem."""
        classes = tuple(sorted(self._heldout.members))
        points = self._problem.points(model, engine, self._heldout, classes, "exact")
        generator = seeding.numpy_generator(self._seed, "align", "exact", "target")
        chosen = np.sort(generator.permutation(len(points.x))[:_EXACT_TARGET_POINTS])
        index = torch.from_numpy(chosen).to(points.x.device)
        target = Features(points.x[index], points.labels[index], points.num_classes)
        return float(self._metric.distance(self._source, self._prepared, target).value)


def _compared(
    config: Config, built: Built, engine: Engine, reporter: Reporter
) -> tuple[Problem, Labelled, _Exact, str]:
    """Embed the source, or take it from the cache, and label the target; the text names what the source is."""
    source_data = read_source(config, reporter)
    assert config.paths.cache is not None
    cache = Path(config.paths.cache)
    cloud, key = source_features(
        built.model.body,
        source_data,
        features=config.align.features,
        length=built.model.embedder.layout.tokens,
        points=config.align.source_points,
        seed=config.seed,
        cache_folder=cache,
        reporter=reporter,
    )
    metric: Metric = parts.build(config.metric, "metric")
    check_classes(metric, config)
    dtype = getattr(torch, config.align.dtype)
    cloud = Features(cloud.x.to(engine.device, dtype), cloud.labels.to(engine.device), cloud.num_classes)
    prepared = prepared_metric(metric, config.metric, cloud, key, cache)
    prepared = {name: value.to(engine.device) for name, value in prepared.items()}
    task = built.task
    labels = class_labels(
        task.kind,
        task.train.targets(),
        task.validation.targets(),
        num_clusters=config.align.pseudo_labels or cloud.num_classes,
        seed=config.seed,
    )
    train, heldout = Labelled.of(task.train, labels[0]), Labelled.of(task.validation, labels[1])
    problem = Problem(metric, cloud, prepared, train, config.align, config.seed)
    return problem, heldout, _Exact(cloud, heldout, problem, config.seed), key
