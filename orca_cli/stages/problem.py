"""What stage 2 compares, embedded target data and the fixed source, and minimises: the class-wise distance between them.

Paper A.1.2, Algorithm 1, for target classes k with n_k of the n training samples and a metric d between labelled clouds:

    D(f_t) = sum_k n_k / n  d(f_s(source), f_t(points of class k))

Every d is taken on at most `Problem.size` points, drawn anew at every step. A metric may ask for several classes or all in one
d, whose weight is then the sum of theirs, and for a sample of the source in place of all of its points (`interfaces.Metric`).
The default `otdd` asks for both: one d of equally many points of each of up to 8 classes a side, with weight 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.config import parts
from orca_cli.config.schema import Align
from orca_cli.exceptions import ConfigError, NonFiniteError, UnavailableError
from orca_cli.interfaces import Batch, Distance, Features, Metric, Reporter, Samples, Tokens
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import Built, cache_folder, source_seed
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import (
    EmbeddedSource,
    Wanted,
    prepared_metric,
    select_points,
    source_features,
)
from orca_cli.training.engine import Engine
from orca_cli.training.loop import batches

EMBEDDED_VALUES = 2**26  # input values that are read at once (256 MiB in float32)
_DRAWN_VALUES = (
    2**27
)  # input values of a class's samples: of large ones, fewer give more tokens each
_LEAST_SAMPLES = 8
_POINTS_OF_A_CLASS, _POINTS_OF_CLASSES = 128, 256  # in a problem, by default
_EMBEDDED_POINTS = (
    2**13
)  # points of several problems that are embedded at once: each call costs as much as a thousand
_EXACT_SOURCE_POINTS, _EXACT_TARGET_POINTS = 500, 200


class Labelled:
    """A split with a class or pseudo-label for every sample, [n]; `members`: class -> indices of its samples, [n_k]."""

    def __init__(self, samples: Samples, labels: np.ndarray) -> None:
        self.samples = samples
        self.members = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)}


@dataclass(frozen=True)
class Problem:
    """The distance that stage 2 minimises, of groups of target classes to the source (paper, Algorithm 1).

    `compare` makes it. Values are in the metric's units (its `convention`).

    Args:
        model, engine: what embeds the target, on the run's device.
        metric, source, prepared: the distance, the source's points on that device, and what the metric computed from them.
        train, heldout: the training split, and the validation split.
        settings: points per problem, what a point is, classes per problem.
        seed: of the draws.
    """

    model: TransferModel
    engine: Engine
    metric: Metric
    source: Features
    prepared: dict[str, Tensor]
    train: Labelled
    heldout: Labelled
    settings: Align
    seed: int

    @property
    def classes(self) -> int:
        """Return the number of target classes in one problem; 0: all."""
        setting = self.settings.classes_per_problem
        return (
            setting if setting is not None else int(not getattr(self.metric, "all_classes", False))
        )

    @property
    def balanced(self) -> int:
        """Return how many classes of a side a draw is balanced over; 0: of all classes, by their shares."""
        return (
            getattr(self.metric, "balanced_classes", 0)
            if self.settings.classes_per_problem is None
            else 0
        )

    @property
    def size(self) -> int:
        """Return the most points that a problem has."""
        return self.settings.max_samples or (
            _POINTS_OF_A_CLASS if self.classes == 1 else _POINTS_OF_CLASSES
        )

    def groups(self, split: Labelled, *names: str | int) -> list[tuple[int, ...]]:
        """Return the classes of a split in a seeded order, cut into groups of `classes_per_problem`.

        A metric that balances its classes has one group, of as many as it takes.
        """
        order = (
            seeding.numpy_generator(self.seed, "align", "order", *names)
            .permutation(list(split.members))
            .tolist()
        )
        if self.balanced:
            return [tuple(order[: self.balanced])]
        size = self.classes or len(order)
        return [tuple(order[start : start + size]) for start in range(0, len(order), size)]

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradients of all groups to the embedder's; returns their weighted sum, and the worst diagnostics.

        These are the largest iterations and marginal_error, where the metric has them. An InterruptionError comes between two
        lists of `parts` and leaves part of the gradient.
        """
        loss = 0.0
        worst: dict[str, float] = {}
        for distances in self.parts(self.train, step):
            part = torch.stack([weight * distance.value for weight, distance in distances]).sum()
            part.backward()
            loss += float(part.detach())
            for name in ("iterations", "marginal_error"):
                values = [
                    distance.diagnostics[name]
                    for _, distance in distances
                    if name in distance.diagnostics
                ]
                if values:
                    worst[name] = max(worst.get(name, 0.0), *values)
        return loss, worst

    def parts(self, split: Labelled, *names: str | int) -> Iterator[list[tuple[float, Distance]]]:
        """Yield (weight, distance) of every group of classes, on the points that `names` draw.

        Groups whose points are embedded together come in one list, and share a graph: their sum is to be differentiated.
        """
        groups = self.groups(split, *names)
        # Few enough are embedded together that their inputs and points take little memory.
        inputs = min(self.size, self._readable) * math.prod(self.model.embedder.layout.input_shape)
        together = max(1, min(EMBEDDED_VALUES // inputs, _EMBEDDED_POINTS // self.size))
        for start in range(0, len(groups), together):
            some, distances = groups[start : start + together], []
            signals.check()
            for group, points in zip(some, self.points(split, some, *names), strict=True):
                weight = (
                    1.0
                    if self.balanced
                    else sum(len(split.members[one]) / len(split.samples) for one in group)
                )
                generator = seeding.numpy_generator(self.seed, "align", "pairing", *group, *names)
                distances.append(
                    (weight, measure(self.metric, self.source, self.prepared, points, generator))
                )
            yield distances

    @torch.no_grad()
    def value(self, split: Labelled) -> float:
        """Return the weighted sum over all groups on a draw that is the same at every call; NonFiniteError if it is none."""
        value = sum(
            weight * float(one.value) for some in self.parts(split, "fixed") for weight, one in some
        )
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the distance is {value}", where="align", hint="try a smaller align.lr"
            )
        return value

    @torch.no_grad()
    def exact_value(self) -> float:
        """Return the exact OTDD, by linear programming, between fixed samples of held-out data and of the source (Figure 6).

        All classes are in one problem, of at most 200 target and 500 source points for every metric: the figure compares
        their curves.
        """
        problem = replace(self, settings=replace(self.settings, max_samples=_EXACT_TARGET_POINTS))
        (target,) = problem.points(self.heldout, [tuple(sorted(self.heldout.members))], "exact")
        generator = seeding.numpy_generator(self.seed, "align", "exact", "source")
        source = _some(
            self.source, np.sort(generator.permutation(len(self.source.x))[:_EXACT_SOURCE_POINTS])
        )
        metric = OTDDExact()
        return float(metric.distance(source, metric.prepare(source), target).value)

    def points(
        self, split: Labelled, groups: Sequence[tuple[int, ...]], *names: str | int
    ) -> list[Features]:
        """Embed a seeded draw of each group's classes: `max_samples` points in all, each class by its share.

        Raises:
            ConfigError: points are whole sequences, and of a class all drawn samples are shorter.
        """
        draws = []
        for group in groups:
            for target_class, most in zip(group, self._shares(split, group, *names), strict=True):
                generator = seeding.numpy_generator(
                    self.seed, "align", "samples", target_class, *names
                )
                members = split.members[target_class]
                size = min(most, len(members), self._readable)
                draws.append(
                    Draw(
                        np.sort(generator.choice(members, size=size, replace=False)),
                        most,
                        generator,
                    )
                )
        embedded = embed_points(
            self.model, self.engine, split.samples, draws, self.settings.features
        )
        is_sequence = self.settings.features == "sequence"
        if is_sequence and any(
            draw.most and not len(cloud) for draw, cloud in zip(draws, embedded, strict=True)
        ):
            what = f"of some class no sample has all {self.model.embedder.layout.tokens} tokens"
            raise ConfigError(
                what, where="align.features=sequence", hint="use align.features=tokens or pooled"
            )
        clouds, result = iter(embedded), []
        for group in groups:
            parts = [next(clouds).to(self.source.x.dtype) for _ in group]
            numbers = [
                cloud.new_full((len(cloud),), place, dtype=torch.int64)
                for place, cloud in enumerate(parts)
            ]
            result.append(Features(torch.cat(parts), torch.cat(numbers), len(group)))
        return result

    @property
    def _readable(self) -> int:
        """Return how many samples of a class are read at most; where a sample is a point, as many as there are points."""
        if self.settings.features != "tokens":
            return self.size
        return max(
            _LEAST_SAMPLES, _DRAWN_VALUES // math.prod(self.model.embedder.layout.input_shape)
        )

    def _shares(self, split: Labelled, group: tuple[int, ...], *names: str | int) -> list[int]:
        """Return how many points each class of a group gives: `max_samples` in all, if there are as many.

        Equally many of each where the metric balances them. Else systematic sampling: every class has its share in expectation,
        and is never off by a whole point.
        """
        sizes = np.array([len(split.members[target_class]) for target_class in group], dtype=float)
        each = self.model.embedder.layout.tokens if self.settings.features == "tokens" else 1
        total = min(self.size, int(sizes.sum()) * each)
        if self.balanced:
            return [min(max(1, total // len(group)), int(size) * each) for size in sizes]
        start = seeding.numpy_generator(self.seed, "align", "shares", *group, *names).random()
        ends = np.floor(np.cumsum(sizes) / sizes.sum() * total + start)
        ends[-1] = total  # a sum of shares that rounding leaves below 1 must not lose a point
        return np.diff(ends, prepend=0.0).astype(int).tolist()


def compare(
    built: Built, engine: Engine, reporter: Reporter, whole: bool = True
) -> tuple[Problem, EmbeddedSource]:
    """Embed the source of a run that has an alignment, or take it from the cache, and label the target.

    With `whole`, the source's points are drawn from all of its examples; a few do where only time is measured. Of pseudo-labels
    there are by default as many as the source has classes (A.3.4). Raises as `source_features`; UnavailableError where the
    device has no float64.
    """
    if engine.device.type == "mps":
        raise UnavailableError(
            "mps has no float64", where="device", hint="use device=cpu, or metric=none"
        )
    plan, task, settings, cache = built.plan, built.task, built.plan.align, cache_folder(built.plan)
    tokens, points, draw = (
        built.model.embedder.layout.tokens,
        settings.source_points,
        source_seed(plan),
    )
    wanted = Wanted(
        settings.features, tokens, points, draw, settings.source_cloud, settings.source_labels
    )
    assert built.source is not None
    source = source_features(
        built.model.body, built.source, wanted, engine.device, cache, reporter, whole
    )
    metric: Metric = parts.build(plan.metric, "metric")
    cloud = replace(
        source.cloud,
        x=source.cloud.x.to(engine.device),
        labels=source.cloud.labels.to(engine.device),
    )
    prepared = prepared_metric(metric, plan.metric, cloud, source.key, cache)
    prepared = {name: value.to(engine.device) for name, value in prepared.items()}
    count, targets = (
        settings.pseudo_labels or cloud.num_classes,
        (task.train.targets(), task.validation.targets()),
    )
    classes = class_labels(task.kind, *targets, num_clusters=count, seed=plan.seed)
    if settings.target_labels == "shuffled":
        classes = shuffled(classes, plan.seed)
    train, heldout = map(Labelled, (task.train, task.validation), classes)
    return Problem(
        built.model, engine, metric, cloud, prepared, train, heldout, settings, plan.seed
    ), source


def measure(
    metric: Metric,
    source: Features,
    prepared: dict[str, Tensor],
    target: Features,
    generator: np.random.Generator,
) -> Distance:
    """Return a metric's distance; one that samples the source is given as many of its points as the target has.

    Both sides then come in a random order (`samples_source` in `interfaces.Metric`); where the metric balances classes
    (`balanced_classes`), equally many of the source's points are of each, and the classes of either side take turns.
    """
    if getattr(metric, "samples_source", False):
        size = min(len(source.x), len(target.x))
        if most := getattr(metric, "balanced_classes", 0):
            source = _some(source, balanced_rows(source, size, most, generator))
            target = _some(target, _in_turn(target.labels.cpu().numpy(), generator))
        else:
            source = _some(source, generator.choice(len(source.x), size=size, replace=False))
            target = _some(target, generator.permutation(len(target.x)))
    return metric.distance(source, prepared, target)


def balanced_rows(
    points: Features, size: int, most: int, generator: np.random.Generator
) -> np.ndarray:
    """Return rows of points [m], m <= size, of at most `most` classes, which are drawn and take turns.

    Each class gives size / (number of classes) rows, rounded down, or all that it has.
    """
    labels = points.labels.cpu().numpy()
    chosen = generator.permutation(np.unique(labels))[: min(most, size)]
    each = size // len(chosen)
    rows = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == one))[:each] for one in chosen]
    )
    return rows[_in_turn(labels[rows], generator)]


def _in_turn(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random order in which the classes take turns: consecutive samples then differ less, with no bias."""
    order = generator.permutation(len(labels))
    turn = np.empty_like(order)
    for one in np.unique(labels):
        members = order[labels[order] == one]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")]


def _some(points: Features, rows: np.ndarray) -> Features:
    chosen = torch.from_numpy(rows).to(points.x.device)
    return Features(points.x[chosen], points.labels[chosen], points.num_classes)


class Draw(NamedTuple):
    """At most `most` points of the samples with these `indices`, drawn by the generator without replacement."""

    indices: np.ndarray
    most: int
    generator: np.random.Generator


def embed_points(
    model: TransferModel, engine: Engine, samples: Samples, draws: Sequence[Draw], features: str
) -> list[Tensor]:
    """Return the points [p, d] of each draw; `features` as in `Align.features`, d = T * D of "sequence", else D.

    Of tokens, only those that are drawn are embedded where the embedder can do that (its `tokens_at`).
    """
    indices = np.concatenate([draw.indices for draw in draws])
    tokens_at = getattr(model.embedder, "tokens_at", None)
    if features != "tokens" or tokens_at is None:
        tokens = embed(model, engine, samples, indices)
        points, owners = select_points(tokens, features, model.embedder.layout.tokens)
        chosen = _chosen(draws, owners.cpu().numpy())
        return [points[torch.from_numpy(rows).to(points.device)] for rows in chosen]
    read = list(_batches(model, engine, samples, indices))
    masks = [model.embedder.mask(batch.x, batch.valid) for batch in read]
    rows, places = torch.cat(masks).cpu().numpy().nonzero()
    chosen = _chosen(draws, rows)
    kept = np.concatenate(chosen)
    rows, places = rows[kept], places[kept]
    clouds, first = [], 0
    for batch in read:
        here = (rows >= first) & (rows < first + len(batch.x))
        where = (
            torch.from_numpy(values[here]).to(batch.x.device) for values in (rows - first, places)
        )
        clouds.append(tokens_at(batch.x, batch.valid, *where))
        first += len(batch.x)
    return list(torch.cat(clouds).split([len(some) for some in chosen]))


def _chosen(draws: Sequence[Draw], owners: np.ndarray) -> list[np.ndarray]:
    """Return the points that each draw chooses; `owners` are the places of the samples that they belong to, in order."""
    cuts = np.searchsorted(owners, np.cumsum([0, *(len(draw.indices) for draw in draws)]))
    chosen = []
    for draw, start, count in zip(draws, cuts, np.diff(cuts), strict=False):
        every = np.arange(start, start + count)
        few = count <= draw.most
        chosen.append(
            every if few else np.sort(draw.generator.choice(every, size=draw.most, replace=False))
        )
    return chosen


def embed(model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray) -> Tokens:
    """Return the embedder's tokens of some samples.

    Large samples are read a few at a time: of their inputs the gradient needs no more than the body's canvas.
    """
    pieces = [
        model.embed(batch.x, batch.valid) for batch in _batches(model, engine, samples, indices)
    ]
    x, mask = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("x", "mask"))
    return replace(pieces[0], x=x, mask=mask)


def _batches(
    model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray
) -> Iterator[Batch]:
    """Yield the samples on the run's device, as many at a time as `EMBEDDED_VALUES` allows."""
    for some in batches(
        indices, max(1, EMBEDDED_VALUES // math.prod(model.embedder.layout.input_shape))
    ):
        yield engine.move(samples.batch(some))
