"""What stage 2 draws and embeds: so many points a class, no sample that is not drawn, and large ones a few at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orca_cli import seeding
from orca_cli.config.schema import Align
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import Distance, Features, Tokens
from orca_cli.metrics.otdd import OTDD
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import swin
from orca_cli.stages import problem
from orca_cli.stages.problem import Labelled, Problem
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
        assert augment is None  # what is compared is never augmented
        self.batches.append(list(indices))
        return super().batch(indices, augment)

    @property
    def read(self):
        return [index for indices in self.batches for index in indices]


class Count:
    """A metric that keeps its sources and targets."""

    def __init__(self, **traits):
        self.sources, self.targets = [], []
        vars(self).update(traits)

    def prepare(self, source):
        return {}

    def distance(self, source, prepared, target):
        self.sources.append(source)
        self.targets.append(target)
        return Distance(target.x.square().mean())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    body = swin.load(str(save_tiny_swin(tmp_path_factory.mktemp("swin") / "swin")))
    return build_model(body=body, kind="classes", input_shape=(5, 40, 40), num_outputs=3, seed=0)


LABELLED = Labelled(Watched(), LABELS)


def groups(metric, *names, **settings):
    return Problem(None, None, metric, None, {}, LABELLED, LABELLED, Align(**settings), 0).groups(
        LABELLED, *names
    )


def epoch(model, samples, features="pooled", step=0, **more):
    metric, settings = Count(), Align(max_samples=8, features=features, **more)
    source = Features(torch.zeros(1, 16), torch.zeros(1, dtype=torch.long), 1)
    train = Labelled(samples, samples.targets())
    compared = Problem(model, engine(), metric, source, {}, train, train, settings, seed=0)
    model.zero_grad()
    weights = []
    for some in compared.parts(train, step):
        sum(weight * distance.value for weight, distance in some).backward()
        weights += [weight for weight, _ in some]
    return metric.targets, weights, model.embedder.convolution.weight.grad.clone()


def same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a.x, b.x)
    torch.testing.assert_close(one[2], other[2])
    assert one[2].abs().max() > 0


def test_a_class_gives_exactly_as_many_samples_as_it_may_and_no_other_is_read(model):
    samples = Watched()
    clouds, weights, _ = epoch(model, samples)
    assert sorted(len(points.x) for points in clouds) == [3, 8, 8]
    assert sorted(weights) == pytest.approx([3 / 32, 9 / 32, 20 / 32])
    assert len(samples.read) == len(set(samples.read)) == 19
    assert np.bincount(LABELS[samples.read]).tolist() == [8, 3, 8]
    epoch(model, samples, step=1)
    assert samples.batches[0] != samples.batches[1]  # other samples in another epoch


def test_only_drawn_tokens_are_computed_and_a_few_large_samples_at_a_time_with_the_same_gradient(
    model, monkeypatch
):
    """The points and the gradient are those of embedding whole samples at once and choosing from their tokens."""
    tokens_at, computed = type(model.embedder).tokens_at, []
    monkeypatch.setattr(
        type(model.embedder),
        "tokens_at",
        lambda *words: computed.append(len(words[3])) or tokens_at(*words),
    )
    at_once, pieces = Watched(), Watched()
    chosen = epoch(model, at_once, "tokens")
    assert sum(computed) == sum(len(points.x) for points in chosen[0]) == 24
    monkeypatch.setattr(problem, "EMBEDDED_VALUES", 2 * SIZE + 1)
    same(chosen, epoch(model, pieces, "tokens"))
    assert (max(map(len, at_once.batches)), max(map(len, pieces.batches))) == (19, 2)
    monkeypatch.delattr(type(model.embedder), "tokens_at")
    same(chosen, epoch(model, Watched(), "tokens"))


def test_classes_have_their_shares_inside_a_problem(model):
    shares = np.zeros(3)
    for step in range(25):
        (cloud,), weights, _ = epoch(model, Watched(), "tokens", step, classes_per_problem=0)
        counts = cloud.labels.bincount(minlength=3).numpy()
        assert counts.sum() == 8  # max_samples
        order = seeding.numpy_generator(0, "align", "order", step).permutation(3)
        assert (abs(counts - np.array([20, 3, 9])[order] / 4) < 1).all()
        assert weights == [pytest.approx(1)]
        shares += counts[np.argsort(order)]
    assert shares / shares.sum() == pytest.approx(np.array([20, 3, 9]) / 32, abs=0.05)


def test_a_metric_gets_one_class_all_or_a_draw_as_it_asks_unless_a_number_is_given():
    pair = Count(all_classes=True)
    for metric, limit, count in (
        (Count(), None, 3),
        (pair, None, 1),
        (pair, 2, 2),
        (Count(), 0, 1),
    ):
        assert len(groups(metric, classes_per_problem=limit)) == count
    drawn = {groups(OTDD(classes=2), step)[0] for step in range(20)}
    assert {len(group) for group in drawn} == {2}
    assert {label for group in drawn for label in group} == {0, 1, 2}


def test_a_metric_that_samples_gets_as_many_source_points_drawn_anew_and_the_target_in_random_order():
    metric = Count(samples_source=True)
    source = Features(torch.arange(50.0)[:, None], torch.arange(50) % 2, 2)
    target = Features(torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.long), 1)
    for draw in range(3):
        problem.measure(metric, source, {}, target, np.random.default_rng(draw))
    for cloud, points in zip(metric.sources, metric.targets, strict=True):
        assert len(cloud.x) == len(cloud.x.unique()) == 20
        assert torch.equal(cloud.labels, cloud.x[:, 0].long() % 2)
        assert sorted(points.x[:, 0].tolist()) == list(range(20)) != points.x[:, 0].tolist()
    assert not torch.equal(metric.sources[0].x, metric.sources[1].x)


def test_a_balanced_draw_has_equally_many_points_of_at_most_so_many_classes():
    points = Features(torch.arange(200.0)[:, None], torch.arange(200) % 10, 10)
    for size in (1, 30):
        rows = problem.balanced_rows(points, size, 8, np.random.default_rng(0))
        counts = np.bincount(points.labels.numpy()[rows])
        assert len(rows) == len(set(rows.tolist())) <= size
        assert set(counts[counts > 0]) == {max(1, size // 8)}
        assert (counts > 0).sum() == min(8, size)


@pytest.mark.parametrize(("labels", "count"), [(True, 8), (False, 10)])
def test_a_default_draw_has_256_points_of_8_classes(labels, count):
    split = Labelled(Watched(), np.arange(len(LABELS)) % 10)
    compared = Problem(
        model=None,
        engine=None,
        metric=OTDD(labels=labels),
        source=None,
        prepared={},
        train=split,
        heldout=split,
        settings=Align(),
        seed=0,
    )
    assert [len(group) for group in compared.groups(split)] == [count]
    assert compared.size == 256


class Large:
    """A model whose inputs are said to have so many numbers; every sample is four tokens."""

    def __init__(self, numbers):
        self.embedder = SimpleNamespace(layout=SimpleNamespace(input_shape=(numbers,), tokens=4))

    def embed(self, x, valid):
        return Tokens(torch.zeros(len(x), 4, 2), torch.ones(len(x), 4, dtype=torch.bool), (4,))


@pytest.mark.parametrize(("numbers", "count"), [(2**20, 32), (2**23, 16), (2**25, 8)])
def test_of_large_samples_few_are_read(numbers, count):
    """At most 2^27 numbers of a class, and eight samples at least."""
    samples = Watched()
    train = Labelled(samples, np.zeros(len(samples)))
    source = Features(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), 1)
    compared = Problem(Large(numbers), engine(), Count(), source, {}, train, train, Align(), seed=0)
    assert len(list(compared.parts(train, 0))) == 1
    assert len(samples.read) == len(set(samples.read)) == count
