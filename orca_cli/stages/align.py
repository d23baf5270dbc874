"""Stage 2: train the embedder alone, so that embedded target data come close to embedded source data (paper 3.2).

Class-wise as in the paper's Algorithm 1: every target class is compared with the whole source, the losses are weighted by
the classes' shares, and one optimizer step is taken per epoch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orca_cli import parts, seeding, signals, storage
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features, Metric, Reporter, Samples
from orca_cli.models.transfer import TransferModel
from orca_cli.runs.directory import RunDirectory
from orca_cli.schema import Config
from orca_cli.stages.build import Built, read_source
from orca_cli.stages.pseudo_labels import class_labels
from orca_cli.stages.source_features import prepared_metric, select_points, source_features
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.schedule import make_optimizer, set_lr, step_decay


@dataclass(frozen=True)
class Aligned:
    """What stage 2 tells: the metric's value before and after, None where no metric was minimised."""

    before: float | None
    after: float | None


class Problem:
    """The class-wise dataset distance between the embedded target data and the fixed source (paper, Algorithm 1)."""

    def __init__(self, metric: Metric, source: Features, prepared: dict[str, Tensor], labels: np.ndarray) -> None:
        """Index the target's classes once.

        Args:
            metric: the distance.
            source: the source's points, on the run's device.
            prepared: what the metric computed from the source.
            labels: [n] class or pseudo-label of every training sample.
        """
        self._metric, self._source, self._prepared = metric, source, prepared
        classes, counts = np.unique(labels, return_counts=True)
        self.members = {int(c): np.flatnonzero(labels == c) for c in classes}
        self.weights = {int(c): count / len(labels) for c, count in zip(classes, counts, strict=True)}

    def class_points(
        self,
        model: TransferModel,
        engine: Engine,
        samples: Samples,
        target_class: int,
        config: Config,
        *names: str | int,
    ) -> Features:
        """Embed a seeded draw of one class: exactly `max_samples` points where it has as many."""
        limit, seed = config.align.max_samples, config.seed
        generator = seeding.numpy_generator(seed, "align", "samples", target_class, *names)
        members = self.members[target_class]
        drawn = np.sort(generator.choice(members, size=min(limit, len(members)), replace=False))
        batch = engine.move(samples.batch(drawn))
        points, _ = select_points(model.embed(batch.x, batch.valid), config.align.features)
        if len(points) > limit:
            chosen = torch.from_numpy(np.sort(generator.choice(len(points), size=limit, replace=False)))
            points = points[chosen.to(points.device)]
        return Features(points.float(), torch.zeros(len(points), dtype=torch.int64, device=points.device), 1)

    def distance(self, target: Features) -> Any:
        """Return the metric's distance between the source and one target class."""
        return self._metric.distance(self._source, self._prepared, target)

    @torch.no_grad()
    def value(self, model: TransferModel, engine: Engine, samples: Samples, config: Config) -> float:
        """Return the weighted sum over all classes on a draw that is the same at every call."""
        total = 0.0
        for target_class, weight in self.weights.items():
            signals.check()
            points = self.class_points(model, engine, samples, target_class, config, "fixed")
            total += weight * float(self.distance(points).value)
        return total


def align(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Aligned:
    """Train the embedder, or load the one that an earlier attempt trained.

    Writes 2_align/metrics.jsonl, embedder.safetensors and summary.json. The model's embedder is changed in place.

    Raises:
        NonFiniteError: the distance or its gradient is NaN or infinite.
    """
    if config.metric.get(parts.TARGET) is None or config.align.epochs == 0:
        return Aligned(None, None)
    folder = run.stage("align")
    done = _finished(folder, built.model, config)
    if done is not None:
        return done
    run.set_state("align", step=0)
    start = storage.monotonic()
    problem = _problem(config, built, engine, reporter)
    built.model.to(engine.device)
    before, after = _train(config, built, engine, problem, run, reporter)
    storage.write_with(folder / "embedder.safetensors", lambda path: save_file(_embedder(built.model), path))
    summary = {
        "schema": 1,
        "value": {"before": before, "after": after},
        "steps": config.align.epochs,
        "classes": len(problem.weights),
        "embedder_sha256": checkpoint.weights_sha256(_embedder(built.model)),
        "seconds": storage.monotonic() - start,
    }
    storage.write_json(folder / "summary.json", summary)
    checkpoint.clear(folder / "checkpoints")
    return Aligned(before, after)


def _problem(config: Config, built: Built, engine: Engine, reporter: Reporter) -> Problem:
    source_data = read_source(config, reporter)
    assert config.paths.cache is not None
    cache = Path(config.paths.cache)
    built.model.body.to(engine.device)
    cloud, key = source_features(
        built.model.body,
        source_data,
        features=config.align.features,
        points=config.align.source_points,
        seed=config.seed,
        cache_folder=cache,
        reporter=reporter,
    )
    metric: Metric = parts.build(config.metric, "metric")
    cloud = Features(cloud.x.to(engine.device), cloud.labels.to(engine.device), cloud.num_classes)
    prepared = prepared_metric(metric, config.metric, cloud, key, cache)
    prepared = {name: value.to(engine.device) for name, value in prepared.items()}
    clusters = config.align.pseudo_labels or cloud.num_classes
    labels = class_labels(built.task.kind, built.task.train.targets(), num_clusters=clusters, seed=config.seed)
    return Problem(metric, cloud, prepared, labels)


def _train(
    config: Config, built: Built, engine: Engine, problem: Problem, run: RunDirectory, reporter: Reporter
) -> tuple[float, float]:
    folder, settings, model = run.stage("align"), config.align, built.model
    embedder = model.embedder
    embedder.requires_grad_(True)
    optimizer = make_optimizer(
        settings.optimizer,
        embedder.parameters(),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        betas=settings.betas,
    )
    saved = checkpoint.load_latest(folder / "checkpoints")
    records: list[dict[str, Any]] = []
    first = 0
    if saved is None:
        before = problem.value(model, engine, built.task.train, config)
    else:
        embedder.load_state_dict(saved.weights)
        checkpoint.restore_optimizer(optimizer, saved.optimizer)
        first, before, records = saved.step, saved.records["before"], saved.records["lines"]
        reporter.say(f"align: resumed at step {first} of {settings.epochs}")
    storage.rewrite_json_lines(folder / "metrics.jsonl", records)

    def save(step: int) -> None:
        state = checkpoint.optimizer_tensors(optimizer)
        kept = {"before": before, "lines": records}
        checkpoint.save(folder / "checkpoints", checkpoint.Checkpoint(step, _embedder(model), state, records=kept))
        run.set_state("align", step=step)

    last_save = storage.monotonic()
    with reporter.track("align", settings.epochs) as advance:
        advance(first)
        for epoch in range(first, settings.epochs):
            records.append(_epoch(config, built, engine, problem, optimizer, epoch))
            storage.append_json_line(folder / "metrics.jsonl", records[-1])
            advance(1, f"distance {records[-1]['loss']:.4g}")
            if signals.pending() or storage.monotonic() - last_save >= config.train.checkpoint_s:
                save(epoch + 1)
                last_save = storage.monotonic()
            signals.check()
    return before, problem.value(model, engine, built.task.train, config)


def _epoch(
    config: Config, built: Built, engine: Engine, problem: Problem, optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, Any]:
    """Take one optimizer step on the sum over all target classes; returns the record of it."""
    start = storage.monotonic()
    settings, model = config.align, built.model
    lr = step_decay(epoch, start=settings.lr, every=settings.decay_every, factor=settings.decay_factor)
    set_lr(optimizer, lr)
    model.train()
    optimizer.zero_grad()
    order = seeding.numpy_generator(config.seed, "align", "order", epoch).permutation(list(problem.weights))
    loss = 0.0
    worst: dict[str, float] = {}
    for target_class in map(int, order):
        points = problem.class_points(model, engine, built.task.train, target_class, config, epoch)
        distance = problem.distance(points)
        part = problem.weights[target_class] * distance.value
        part.backward()
        loss += float(part.detach())
        for name in ("iterations", "marginal_error"):
            if name in distance.diagnostics:
                worst[name] = max(worst.get(name, 0.0), distance.diagnostics[name])
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.embedder.parameters() if p.grad is not None]))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NonFiniteError(
            f"the distance is {loss}, its gradient {norm}", where=f"align, epoch {epoch}", hint="try a smaller align.lr"
        )
    optimizer.step()
    return {
        "epoch": epoch,
        "loss": loss,
        "lr": lr,
        "gradient_norm": norm,
        **worst,
        "seconds": round(storage.monotonic() - start, 3),
    }


def _embedder(model: TransferModel) -> dict[str, Tensor]:
    return checkpoint.snapshot(model.embedder)


def _finished(folder: Path, model: TransferModel, config: Config) -> Aligned | None:
    """Load the embedder of an alignment that an earlier attempt finished; None where there is none that is whole."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "embedder.safetensors")
    except (OSError, ValueError):
        return None
    if checkpoint.weights_sha256(weights) != summary["embedder_sha256"]:
        storage.quarantine(folder / "embedder.safetensors")
        return None
    model.embedder.load_state_dict(weights)
    return Aligned(summary["value"]["before"], summary["value"]["after"])
