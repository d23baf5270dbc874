"""What stage 2 minimises: the class-wise dataset distance between embedded target data and the fixed source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Batch, Distance, Features, Metric, Samples, Tokens
from orca_cli.models.transfer import TransferModel
from orca_cli.schema import Align
from orca_cli.stages.source_features import select_points
from orca_cli.training.engine import Engine

_EMBEDDED_VALUES = 2**26  # input values that are read at once (256 MiB in float32)


@dataclass(frozen=True)
class Labelled:
    """A split with a class or pseudo-label for every sample.

    Args:
        samples: the split.
        members: class -> indices of its samples.
    """

    samples: Samples
    members: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, samples: Samples, labels: np.ndarray) -> Labelled:
        """Index a split by class; labels [n]."""
        return cls(samples, {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)})

    def share(self, target_class: int) -> float:
        """Return a class's share of the samples."""
        return len(self.members[target_class]) / sum(len(members) for members in self.members.values())


@dataclass(frozen=True)
class Problem:
    """Distance of groups of target classes to the whole source, weighted by the classes' shares (paper, Algorithm 1).

    Args:
        metric: the distance.
        source: the source's points, on the run's device.
        prepared: what the metric computed from the source.
        train: the training split.
        settings: points per class, what a point is, classes per problem.
        seed: of the draws.
    """

    metric: Metric
    source: Features
    prepared: dict[str, Tensor]
    train: Labelled
    settings: Align
    seed: int

    @property
    def classes(self) -> int:
        """Return the number of target classes in one problem; 0: all."""
        given = self.settings.classes_per_problem
        return given if given is not None else int(getattr(self.metric, "least_classes", 1) == 1)

    def groups(self, split: Labelled, *names: str | int) -> list[tuple[int, ...]]:
        """Return the classes of a split in a seeded order, cut into groups of `classes_per_problem`."""
        order = seeding.numpy_generator(self.seed, "align", "order", *names).permutation(list(split.members))
        size = self.classes or len(order)
        return [tuple(map(int, order[start : start + size])) for start in range(0, len(order), size)]

    def parts(
        self, model: TransferModel, engine: Engine, split: Labelled, *names: str | int
    ) -> Iterator[tuple[float, Distance]]:
        """Yield (weight, distance) of every group of classes, on the points that `names` draw."""
        for group in self.groups(split, *names):
            signals.check()
            points = self.points(model, engine, split, group, *names)
            weight = sum(split.share(target_class) for target_class in group)
            generator = seeding.numpy_generator(self.seed, "align", "pairing", *group, *names)
            yield weight, measure(self.metric, self.source, self.prepared, points, generator)

    @torch.no_grad()
    def value(self, model: TransferModel, engine: Engine, split: Labelled) -> float:
        """Return the weighted sum over all groups on a draw that is the same at every call.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        parts = self.parts(model, engine, split, "fixed")
        value = sum(weight * float(distance.value) for weight, distance in parts)
        if not math.isfinite(value):
            raise NonFiniteError(f"the distance is {value}", where="align", hint="try a smaller align.lr")
        return value

    def points(
        self, model: TransferModel, engine: Engine, split: Labelled, group: tuple[int, ...], *names: str | int
    ) -> Features:
        """Embed a seeded draw of some classes: `max_samples` points a class on average, each class by its share."""
        clouds, labels = [], []
        for place, (target_class, most) in enumerate(
            zip(group, self._shares(model, split, group, *names), strict=True)
        ):
            if not most:
                continue
            generator = seeding.numpy_generator(self.seed, "align", "samples", target_class, *names)
            members = split.members[target_class]
            drawn = np.sort(generator.choice(members, size=min(most, len(members)), replace=False))
            cloud = embed_points(model, engine, split.samples, drawn, self.settings.features, most, generator)
            clouds.append(cloud.to(self.source.x.dtype))
            labels.append(torch.full((len(cloud),), place, dtype=torch.int64, device=cloud.device))
        return Features(torch.cat(clouds), torch.cat(labels), len(group))

    def _shares(self, model: TransferModel, split: Labelled, group: tuple[int, ...], *names: str | int) -> list[int]:
        """Return how many points each class of a group gives: as many in all as `max_samples` a class, if there are.

        Systematic sampling: every class has its share in expectation, and is never off by a whole point.
        """
        sizes = np.array([len(split.members[target_class]) for target_class in group], dtype=float)
        each = model.embedder.layout.tokens if self.settings.features == "tokens" else 1
        total = min(self.settings.max_samples * len(group), int(sizes.sum()) * each)
        if len(group) == 1:
            return [total]
        start = seeding.numpy_generator(self.seed, "align", "shares", *group, *names).random()
        ends = np.floor(np.cumsum(sizes) / sizes.sum() * total + start)
        ends[-1] = total  # a sum of shares that rounding leaves below 1 must not lose a point
        return np.diff(ends, prepend=0.0).astype(int).tolist()


def measure(
    metric: Metric, source: Features, prepared: dict[str, Tensor], target: Features, generator: np.random.Generator
) -> Distance:
    """Return a metric's distance; one that samples the source is given as many of its points as the target has.

    Both sides then come in a random order (`samples_source` in `interfaces.Metric`).
    """
    if getattr(metric, "samples_source", False):
        size = min(len(source.x), len(target.x))
        source = _some(source, generator.choice(len(source.x), size=size, replace=False))
        target = _some(target, generator.permutation(len(target.x)))
    return metric.distance(source, prepared, target)


def _some(points: Features, rows: np.ndarray) -> Features:
    chosen = torch.from_numpy(rows).to(points.x.device)
    return Features(points.x[chosen], points.labels[chosen], points.num_classes)


def embed_points(
    model: TransferModel,
    engine: Engine,
    samples: Samples,
    indices: np.ndarray,
    features: str,
    most: int,
    generator: np.random.Generator,
) -> Tensor:
    """Return at most `most` points [p, d] of some samples, drawn without replacement; `features` as in `Align.features`.

    Of tokens, only those that are drawn are embedded where the embedder can do that (its `tokens_at`).
    """
    tokens_at = getattr(model.embedder, "tokens_at", None)
    if features != "tokens" or tokens_at is None:
        cloud, _ = select_points(embed(model, engine, samples, indices), features, model.embedder.layout.tokens)
        if len(cloud) > most:
            kept = torch.from_numpy(np.sort(generator.choice(len(cloud), size=most, replace=False)))
            cloud = cloud[kept.to(cloud.device)]
        return cloud
    inputs, masks = [], []
    for batch in _batches(model, engine, samples, indices):
        inputs.append((batch.x, batch.valid))
        masks.append(model.embedder.mask(batch.x, batch.valid))
    rows, places = torch.cat(masks).cpu().numpy().nonzero()
    if len(rows) > most:
        chosen = np.sort(generator.choice(len(rows), size=most, replace=False))
        rows, places = rows[chosen], places[chosen]
    clouds, first = [], 0
    for (x, valid), mask in zip(inputs, masks, strict=True):
        here = (rows >= first) & (rows < first + len(mask))
        where = (torch.from_numpy(values[here]).to(x.device) for values in (rows - first, places))
        clouds.append(tokens_at(x, valid, *where))
        first += len(mask)
    return torch.cat(clouds)


def embed(model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray) -> Tokens:
    """Return the embedder's tokens of some samples.

    Large samples are read a few at a time: of their inputs the gradient needs no more than the body's canvas.
    """
    pieces = [model.embed(batch.x, batch.valid) for batch in _batches(model, engine, samples, indices)]
    if len(pieces) == 1:
        return pieces[0]
    x, mask = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("x", "mask"))
    return replace(pieces[0], x=x, mask=mask)


def _batches(model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray) -> Iterator[Batch]:
    """Yield the samples on the run's device, as many at a time as `_EMBEDDED_VALUES` allows."""
    size = max(1, _EMBEDDED_VALUES // math.prod(model.embedder.layout.input_shape))
    for start in range(0, len(indices), size):
        yield engine.move(samples.batch(indices[start : start + size]))
