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
from orca_cli.interfaces import Distance, Features, Metric, Samples, Tokens
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

    def groups(self, split: Labelled, *names: str | int) -> list[tuple[int, ...]]:
        """Return the classes of a split in a seeded order, cut into groups of `classes_per_problem`."""
        order = seeding.numpy_generator(self.seed, "align", "order", *names).permutation(list(split.members))
        size = self.settings.classes_per_problem or len(order)
        return [tuple(map(int, order[start : start + size])) for start in range(0, len(order), size)]

    def parts(
        self, model: TransferModel, engine: Engine, split: Labelled, *names: str | int
    ) -> Iterator[tuple[float, Distance]]:
        """Yield (weight, distance) of every group of classes, on the points that `names` draw."""
        for group in self.groups(split, *names):
            signals.check()
            points = self.points(model, engine, split, group, *names)
            weight = sum(split.share(target_class) for target_class in group)
            yield weight, self.metric.distance(self.source, self.prepared, points)

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
        """Embed a seeded draw of some classes: exactly `max_samples` points of each that has as many."""
        limit = self.settings.max_samples
        clouds, labels = [], []
        for place, target_class in enumerate(group):
            generator = seeding.numpy_generator(self.seed, "align", "samples", target_class, *names)
            members = split.members[target_class]
            drawn = np.sort(generator.choice(members, size=min(limit, len(members)), replace=False))
            cloud, _ = select_points(
                embed(model, engine, split.samples, drawn), self.settings.features, model.embedder.layout.tokens
            )
            if len(cloud) > limit:
                chosen = torch.from_numpy(np.sort(generator.choice(len(cloud), size=limit, replace=False)))
                cloud = cloud[chosen.to(cloud.device)]
            clouds.append(cloud.to(self.source.x.dtype))
            labels.append(torch.full((len(cloud),), place, dtype=torch.int64, device=cloud.device))
        return Features(torch.cat(clouds), torch.cat(labels), len(group))


def embed(model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray) -> Tokens:
    """Return the embedder's tokens of some samples.

    Large samples are read a few at a time: of their inputs the gradient needs no more than the body's canvas.
    """
    size = max(1, _EMBEDDED_VALUES // math.prod(model.embedder.layout.input_shape))
    pieces = []
    for start in range(0, len(indices), size):
        batch = engine.move(samples.batch(indices[start : start + size]))
        pieces.append(model.embed(batch.x, batch.valid))
    if len(pieces) == 1:
        return pieces[0]
    x, mask = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("x", "mask"))
    return replace(pieces[0], x=x, mask=mask)
