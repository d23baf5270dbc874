"""What stage 2 compares, embedded target data and the fixed source, and minimises: the class-wise distance between them.

Paper A.1.2, Algorithm 1, for target classes k with n_k of the n training samples and a metric d between labelled clouds:

    D(f_t) = sum_k n_k / n  d(f_s(source), f_t(points of class k))

Every d is taken on at most `Problem.size` points, drawn anew at every step. A metric may ask for several classes or all in one
d, whose weight is then the sum of theirs, and for samples of the source in place of all of its points (`interfaces.Metric`).
The default `otdd` asks for both.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from orca_cli.stages.strata import Strata, by_class, choose_classes
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
        self.labels = labels
        self.members = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)}


class Sides(NamedTuple):
    """What a metric is given."""

    source: Features
    target: Features


class Draw(NamedTuple):
    """Which points of some samples to take.

    Args:
        indices: the samples to read, ascending.
        choose: is given the index of the sample that each point belongs to, [p], and returns the rows of points to take, each
            once, in an array of any shape.
    """

    indices: np.ndarray
    choose: Callable[[np.ndarray], np.ndarray]


class _Drawing(NamedTuple):
    """What is drawn for a group of target classes; `source` is None where a metric takes all of it."""

    source: Strata | None
    target: Draw
    generator: np.random.Generator


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
    def size(self) -> int:
        """Return the most points that a problem has."""
        return self.settings.max_samples or (
            _POINTS_OF_A_CLASS if self.classes == 1 else _POINTS_OF_CLASSES
        )

    def groups(self, split: Labelled, *names: str | int) -> list[tuple[int, ...]]:
        """Return the classes of a split in a seeded order, cut into groups of `classes_per_problem`."""
        order = (
            seeding.numpy_generator(self.seed, "align", "order", *names)
            .permutation(list(split.members))
            .tolist()
        )
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
            signals.check()
            batch = groups[start : start + together]
            distances = []
            for group, sides in zip(batch, self.clouds(split, batch, *names), strict=True):
                weight = sum(len(split.members[label]) for label in group) / len(split.samples)
                distance = self.metric.distance(sides.source, self.prepared, sides.target)
                distances.append((weight, distance))
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
        metric = OTDDExact()
        settings = replace(self.settings, max_samples=_EXACT_TARGET_POINTS)
        problem = replace(self, metric=metric, settings=settings)
        group = tuple(sorted(self.heldout.members))
        (sides,) = problem.clouds(self.heldout, [group], "exact")
        generator = seeding.numpy_generator(self.seed, "align", "exact", "source")
        rows = generator.permutation(len(self.source.x))[:_EXACT_SOURCE_POINTS]
        source = points_at(self.source, np.sort(rows))
        return float(metric.distance(source, metric.prepare(source), sides.target).value)

    def clouds(
        self, split: Labelled, groups: Sequence[tuple[int, ...]], *names: str | int
    ) -> list[Sides]:
        """Return for every group the source and its classes' points, drawn and embedded, as the metric takes them.

        A metric of clouds gets the whole source, and at most `size` points of the target, each class by its share. One of
        samples (`Metric.sample_size`) gets samples of both, of at most `size` points a side, as `stages.strata` draws them.

        Raises:
            ConfigError: points are whole sequences, and of a class all drawn samples are shorter.
        """
        drawings = [self._drawing(split, group, *names) for group in groups]
        draws = [drawing.target for drawing in drawings]
        features = self.settings.features
        embedded = embed_points(self.model, self.engine, split.samples, draws, features)
        clouds = []
        for group, drawing, (x, indices) in zip(groups, drawings, embedded, strict=True):
            x = x.to(self.source.x.dtype)
            numbers = np.searchsorted(np.sort(group), split.labels[indices])
            target = Features(x, torch.from_numpy(numbers).to(x.device), len(group))
            if drawing.source is None:
                cloud = replace(target, x=x[0], labels=target.labels[0])
                clouds.append(Sides(self.source, cloud))
            else:
                rows = drawing.source.draw(x.shape[1], drawing.generator)
                clouds.append(Sides(points_at(self.source, rows), target))
        return clouds

    def _drawing(self, split: Labelled, group: tuple[int, ...], *names: str | int) -> _Drawing:
        """Return what is drawn: as many samples as full ones fit into `size` and both sides, or else two smaller ones.

        Where a side has a single point, or the metric compares clouds, there is one sample.
        """
        generator = seeding.numpy_generator(self.seed, "align", "draw", *group, *names)
        is_token = self.settings.features == "tokens"
        each = self.model.embedder.layout.tokens if is_token else 1
        sizes = {label: len(split.members[label]) * each for label in group}
        sample_size = getattr(self.metric, "sample_size", 0)
        most_classes = getattr(self.metric, "sample_classes", 0)
        source = None
        samples = 1
        limit = self.size
        if sample_size:
            points = min(self.size, len(self.source.x), sum(sizes.values()))
            samples = max(min(2, points), points // sample_size)
            labels = self.source.labels.cpu().numpy()
            counts = Counter(labels.tolist())
            source = by_class(labels, choose_classes(counts, samples, most_classes, generator))
            limit = min(sample_size, self.size // samples, source.limit)
        classes = choose_classes(sizes, samples, most_classes, generator)
        draw = self._of_tokens if is_token else self._of_samples
        return _Drawing(source, draw(split, classes, limit, generator), generator)

    def _of_tokens(
        self,
        split: Labelled,
        classes: Sequence[np.ndarray],
        limit: int,
        generator: np.random.Generator,
    ) -> Draw:
        """Return the draw of samples of these classes, of at most `limit` tokens each.

        Of a class as many samples of the split are read as tokens could be taken, or all that it has.
        """
        needed: dict[int, int] = {}
        for labels in classes:
            total = sum(len(split.members[label]) for label in labels)
            for label in labels.tolist():
                share = math.ceil(limit * len(split.members[label]) / total)
                needed[label] = max(share, needed.get(label, 0))
        sharing = Counter(np.concatenate(classes).tolist())
        read = []
        fractions = {}
        for label, share in needed.items():
            members = split.members[label]
            size = min(share * sharing[label], len(members), self._readable)
            read.append(generator.choice(members, size=size, replace=False))
            fractions[label] = size / len(members)

        def choose(owners: np.ndarray) -> np.ndarray:
            return by_class(split.labels[owners], classes, fractions).draw(limit, generator)

        return Draw(np.sort(np.concatenate(read)), choose)

    def _of_samples(
        self,
        split: Labelled,
        classes: Sequence[np.ndarray],
        limit: int,
        generator: np.random.Generator,
    ) -> Draw:
        """Return the draw where a point is a sample of the split; those that are not drawn are not read.

        Those that are shorter than a point are missing, and all samples of points are cut to the size of the smallest.
        """
        candidates = np.flatnonzero(np.isin(split.labels, np.concatenate(classes)))
        strata = by_class(split.labels[candidates], classes)
        drawn = candidates[strata.draw(limit, generator)]

        def choose(owners: np.ndarray) -> np.ndarray:
            rows = {owner: row for row, owner in enumerate(owners.tolist())}
            present = [
                [rows[index] for index in sample if index in rows] for sample in drawn.tolist()
            ]
            size = min(map(len, present))
            lost = np.setdiff1d(split.labels[drawn], split.labels[owners])
            if not size or len(lost):
                raise ConfigError(
                    f"of some class no sample has all {self.model.embedder.layout.tokens} tokens",
                    where="align.features=sequence",
                    hint="use align.features=tokens or pooled",
                )
            return np.array([sample[:size] for sample in present])

        return Draw(np.sort(drawn, axis=None), choose)

    @property
    def _readable(self) -> int:
        """Return how many samples of a class are read at most; where a sample is a point, as many as there are points."""
        if self.settings.features != "tokens":
            return self.size
        return max(
            _LEAST_SAMPLES, _DRAWN_VALUES // math.prod(self.model.embedder.layout.input_shape)
        )


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


def points_at(points: Features, rows: np.ndarray) -> Features:
    """Return the points with these rows, [*rows.shape, d]."""
    chosen = torch.from_numpy(rows).to(points.x.device)
    return Features(points.x[chosen], points.labels[chosen], points.num_classes)


def embed_points(
    model: TransferModel, engine: Engine, samples: Samples, draws: Sequence[Draw], features: str
) -> list[tuple[Tensor, np.ndarray]]:
    """Return of each draw the points [*, d], and the index of the sample that each belongs to, [*].

    `features` is as in `Align.features`; d is T * D of "sequence", else D. Of tokens, only those that are drawn are embedded
    where the embedder can do that (its `tokens_at`).
    """
    indices = np.concatenate([draw.indices for draw in draws])
    tokens_at = getattr(model.embedder, "tokens_at", None)
    if features != "tokens" or tokens_at is None:
        tokens = embed(model, engine, samples, indices)
        points, samples_of_points = select_points(tokens, features, model.embedder.layout.tokens)
        owners = samples_of_points.cpu().numpy()
        chosen = _chosen(draws, owners)
        return [
            (points[torch.from_numpy(rows).to(points.device)], indices[owners[rows]])
            for rows in chosen
        ]
    read = list(_batches(model, engine, samples, indices))
    masks = [model.embedder.mask(batch.x, batch.valid) for batch in read]
    owners, places = torch.cat(masks).cpu().numpy().nonzero()
    chosen = _chosen(draws, owners)
    kept = np.sort(np.concatenate(chosen, axis=None))
    clouds = []
    first = 0
    for batch in read:
        rows = kept[(owners[kept] >= first) & (owners[kept] < first + len(batch.x))]
        where = (
            torch.from_numpy(part[rows]).to(batch.x.device) for part in (owners - first, places)
        )
        clouds.append(tokens_at(batch.x, batch.valid, *where))
        first += len(batch.x)
    points = torch.cat(clouds)
    chosen_points = []
    for chosen_rows in chosen:
        order = torch.from_numpy(np.searchsorted(kept, chosen_rows)).to(points.device)
        chosen_points.append((points[order], indices[owners[chosen_rows]]))
    return chosen_points


def _chosen(draws: Sequence[Draw], owners: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the points that each draw takes; `owners` are the places of their samples in all draws' indices."""
    chosen = []
    first = 0
    for draw in draws:
        start, end = np.searchsorted(owners, [first, first + len(draw.indices)])
        chosen.append(start + draw.choose(draw.indices[owners[start:end] - first]))
        first += len(draw.indices)
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
