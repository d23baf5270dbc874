"""What stage 2 compares: the embedded source, the labelled target, and the measures between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orca_cli import parts, seeding
from orca_cli.interfaces import Features, Metric, Reporter
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.transfer import TransferModel
from orca_cli.part_groups import check_classes
from orca_cli.schema import Config
from orca_cli.stages.build import Built, read_source
from orca_cli.stages.problem import Labelled, Problem
from orca_cli.stages.pseudo_labels import class_labels
from orca_cli.stages.source_features import prepared_metric, source_features
from orca_cli.training.engine import Engine

_EXACT_SOURCE_POINTS = 500
_EXACT_TARGET_POINTS = 200


@dataclass(frozen=True)
class Compared:
    """The two sides of an alignment.

    Args:
        problem: the metric between groups of training classes and the source.
        heldout: the validation split, labelled.
        exact: the exact OTDD on fixed samples of held-out data and source.
        source_key: names the source's points.
    """

    problem: Problem
    heldout: Labelled
    exact: Exact
    source_key: str

    def value(self, model: TransferModel, engine: Engine) -> float:
        """Return the metric on a fixed draw of training points."""
        return self.problem.value(model, engine, self.problem.train)


class Exact:
    """The exact OTDD, by linear programming, between fixed samples of the held-out data and of the source (paper, Figure 6)."""

    def __init__(self, source: Features, heldout: Labelled, problem: Problem, seed: int) -> None:
        """Draw the source's sample."""
        self._source = _draw(source, _EXACT_SOURCE_POINTS, seed, "source")
        self._metric = OTDDExact()
        self._prepared = self._metric.prepare(self._source)
        self._heldout, self._problem, self._seed = heldout, problem, seed

    @torch.no_grad()
    def value(self, model: TransferModel, engine: Engine) -> float:
        """Return the distance with all classes in one problem."""
        classes = tuple(sorted(self._heldout.members))
        points = self._problem.points(model, engine, self._heldout, classes, "exact")
        target = _draw(points, _EXACT_TARGET_POINTS, self._seed, "target")
        return float(self._metric.distance(self._source, self._prepared, target).value)


def _draw(points: Features, most: int, seed: int, name: str) -> Features:
    generator = seeding.numpy_generator(seed, "align", "exact", name)
    chosen = torch.from_numpy(np.sort(generator.permutation(len(points.x))[:most])).to(points.x.device)
    return Features(points.x[chosen], points.labels[chosen], points.num_classes)


def compare(config: Config, built: Built, engine: Engine, reporter: Reporter) -> Compared:
    """Embed the source, or take it from the cache, and label the target."""
    assert config.paths.cache is not None
    cache = Path(config.paths.cache)
    cloud, key = source_features(
        built.model.body,
        read_source(config, reporter),
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
    return Compared(problem, heldout, Exact(cloud, heldout, problem, config.seed), key)
