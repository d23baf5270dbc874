"""The points that stage 2 draws and embeds: their number in each class, and which samples are read.

With these draws `otdd` and its gradient are 0 if source and target have the same distribution,
however uneven its classes are.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from orca_cli.config.schema import Align
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import Distance, Features, Metric, Tokens
from orca_cli.metrics.otdd import OTDD
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import swin
from orca_cli.stages import target_points
from orca_cli.stages.problem import Labelled, Problem, form_of
from scripts.bench_metric import Points, drawn_distance, problem_of
from tests.checkpoints import save_tiny_swin
from tests.training.toy import engine

LABELS = np.array([0] * 20 + [1] * 3 + [2] * 9)
SIZE = 5 * 40 * 40  # numbers of one input


class Watched(ArraySamples):
    """Records which samples are read, and how many at once."""

    def __init__(self):
        super().__init__(np.random.default_rng(0).normal(size=(len(LABELS), 5, 40, 40)), LABELS)
        self.batches = []

    def batch(self, indices, augment=None):
        assert augment is None  # samples that are compared are never augmented
        self.batches.append(list(indices))
        return super().batch(indices, augment)

    @property
    def read(self):
        return [index for indices in self.batches for index in indices]


class Count(Metric):
    """A metric that keeps its sources and targets."""

    def __init__(self):
        self.sources = []
        self.targets = []

    def prepare(self, source):
        return {}

    def distance(self, source, prepared, target):
        self.sources.append(source)
        self.targets.append(target)
        return Distance(target.x.square().mean())


def counting(**traits):
    return type("Count", (Count,), traits)()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    body = swin.load(str(save_tiny_swin(tmp_path_factory.mktemp("swin") / "swin")))
    return build_model(body=body, kind="classes", input_shape=(5, 40, 40), num_outputs=3, seed=0)


LABELLED = Labelled(Watched(), LABELS)


def problem_between(source, split, metric, model=None, **settings):
    """A problem of a source and a split, whose validation split is the same."""
    return Problem(
        model=model,
        engine=engine(),
        metric=metric,
        source=source,
        prepared={},
        train=split,
        heldout=split,
        form=form_of(metric, Align(**settings)),
        seed=0,
    )


def one_point(width):
    """A source of one point."""
    return Features(x=torch.zeros(1, width), labels=torch.zeros(1, dtype=torch.long), num_classes=1)


class Epoch(NamedTuple):
    """The comparison of a step of stage 2: points, weights of their distances, and the gradient."""

    clouds: list[Features]
    weights: list[float]
    gradient: torch.Tensor


def epoch(model, samples, features="pooled", step=0, **settings):
    metric = Count()
    source = one_point(width=16)
    train = Labelled(samples, samples.targets())
    problem = problem_between(
        source, train, metric, model, max_samples=8, features=features, **settings
    )
    model.zero_grad()
    weights = []
    for batch in problem.distances(train, step):
        sum(weight * distance.value for weight, distance in batch).backward()
        weights += [weight for weight, _ in batch]
    gradient = model.embedder.convolution.weight.grad.clone()
    return Epoch(clouds=metric.targets, weights=weights, gradient=gradient)


def assert_same(expected, actual):
    for expected_cloud, cloud in zip(expected.clouds, actual.clouds, strict=True):
        torch.testing.assert_close(expected_cloud.x, cloud.x)
    torch.testing.assert_close(expected.gradient, actual.gradient)
    assert expected.gradient.abs().max() > 0


def test_only_the_drawn_samples_of_a_class_are_read(model):
    samples = Watched()
    clouds, weights, _ = epoch(model, samples)
    assert sorted(len(points.x) for points in clouds) == [3, 8, 8]
    assert sorted(weights) == pytest.approx([3 / 32, 9 / 32, 20 / 32])
    assert len(samples.read) == len(set(samples.read)) == 19
    assert np.bincount(LABELS[samples.read]).tolist() == [8, 3, 8]
    epoch(model, samples, step=1)
    assert samples.batches[0] != samples.batches[1]  # other samples in another epoch


def test_only_drawn_tokens_are_computed_with_the_same_gradient(model, monkeypatch):
    """Points and gradient are the same as if tokens were chosen after embedding all whole samples at once."""
    layer = type(model.embedder)
    tokens_at, computed = layer.tokens_at, []
    monkeypatch.setattr(
        layer, "tokens_at", lambda *inputs: computed.append(len(inputs[3])) or tokens_at(*inputs)
    )
    at_once, pieces = Watched(), Watched()
    chosen = epoch(model, at_once, "tokens")
    assert sum(computed) == sum(len(points.x) for points in chosen.clouds) == 24
    monkeypatch.setattr(target_points, "EMBEDDED_VALUES", 2 * SIZE + 1)
    assert_same(chosen, epoch(model, pieces, "tokens"))
    assert (max(map(len, at_once.batches)), max(map(len, pieces.batches))) == (19, 2)
    monkeypatch.delattr(layer, "tokens_at")
    assert_same(chosen, epoch(model, Watched(), "tokens"))


def test_classes_have_their_shares_inside_a_problem(model):
    shares = np.zeros(3)
    for step in range(25):
        (cloud,), weights, _ = epoch(model, Watched(), "tokens", step, classes_per_problem=0)
        counts = cloud.labels.bincount(minlength=3).numpy()
        assert counts.sum() == 8  # max_samples
        assert (abs(counts - np.array([20, 3, 9]) / 4) < 1).all()
        assert weights == [pytest.approx(1)]
        shares += counts
    assert shares / shares.sum() == pytest.approx(np.array([20, 3, 9]) / 32, abs=0.05)


@pytest.mark.parametrize(
    ("traits", "limit", "count"),
    [
        ({}, None, 3),
        ({}, 0, 1),
        ({"all_classes": True}, None, 1),
        ({"all_classes": True}, 2, 2),
    ],
)
def test_a_metric_gets_one_class_or_all_by_default(traits, limit, count):
    problem = problem_between(None, LABELLED, counting(**traits), classes_per_problem=limit)
    assert len(problem.groups(LABELLED)) == count


def numbered(labels):
    """Features whose points are the numbers from 0 on."""
    labels = torch.tensor(labels)
    x = torch.arange(len(labels), dtype=torch.float32)[:, None]
    return Features(x=x, labels=labels, num_classes=int(labels.max()) + 1)


def of_points(source, target, metric, **settings):
    """A problem of these Features whose embedder returns its inputs."""
    target = Labelled(Points(target.x.requires_grad_()), target.labels.numpy())
    return problem_of(source, target, metric, **settings)


SAMPLES = {"sample_size": 4, "sample_classes": 2, "all_classes": True}


@pytest.mark.parametrize("features", ["tokens", "pooled"])
def test_a_metric_of_samples_gets_disjoint_ones_drawn_anew(features):
    points = [numbered([0, 1] * 25), numbered([2] * 24 + [0] * 12 + [1] * 6)]
    metric = counting(**SAMPLES)
    problem = of_points(*points, metric, features=features, max_samples=13)
    for step in range(20):
        problem.backward(step)
    for side, drawn in zip(points, (metric.sources, metric.targets), strict=True):
        rows = torch.stack([samples.x for samples in drawn]).long()
        assert rows.shape == (20, 3, 4, 1)
        assert all(len(draw.unique()) == 12 for draw in rows)
        assert len(rows.unique(dim=0)) == 20
        classes = side.labels[rows]
        assert torch.equal(classes.unique(), side.labels.unique())
        assert all(len(sample.unique()) <= 2 for draw in classes for sample in draw)
        for samples, draw in zip(drawn, classes, strict=True):
            assert torch.equal(samples.labels, draw[..., 0])


# Classes of the points of the source and of the target, samples of a draw and points of a sample.
FEW_POINTS = [
    ([0], [0], (1, 1)),
    ([0], [0, 1, 1], (1, 1)),
    ([0, 0, 1], [0], (1, 1)),
    ([0, 1, 2, 3], [0, 1, 2, 3, 4], (2, 2)),  # no class has two points
    ([0] * 9 + [1], [0] + [1] * 7, (2, 3)),  # the single points are left out
]


@pytest.mark.parametrize(("source", "target", "shape"), FEW_POINTS)
def test_sides_of_few_points_have_two_samples_or_one(source, target, shape):
    metric = counting(sample_size=8, all_classes=True)
    of_points(numbered(source), numbered(target), metric).backward(0)
    assert metric.sources[0].x.shape == (*shape, 1)
    assert metric.targets[0].x.shape == (*shape, 1)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("source", "target"), [(source, target) for source, target, _ in FEW_POINTS]
)
def test_otdd_of_few_points_is_finite(source, target, labels):
    target = numbered(target)
    value, _ = of_points(numbered(source), target, OTDD(labels=labels)).backward(0)
    assert np.isfinite(value)
    assert target.x.grad.isfinite().all()


def test_sequences_that_are_too_short_are_left_out():
    points = numbered([0, 0, 1, 1] * 10)  # every second sample of each class is too short

    def embed(x, valid):
        mask = torch.ones(len(x), 2, dtype=torch.bool)
        mask[:, 1] = x[:, 0, 0] % 2 == 0
        return Tokens(x=x.expand(-1, 1, 2).mT, mask=mask, grid=(2,))

    metric = counting(**SAMPLES | {"sample_size": 16})
    problem = of_points(points, points, metric, features="sequence")
    problem.model.embed = embed
    problem.model.embedder.layout.tokens = 2
    sizes = set()
    for step in range(5):
        problem.backward(step)
        numbers = metric.targets[-1].x[:, :, 0].long()
        assert metric.sources[-1].x.shape[:2] == numbers.shape
        assert len(numbers.unique()) == numbers.numel()
        assert (numbers % 2 == 0).all()
        sizes.add(numbers.shape[1])
    assert max(sizes) < 16
    assert min(sizes) > 4


def mean_of_draws(source, target, draws, shift=0):
    """Means over draws of both sides: otdd, its slope in the position of each class, and of all classes."""
    numbers = [drawn_distance((source, target), OTDD(), draw, shift) for draw in range(draws)]
    return np.mean(numbers, 0)


# name -> points of each class, draws, and more than three standard errors of the value
EQUAL = {
    "128, 128": ((128, 128), 40, 0.15),
    "128, 80": ((128, 80), 40, 0.15),
    "128, 30": ((128, 30), 40, 0.2),
    "128, 3": ((128, 3), 60, 0.2),
    "256 to 2": (tuple(2**power for power in range(8, 0, -1)), 30, 0.2),
    "ten classes": ((30,) * 10, 60, 0.4),  # a sample has eight classes
}


@pytest.mark.parametrize("name", EQUAL)
def test_otdd_of_one_distribution_is_0_with_gradient_0(name):
    sizes, draws, tolerance = EQUAL[name]
    value, *slopes, _ = mean_of_draws(sizes, sizes, draws)
    assert value == pytest.approx(0, abs=tolerance)
    assert slopes == pytest.approx([0] * len(sizes), abs=0.1)


def test_otdd_is_0_where_one_side_has_more_points():
    value, *slopes, _ = mean_of_draws((1024, 240), (128, 30), 40)
    assert value == pytest.approx(0, abs=0.2)
    assert slopes == pytest.approx([0, 0], abs=0.1)


def test_otdd_sees_a_translation():
    value, *_, slope = mean_of_draws((128, 30), (128, 30), 40, shift=1)
    assert (value, slope) == (pytest.approx(1, abs=0.2), pytest.approx(2, abs=0.2))


@pytest.mark.parametrize(("source", "target"), [((128, 30), (128,)), ((128,), (128, 30))])
def test_otdd_sees_a_class_that_one_side_has(source, target):
    value, *slopes, _ = mean_of_draws(source, target, 20)
    assert value > 2
    assert max(slopes) > 1  # the target's class is drawn to the source


def test_a_default_draw_of_otdd_has_256_points_of_all_classes():
    split = Labelled(Watched(), np.arange(len(LABELS)) % 10)
    problem = problem_between(None, split, OTDD())
    assert [len(group) for group in problem.groups(split)] == [10]
    assert problem.form.points == 256


@pytest.mark.parametrize(("classes", "points"), [(None, 128), (1, 128), (2, 256), (0, 256)])
def test_a_problem_of_several_classes_has_more_points(classes, points):
    assert form_of(Count(), Align(classes_per_problem=classes)).points == points
    assert form_of(Count(), Align(classes_per_problem=classes, max_samples=7)).points == 7


@pytest.mark.parametrize(("labels", "classes"), [(True, 8), (False, 0)])
def test_a_sample_of_otdd_has_128_points_of_8_classes(labels, classes):
    metric = OTDD(labels=labels)
    assert (metric.sample_size, metric.sample_classes) == (128, classes)


class Large:
    """A model whose layout claims this many numbers in an input; every sample has four tokens."""

    def __init__(self, numbers):
        self.embedder = SimpleNamespace(layout=SimpleNamespace(input_shape=(numbers,), tokens=4))

    def embed(self, x, valid):
        mask = torch.ones(len(x), 4, dtype=torch.bool)
        return Tokens(x=torch.zeros(len(x), 4, 2), mask=mask, grid=(4,))


@pytest.mark.parametrize(("numbers", "count"), [(2**20, 32), (2**23, 16), (2**25, 8)])
def test_of_large_samples_few_are_read(numbers, count):
    """At most 2^27 numbers of a class are read, but at least eight samples."""
    samples = Watched()
    train = Labelled(samples, np.zeros(len(samples)))
    source = one_point(width=2)
    problem = problem_between(source, train, Count(), Large(numbers))
    assert len(list(problem.distances(train, 0))) == 1
    assert len(samples.read) == len(set(samples.read)) == count
