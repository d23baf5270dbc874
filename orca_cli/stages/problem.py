"""The objective of stage 2: the class-wise distance of embedded target data to the fixed source.

Paper A.1.2, Algorithm 1, for target classes k with n_k of the n training samples and a metric d
between labelled clouds:

    D(f_t) = sum_k n_k / n  d(f_s(source), f_t(points of class k))

Every d is computed on a limited number of points (`ProblemForm`), which are drawn again at every
step. A metric may ask for several classes, or all classes, in one d, whose weight is then the sum
of theirs. A metric may also ask for samples of the source instead of all of its points
(`interfaces.Metric`). The default `otdd` asks for both.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.config import parts
from orca_cli.config.schema import Align
from orca_cli.exceptions import ConfigError, NonFiniteError, UnavailableError
from orca_cli.interfaces import Distance, Features, Metric, Reporter, Samples
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import Built, cache_folder, source_seed
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import (
    EmbeddedSource,
    Wanted,
    prepared_metric,
    source_features,
)
from orca_cli.stages.strata import Strata, by_class, choose_classes
from orca_cli.stages.target_points import Draw, embed_points, samples_at_once
from orca_cli.training.engine import Engine
from orca_cli.training.loop import batches

# Maximum number of input values that are read from the samples of a class: fewer large samples are
# read, since each gives more tokens.
_DRAWN_VALUES = 2**27
_FEWEST_SAMPLES = 8
# Default numbers of points of a problem.
_POINTS_OF_A_CLASS = 128
_POINTS_OF_CLASSES = 256
# Maximum number of points of several problems that are embedded at once: each call costs as much as
# a thousand points.
_EMBEDDED_POINTS = 2**13
_EXACT_SOURCE_POINTS = 500
_EXACT_TARGET_POINTS = 200

Group = tuple[int, ...]  # the target classes of one problem


class Labelled:
    """A split with a class or pseudo-label for every sample, [n].

    Attributes:
        members: class -> indices of its samples, [n_k].
        sizes: class -> number of its samples, n_k.
    """

    def __init__(self, samples: Samples, labels: np.ndarray) -> None:
        self.samples = samples
        self.labels = labels
        self.members = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        self.sizes = Counter(labels.tolist())


class Sides(NamedTuple):
    """The points of source and target that a metric compares."""

    source: Features
    target: Features


@dataclass(frozen=True)
class ProblemForm:
    """The target side of one problem; `form_of` makes it.

    Args:
        features: kind of point, as in `Align.features`.
        classes: number of target classes in one problem; None: all classes of a split.
        points: maximum number of points of one problem.
    """

    features: str
    classes: int | None
    points: int


def form_of(metric: Metric, settings: Align) -> ProblemForm:
    """Return the form of problems by the settings or, if these are null, by the metric."""
    classes_per_problem = settings.classes_per_problem  # 0 for all, as users write it
    if classes_per_problem is None:
        classes_per_problem = 0 if metric.all_classes else 1
    points_per_problem = settings.max_samples
    if points_per_problem is None:
        points_per_problem = _POINTS_OF_A_CLASS if classes_per_problem == 1 else _POINTS_OF_CLASSES
    return ProblemForm(
        features=settings.features, classes=classes_per_problem or None, points=points_per_problem
    )


class _Drawing(NamedTuple):
    """The draw for a group of classes; `source` is None if a metric uses the whole source."""

    source: Strata | None
    target: Draw
    generator: Generator


@dataclass(frozen=True)
class Problem:
    """The distance that stage 2 minimises, from groups of target classes to the source.

    `make_problem` makes it. Values are in the metric's units (its `convention`).

    Args:
        model, engine: transfer and engine, which embed the target on the run's device.
        metric: the distance.
        source, prepared: the source's points on that device, and the tensors that the metric
            computed from them.
        train, heldout: the training split, and the validation split.
        form: target side of one problem.
        seed: seed of the draws.
    """

    model: TransferModel
    engine: Engine
    metric: Metric
    source: Features
    prepared: dict[str, Tensor]
    train: Labelled
    heldout: Labelled
    form: ProblemForm
    seed: int

    def groups(self, split: Labelled, *names: str | int) -> list[Group]:
        """Return the classes of a split in a seeded order, cut into groups of a problem each."""
        generator = seeding.numpy_generator(self.seed, "align", "order", *names)
        # The names include the step, so that different classes share a problem at every step.
        order = generator.permutation(list(split.members))
        group_size = self.form.classes or len(order)
        return [tuple(labels.tolist()) for labels in batches(order, group_size)]

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradients of all groups to the embedder's.

        An InterruptionError is raised between two lists of `distances`; the gradient is then
        incomplete.

        Returns:
            the weighted sum of all distances, and the worst diagnostics: the largest iterations and
            marginal_error, if the metric has them.
        """
        loss = 0.0
        worst: dict[str, float] = {}
        # Differentiated list by list, so that memory holds the graph of a single list.
        for weighted_distances in self.distances(self.train, step):
            terms = [weight * distance.value for weight, distance in weighted_distances]
            joint_loss = torch.stack(terms).sum()
            joint_loss.backward()  # once for all groups that share a graph
            loss += float(joint_loss.detach())
            for _, distance in weighted_distances:
                for name in ("iterations", "marginal_error"):
                    if name in distance.diagnostics:
                        worst[name] = max(worst.get(name, 0.0), distance.diagnostics[name])
        return loss, worst

    def distances(
        self, split: Labelled, *names: str | int
    ) -> Iterator[list[tuple[float, Distance]]]:
        """Yield weight and distance of every group of classes, on the points that `names` draw.

        Groups whose points are embedded together come in one list, and share a graph: differentiate
        their sum.
        """
        groups = self.groups(split, *names)
        # The memory of their inputs and points limits how many groups are embedded together.
        most_points = self.form.points
        samples_per_group = min(most_points, self._readable_samples)
        # It is 0 if the samples of a group exceed the limit; the group is then embedded alone.
        by_inputs = samples_at_once(self.model) // samples_per_group
        groups_at_once = max(1, min(by_inputs, _EMBEDDED_POINTS // most_points))
        for start in range(0, len(groups), groups_at_once):
            signals.check()
            batch = groups[start : start + groups_at_once]
            distances = []
            for group, sides in zip(batch, self.clouds(split, batch, *names), strict=True):
                # n_k / n of Algorithm 1, added up over the classes of the group.
                samples_of_group = sum(split.sizes[label] for label in group)
                weight = samples_of_group / len(split.samples)
                distance = self.metric.distance(sides.source, self.prepared, sides.target)
                distances.append((weight, distance))
            yield distances

    @torch.no_grad()
    def value(self, split: Labelled) -> float:
        """Return the weighted sum over all groups on a draw that is the same at every call.

        Raises:
            NonFiniteError: the sum is NaN or infinite.
        """
        terms: list[float] = []
        for weighted_distances in self.distances(split, "fixed"):
            terms.extend(weight * float(distance.value) for weight, distance in weighted_distances)
        total = sum(terms)
        if not math.isfinite(total):
            raise NonFiniteError(
                f"the distance is {total}", where="align", hint="try a smaller align.lr"
            )
        return total

    @torch.no_grad()
    def exact_value(self) -> float:
        """Return the exact OTDD of fixed held-out samples to a part of the source (Figure 6).

        It is computed by linear programming. All classes are in one problem, of at most 200 target
        and 500 source points for every metric: the figure compares their curves.
        """
        metric = OTDDExact()
        form = replace(self.form, points=_EXACT_TARGET_POINTS)
        group = tuple(sorted(self.heldout.members))
        (sides,) = replace(self, metric=metric, form=form).clouds(self.heldout, [group], "exact")
        generator = seeding.numpy_generator(self.seed, "align", "exact", "source")
        source_rows = generator.permutation(len(self.source.x))[:_EXACT_SOURCE_POINTS]
        source = points_at(self.source, np.sort(source_rows))
        return float(metric.distance(source, metric.prepare(source), sides.target).value)

    def clouds(self, split: Labelled, groups: Sequence[Group], *names: str | int) -> list[Sides]:
        """Return, for every group, points of the source and of its classes, drawn and embedded.

        A metric of clouds gets the whole source, and at most `form.points` points of the target,
        each class by its share. A metric of samples (`Metric.sample_size`) gets samples of both, at
        most `form.points` points on each side, as `stages.strata` draws them.

        Raises:
            ConfigError: a point is all tokens of a sample, and all drawn samples of a class are too
                short for a point.
        """
        # All draws come first: samples of several groups go through the embedder together.
        drawings = [self._drawing(split, group, *names) for group in groups]
        embedded = embed_points(
            self.model,
            self.engine,
            split.samples,
            [drawing.target for drawing in drawings],
            features=self.form.features,
        )
        clouds = []
        for group, drawing, (points, indices) in zip(groups, drawings, embedded, strict=True):
            points = points.to(self.source.x.dtype)  # [samples, points, d]
            # Classes are numbered from 0 within their group.
            class_numbers = np.searchsorted(np.sort(group), split.labels[indices])
            labels = torch.from_numpy(class_numbers).to(points.device)
            if drawing.source is None:
                # The only sample is the cloud.
                points = points[0]
                labels = labels[0]
                source = self.source
            else:
                # Samples of the target may be smaller than the limit; samples of the source get the
                # same size.
                source_rows = drawing.source.draw(points.shape[1], drawing.generator)
                source = points_at(self.source, source_rows)
            target = Features(x=points, labels=labels, num_classes=len(group))
            clouds.append(Sides(source=source, target=target))
        return clouds

    def _drawing(self, split: Labelled, group: Group, *names: str | int) -> _Drawing:
        """Return the draw for a group of classes.

        It has as many samples of full size as fit into the points of a problem and into both sides;
        if fewer than two fit, it has two smaller samples. It has one sample if a side has a single
        point, or if the metric compares clouds.
        """
        generator = seeding.numpy_generator(self.seed, "align", "draw", *group, *names)
        points_of_sample = 1
        draw_target = self._of_samples
        if self.form.features == "tokens":
            points_of_sample = self.model.embedder.layout.tokens
            draw_target = self._of_tokens
        # An upper bound, since it includes padding, which is known only once samples are read.
        class_sizes = {label: split.sizes[label] * points_of_sample for label in group}
        sample_size = self.metric.sample_size
        most_classes = self.metric.sample_classes
        source = None
        num_samples = 1
        most_points = self.form.points
        if sample_size:
            # Both sides give the same number of points, so the smaller side decides.
            num_points = min(most_points, len(self.source.x), sum(class_sizes.values()))
            # At least two samples of each side, since debiasing subtracts the distance between
            # them.
            num_samples = max(min(2, num_points), num_points // sample_size)
            source_labels = self.source.labels.cpu().numpy()
            source_sizes = Counter(source_labels.tolist())
            # Drawn by the same rule as the target: different rules would leave a gradient even if
            # source and target are equal (decision 0016).
            source = by_class(
                source_labels, choose_classes(source_sizes, num_samples, most_classes, generator)
            )
            # Samples of both sides have the same size.
            most_points = min(sample_size, most_points // num_samples, source.limit)
        classes = choose_classes(class_sizes, num_samples, most_classes, generator)
        target = draw_target(split, classes, most_points, generator)
        return _Drawing(source=source, target=target, generator=generator)

    def _of_tokens(
        self,
        split: Labelled,
        classes: Sequence[np.ndarray],
        limit: int,
        generator: Generator,
    ) -> Draw:
        """Return the draw of samples of these classes, of at most `limit` tokens each.

        The number of samples of a class that are read is the number of tokens that could be taken
        from the class, or the size of the class if that is smaller.
        """
        sizes = split.sizes
        shares: dict[int, int] = {}  # class -> maximum number of tokens that a sample takes
        for labels in classes:
            sample_total = sum(sizes[label] for label in labels)
            for label in labels.tolist():
                # Rounded up, as systematic sampling may do.
                label_share = math.ceil(limit * sizes[label] / sample_total)
                shares[label] = max(label_share, shares.get(label, 0))
        # Class -> number of drawn samples that take tokens from it.
        sharing = Counter(np.concatenate(classes).tolist())
        indices_read = []
        fractions = {}
        for label, label_share in shares.items():
            num_read = min(label_share * sharing[label], sizes[label], self._readable_samples)
            indices_read.append(
                generator.choice(split.members[label], size=num_read, replace=False)
            )
            # A class keeps the share of all its samples, however few of them are read.
            fractions[label] = num_read / sizes[label]

        def choose(owners: np.ndarray) -> np.ndarray:
            return by_class(split.labels[owners], classes, fractions).draw(limit, generator)

        # `Draw` takes ascending samples; no two classes have a sample in common.
        return Draw(indices=np.sort(np.concatenate(indices_read)), choose=choose)

    def _of_samples(
        self,
        split: Labelled,
        classes: Sequence[np.ndarray],
        limit: int,
        generator: Generator,
    ) -> Draw:
        """Return the draw in which a point is a sample of the split; only drawn samples are read.

        Samples of the split that are shorter than a point are left out, and all samples of points
        are cut to the size of the smallest.
        """
        candidates = np.flatnonzero(np.isin(split.labels, np.concatenate(classes)))
        strata = by_class(split.labels[candidates], classes)
        drawn = candidates[strata.draw(limit, generator)]  # [samples, points]

        def choose(owners: np.ndarray) -> np.ndarray:
            # Samples that are too short own no point.
            row_of = {owner: row for row, owner in enumerate(owners.tolist())}
            present_rows = []
            for sample in drawn.tolist():
                present_rows.append([row_of[index] for index in sample if index in row_of])
            sample_size = min(map(len, present_rows))
            # Otherwise a class that lost all its points would drop out of the distance unnoticed.
            lost_classes = np.setdiff1d(split.labels[drawn], split.labels[owners])
            if sample_size == 0 or len(lost_classes) > 0:
                raise ConfigError(
                    f"some class has no sample with all {self.model.embedder.layout.tokens} tokens",
                    where="align.features=sequence",
                    hint="use align.features=tokens or align.features=pooled",
                )
            return np.array([rows[:sample_size] for rows in present_rows])

        return Draw(indices=np.sort(drawn, axis=None), choose=choose)

    @property
    def _readable_samples(self) -> int:
        """Return the maximum number of samples of a class that are read.

        If a sample is a point, it is the number of points in a problem.
        """
        if self.form.features != "tokens":
            return self.form.points
        sample_values = math.prod(self.model.embedder.layout.input_shape)
        return max(_FEWEST_SAMPLES, _DRAWN_VALUES // sample_values)


def make_problem(
    built: Built, engine: Engine, reporter: Reporter, *, all_examples: bool = True
) -> tuple[Problem, EmbeddedSource]:
    """Embed the source of a run that has an alignment, or read it from the cache; label the target.

    Args:
        built, engine, reporter: objects of the run.
        all_examples: as in `source_features`; a few examples suffice if only time is measured.

    Raises:
        UnavailableError: the device has no float64.
        OrcaError: any that `source_features` raises.
    """
    # Sums over the source are taken in float64 (`source_features.moments`).
    if engine.device.type == "mps":
        raise UnavailableError(
            "mps has no float64, which the alignment needs",
            where="device",
            hint="use device=cpu or metric=none",
        )
    assert built.source is not None
    model = built.model
    plan = built.plan
    settings = plan.align
    wanted = Wanted(
        features=settings.features,
        length=model.embedder.layout.tokens,
        points=settings.source_points,
        # By default not the run's seed: runs of all seeds share one draw, and its cached features.
        seed=source_seed(plan),
        cloud=settings.source_cloud,
        labels=settings.source_labels,
    )
    source = source_features(
        model.body,
        built.source,
        wanted,
        device=engine.device,
        cache_folder=cache_folder(plan),
        reporter=reporter,
        all_examples=all_examples,
    )
    metric: Metric = parts.build(plan.metric, "metric")
    prepared = prepared_metric(metric, plan.metric, source, cache_folder(plan))
    train, heldout = _labelled_splits(built, source.cloud.num_classes)
    problem = Problem(
        model=model,
        engine=engine,
        metric=metric,
        source=source.cloud,
        prepared=prepared,
        train=train,
        heldout=heldout,
        form=form_of(metric, settings),
        seed=plan.seed,
    )
    return problem, source


def _labelled_splits(built: Built, source_classes: int) -> tuple[Labelled, Labelled]:
    """Return the training and the validation split with their classes or pseudo-labels.

    Unless `align.pseudo_labels` says otherwise, there are as many pseudo-labels as the source has
    classes (A.3.4).
    """
    task = built.task
    settings = built.plan.align
    labels = class_labels(
        task.kind,
        task.train.targets(),
        task.validation.targets(),
        num_clusters=settings.pseudo_labels or source_classes,
        seed=built.plan.seed,
    )
    if settings.target_labels == "shuffled":
        labels = shuffled(labels, built.plan.seed)
    train_labels, heldout_labels = labels
    return Labelled(task.train, train_labels), Labelled(task.validation, heldout_labels)


def points_at(points: Features, rows: np.ndarray) -> Features:
    """Return the points in these rows, [*rows.shape, d]."""
    chosen_rows = torch.from_numpy(rows).to(points.x.device)
    return replace(points, x=points.x[chosen_rows], labels=points.labels[chosen_rows])
