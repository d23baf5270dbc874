"""What stage 2 compares: the embedded source, the labelled target, and the measures between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config import parts
from orca_cli.config.schema import Config
from orca_cli.interfaces import Features, Metric, Reporter, SourceData
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import Built, read_source, source_seed
from orca_cli.stages.problem import Labelled, Problem, balanced_rows, measure
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import EmbeddedSource, Wanted, prepared_metric, settings_key, source_features
from orca_cli.training.cache import Entry, cached
from orca_cli.training.engine import Engine

_EXACT_SOURCE_POINTS = 500
_EXACT_TARGET_POINTS = 200
FLOOR_DRAWS = 8


@dataclass(frozen=True)
class Compared:
    """The two sides of an alignment.

    Args:
        problem: the metric between groups of training classes and the source.
        heldout: the validation split, labelled.
        exact: the exact OTDD on fixed samples of held-out data and source.
        source: the embedded source.
        data: the source's examples, read when they are asked for.
        floor: what the source itself scores; None where the metric sees the target alone, or no source points are left.
    """

    problem: Problem
    heldout: Labelled
    exact: Exact
    source: EmbeddedSource
    data: SourceData
    floor: Floor | None

    def value(self, model: TransferModel, engine: Engine) -> float:
        """Return the metric on a fixed draw of training points."""
        return self.problem.value(model, engine, self.problem.train)


@dataclass(frozen=True)
class Floor:
    """What as many fresh source points as a problem has target points score against the source, weighted as the target is.

    A distance below it does not mean closer: two draws of one distribution are that far apart.

    Args:
        mean: over draws.
        deviation: between draws, of the weighted sum over problems.
        points: in a problem.
    """

    mean: float
    deviation: float
    points: int


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
        # The same number of points for every metric: Figure 6 compares their curves.
        settings = replace(self._problem.settings, max_samples=_EXACT_TARGET_POINTS)
        problem = replace(self._problem, settings=settings)
        (target,) = problem.points(model, engine, self._heldout, [classes], "exact")
        return float(self._metric.distance(self._source, self._prepared, target).value)


def _draw(points: Features, most: int, seed: int, name: str) -> Features:
    generator = seeding.numpy_generator(seed, "align", "exact", name)
    chosen = torch.from_numpy(np.sort(generator.permutation(len(points.x))[:most])).to(points.x.device)
    return Features(points.x[chosen], points.labels[chosen], points.num_classes)


def compare(config: Config, built: Built, engine: Engine, reporter: Reporter) -> Compared:
    """Embed the source, or take it from the cache, and label the target.

    Raises:
        ConfigError: source, body, metric and settings do not fit together.
    """
    assert config.paths.cache is not None
    cache, settings = Path(config.paths.cache), config.align
    seed = source_seed(config)
    selection = Wanted(
        settings.features,
        built.model.embedder.layout.tokens,
        settings.source_points,
        seed,
        settings.source_cloud,
        settings.source_labels,
    )
    data = read_source(config, seed, reporter)
    source = source_features(built.model.body, data, selection, engine.device, cache, reporter)
    metric: Metric = parts.build(config.metric, "metric")
    cloud, fresh = (
        Features(points.x.to(engine.device, torch.float32), points.labels.to(engine.device), points.num_classes)
        for points in (source.cloud, source.fresh)
    )
    prepared = prepared_metric(metric, config.metric, cloud, source.key, cache)
    prepared = {name: value.to(engine.device) for name, value in prepared.items()}
    task = built.task
    labels = class_labels(
        task.kind,
        task.train.targets(),
        task.validation.targets(),
        num_clusters=settings.pseudo_labels or cloud.num_classes,
        seed=config.seed,
    )
    if settings.target_labels == "shuffled":
        labels = shuffled(labels, config.seed)
    train, heldout = Labelled.from_labels(task.train, labels[0]), Labelled.from_labels(task.validation, labels[1])
    problem = Problem(metric, cloud, prepared, train, settings, config.seed)
    floor = _floor(problem, fresh, config.metric, source.key, cache, built.model.embedder.layout.tokens, seed)
    return Compared(problem, heldout, Exact(cloud, heldout, problem, config.seed), source, data, floor)


@torch.no_grad()
def _floor(
    problem: Problem, fresh: Features, settings: dict[str, Any], key: str, cache: Path, tokens: int, seed: int
) -> Floor | None:
    """Measure what fresh source points score, or take it from the cache: as many as the target's problems have on average."""
    if getattr(problem.metric, "of_target_alone", False):
        return None
    align_settings, train = problem.settings, problem.train
    each = tokens if align_settings.features == "tokens" else 1
    groups = problem.groups(train, "floor")
    sizes = [sum(len(train.members[one]) for one in group) for group in groups]
    shares = np.array(sizes) / sum(sizes)
    counts = [min(problem.size, size * each) for size in sizes]
    points = min(round(float(shares @ counts)), len(fresh.x))
    if points < 2 or 2 * points < shares @ counts:
        return None
    # One target class is one class, whatever the labels of its points say.
    labels = torch.zeros_like(fresh.labels) if problem.classes == 1 else fresh.labels

    def compute() -> Entry:
        values = []
        for draw in range(FLOOR_DRAWS):
            generator = seeding.numpy_generator(seed, "align", "floor", draw)
            drawn = (
                balanced_rows(fresh, points, problem.balanced, generator)
                if problem.balanced
                else generator.choice(len(fresh.x), size=points, replace=False)
            )
            rows = torch.from_numpy(drawn).to(fresh.x.device)
            present, compact = torch.unique(labels[rows], return_inverse=True)
            target = Features(fresh.x[rows], compact, len(present))
            values.append(float(measure(problem.metric, problem.source, problem.prepared, target, generator).value))
        return Entry({}, {"values": values})

    name = settings_key(key, settings, problem.source, points, problem.classes == 1)
    values = cached(cache / "floors" / name, compute).record["values"]
    return Floor(float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(np.square(shares).sum())), points)
