"""OTDD between equal small samples: known answers, agreement with POT, what labels do."""

import numpy as np
import ot
import pytest
import torch

from orca_cli.interfaces import Features
from orca_cli.metrics.otdd import OTDD
from orca_cli.seeding import numpy_generator
from tests.metrics.generators import cloud, cosine, gradient, labelled, value


def sample_distance(a, b, labels):
    """S(A, B) of two samples of Features, by POT at both levels."""
    cost = ot.dist(a.x.numpy(), b.x.numpy()) / 2
    if labels:
        between = np.zeros_like(cost)
        for k in a.labels.unique():
            for m in b.labels.unique():
                rows, columns = np.flatnonzero(a.labels == k), np.flatnonzero(b.labels == m)
                fewest = min(len(rows), len(columns))
                block = cost[np.ix_(rows[:fewest], columns[:fewest])]
                between[np.ix_(rows, columns)] = ot.emd2([], [], np.ascontiguousarray(block))
        cost = cost + between
    return ot.emd2([], [], cost)


def samples(points, size, pairs):
    starts = range(0, size * pairs, size)
    return [Features(points.x[at : at + size], points.labels[at : at + size], points.num_classes) for at in starts]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(("n", "m", "size", "pairs"), [(24, 24, 6, 4), (30, 17, 5, 3), (9, 40, 64, 2)])
def test_value_is_that_of_exact_transport_between_consecutive_samples(n, m, size, pairs, labels):
    source, target = labelled(n, 3, 3, "x"), labelled(m, 3, 2, "z", scale=2)
    each = min(size, min(n, m) // 2)
    xs, zs = samples(source, each, pairs), samples(target, each, pairs)
    expected = np.mean([sample_distance(x, z, labels) for x, z in zip(xs, zs, strict=True)])
    for side in (xs, zs):
        expected -= np.mean([sample_distance(*side[i : i + 2], labels) for i in range(0, pairs - 1, 2)]) / 2
    assert value(OTDD(size, labels), source, target) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [False, True])
def test_draws_of_one_distribution_have_value_and_gradient_zero_on_average(labels):
    metric, values, slopes = OTDD(32, labels), [], []
    for draw in range(60):
        sides = []
        for name in ("source", "target"):
            classes = torch.from_numpy(numpy_generator(draw, name).integers(0, 3, 64))
            centres = 2 * torch.nn.functional.one_hot(classes, 8).double()
            sides.append(Features(cloud(64, 8, name, draw) + centres, classes, 3))
        values.append(value(metric, *sides))
        # Transport between samples of unequal size asks for a contraction towards the mean.
        slopes.append((gradient(metric, *sides) * sides[1].x).sum().item())
    for seen in (values, slopes):
        assert abs(np.mean(seen)) < 3 * np.std(seen) / len(seen) ** 0.5


def test_labels_force_the_pairing_that_points_alone_would_not_take():
    # 0 and 1 are nearest to 0.1 and 0.9, but each belongs with the class whose other member is on its side.
    far = 100.0
    source = Features(torch.tensor([[0.0], [far], [1.0], [-far]] * 2).double(), torch.tensor([0, 0, 1, 1] * 2), 2)
    target = Features(torch.tensor([[0.9], [far], [0.1], [-far]] * 2).double(), torch.tensor([0, 0, 1, 1] * 2), 2)
    assert value(OTDD(labels=False), source, target) == pytest.approx((0.1**2 + 0.1**2) / 2 / 4)
    # Of four points two are 0.9 off, and every one of them adds half of W = 0.9^2 / 2.
    assert value(OTDD(), source, target) == pytest.approx(2 * 0.9**2 / 2 / 4 + 0.9**2 / 2 / 2)


def test_the_labels_of_the_source_reach_the_gradient():
    source, target = labelled(128, 6, 4, "x", spread=3), labelled(128, 6, 4, "z")
    order = torch.from_numpy(numpy_generator(0, "order").permutation(128))
    shuffled = Features(source.x, source.labels[order], 4)
    assert cosine(gradient(OTDD(), source, target), gradient(OTDD(), shuffled, target)) < 0.95
    without = OTDD(labels=False)
    assert torch.equal(gradient(without, source, target), gradient(without, shuffled, target))


def test_single_points_are_compared_across_alone():
    x, z = cloud(1, 3, "x"), cloud(1, 3, "z")
    for labels, factor in ((False, 0.5), (True, 1)):
        assert value(OTDD(labels=labels), x, z) == pytest.approx(factor * (x - z).square().sum().item())
