"""What stage 2 compares: the embedded source, the labelled target, and the measures between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config import parts
from orca_cli.interfaces import Features, Metric, Reporter
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.stages.build import Built, cache_folder, source_seed
from orca_cli.stages.problem import Labelled, Problem, balanced_rows, measure
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import EmbeddedSource, Wanted, prepared_metric, source_features
from orca_cli.training.engine import Engine

_EXACT_SOURCE_POINTS = 500
_EXACT_TARGET_POINTS = 200
_FLOOR_DRAWS = 8


@dataclass(frozen=True)
class Compared:
    """The two sides of an alignment.

    Args:
        problem: the metric between groups of training classes and the source.
        heldout: the validation split, labelled.
        source: the embedded source.
        floor: what the source itself scores, see `source_floor`.
    """

    problem: Problem
    heldout: Labelled
    source: EmbeddedSource
    floor: dict[str, float]


@torch.no_grad()
def exact_value(compared: Compared) -> float:
    """Return the exact OTDD, by linear programming, between fixed samples of the held-out data and of the source (Figure 6).

    All classes are in one problem, of the same number of points for every metric: the figure compares their curves.
    """
    problem, heldout = compared.problem, compared.heldout
    problem = replace(problem, settings=replace(problem.settings, max_samples=_EXACT_TARGET_POINTS))
    (target,) = problem.points(heldout, [tuple(sorted(heldout.members))], "exact")
    generator = seeding.numpy_generator(problem.seed, "align", "exact", "source")
    points = problem.source
    chosen = np.sort(generator.permutation(len(points.x))[:_EXACT_SOURCE_POINTS])
    rows = torch.from_numpy(chosen).to(points.x.device)
    source, metric = Features(points.x[rows], points.labels[rows], points.num_classes), OTDDExact()
    return float(metric.distance(source, metric.prepare(source), target).value)


def compare(built: Built, engine: Engine, reporter: Reporter, whole: bool = True) -> Compared:
    """Embed the source, or take it from the cache, and label the target.

    Args:
        built: a run that has an alignment.
        engine: the device.
        reporter: progress.
        whole: draw the source's points from all of its examples; a few do where only time is measured.

    Raises:
        ConfigError: source, body, metric and settings do not fit together.
    """
    plan, task, cache = built.plan, built.task, cache_folder(built.plan)
    settings, seed = plan.align, source_seed(plan)
    selection = Wanted(
        settings.features,
        built.model.embedder.layout.tokens,
        settings.source_points,
        seed,
        settings.source_cloud,
        settings.source_labels,
    )
    assert built.source is not None
    source = source_features(built.model.body, built.source, selection, engine.device, cache, reporter, whole)
    metric: Metric = parts.build(plan.metric, "metric")
    cloud, fresh = (
        Features(points.x.to(engine.device, torch.float32), points.labels.to(engine.device), points.num_classes)
        for points in (source.cloud, source.fresh)
    )
    prepared = prepared_metric(metric, plan.metric, cloud, source.key, cache)
    prepared = {name: value.to(engine.device) for name, value in prepared.items()}
    labels = class_labels(
        task.kind,
        task.train.targets(),
        task.validation.targets(),
        num_clusters=settings.pseudo_labels or cloud.num_classes,
        seed=plan.seed,
    )
    if settings.target_labels == "shuffled":
        labels = shuffled(labels, plan.seed)
    train, heldout = Labelled.from_labels(task.train, labels[0]), Labelled.from_labels(task.validation, labels[1])
    problem = Problem(built.model, engine, metric, cloud, prepared, train, settings, plan.seed)
    return Compared(problem, heldout, source, source_floor(problem, fresh, seed))


@torch.no_grad()
def source_floor(problem: Problem, fresh: Features, seed: int) -> dict[str, float]:
    """Measure what fresh source points score against the source, as many as the target's problems have on average.

    A distance below it does not mean closer: two draws of one distribution are that far apart.

    Args:
        problem: weighted as the target is.
        fresh: source points, none of which is among the problem's.
        seed: of the draws.

    Returns:
        mean over draws; deviation between draws, of the weighted sum over problems; points in a problem. Empty where the metric
        sees the target alone, or too few points are left.
    """
    if getattr(problem.metric, "of_target_alone", False):
        return {}
    align_settings, train = problem.settings, problem.train
    each = problem.model.embedder.layout.tokens if align_settings.features == "tokens" else 1
    groups = problem.groups(train, "floor")
    sizes = [sum(len(train.members[one]) for one in group) for group in groups]
    shares = np.array(sizes) / sum(sizes)
    counts = [min(problem.size, size * each) for size in sizes]
    points = min(round(float(shares @ counts)), len(fresh.x))
    if points < 2 or 2 * points < shares @ counts:
        return {}
    # One target class is one class, whatever the labels of its points say.
    labels = torch.zeros_like(fresh.labels) if problem.classes == 1 else fresh.labels

    values = []
    for draw in range(_FLOOR_DRAWS):
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
    deviation = float(np.std(values, ddof=1) * np.sqrt(np.square(shares).sum()))
    return {"mean": float(np.mean(values)), "deviation": deviation, "points": points}
