"""Dataset distances between samples, of Gaussian classes, exact: against POT, NumPy and SciPy."""

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd import OTDD
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.metrics.otdd_gaussian import OTDDGaussian, coupling
from orca_cli.metrics.transport.clouds import half_squared_distances
from orca_cli.seeding import numpy_generator
from tests.metrics.generators import (
    cloud,
    consecutive,
    converged,
    cosine,
    distance,
    gradient,
    labelled,
    value,
)
from tests.properties import examples


def sample_distance(a, b, labels):
    """S(A, B) of two samples of Features, by POT at both levels."""
    cost = ot.dist(a.x.numpy(), b.x.numpy()) / 2
    if labels:
        between = np.zeros_like(cost)
        for k in a.labels.unique():
            for m in b.labels.unique():
                rows = np.flatnonzero(a.labels == k)
                columns = np.flatnonzero(b.labels == m)
                fewest = min(len(rows), len(columns))
                block = cost[np.ix_(rows[:fewest], columns[:fewest])]
                between[np.ix_(rows, columns)] = ot.emd2([], [], np.ascontiguousarray(block))
        cost = cost + between
    return ot.emd2([], [], cost)


def single_samples(side):
    """The samples of a side, each as a cloud."""
    pairs = zip(side.x, side.labels, strict=True)
    return [replace(side, x=x, labels=labels) for x, labels in pairs]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(("count", "size"), [(4, 6), (3, 5), (2, 4), (1, 7)])
def test_value_is_that_of_exact_transport_between_samples(count, size, labels):
    source = consecutive(labelled(24, 3, 3, "x"), count, size)
    target = consecutive(labelled(24, 3, 2, "z", scale=2), count, size)
    xs = single_samples(source)
    zs = single_samples(target)
    expected = np.mean([sample_distance(x, z, labels) for x, z in zip(xs, zs, strict=True)])
    if count > 1:
        pairs = [side[i : i + 2] for side in (xs, zs) for i in range(0, count - 1, 2)]
        expected -= np.mean([sample_distance(*pair, labels) for pair in pairs])
    metric = OTDD(labels=labels)
    assert metric.distance(source, {}, target).value.item() == pytest.approx(expected)


def test_the_labels_of_the_source_reach_the_gradient():
    source = labelled(128, 6, 4, "x", spread=3)
    target = labelled(128, 6, 4, "z")
    order = torch.from_numpy(numpy_generator(0, "order").permutation(128))
    shuffled = replace(source, labels=source.labels[order])
    assert cosine(gradient(OTDD(), source, target), gradient(OTDD(), shuffled, target)) < 0.95
    without = OTDD(labels=False)
    assert torch.equal(gradient(without, source, target), gradient(without, shuffled, target))


@pytest.mark.parametrize(("labels", "factor"), [(False, 0.5), (True, 1)])
def test_single_points_are_compared_across_alone(labels, factor):
    x, z = cloud(1, 3, "x"), cloud(1, 3, "z")
    expected = factor * (x - z).square().sum().item()
    assert value(OTDD(labels=labels), x, z) == pytest.approx(expected)


def covariance(x):
    return np.cov(x.T.numpy(), bias=True).reshape(x.shape[1], x.shape[1])


def bures_by_eigenvalues(x, z):
    products = np.linalg.eigvals(covariance(x) @ covariance(z)).real.clip(min=0)
    spread = np.trace(covariance(x) + covariance(z)) - 2 * np.sqrt(products).sum()
    return (x.mean(0) - z.mean(0)).square().sum().item() + spread


@examples(20)
@given(seed=st.integers(0, 10**6), p=st.integers(1, 12), q=st.integers(1, 12), d=st.integers(1, 15))
def test_coupling_costs_what_bures_formula_says(seed, p, q, d):
    x, z = cloud(p, d, seed, "x"), cloud(q, d, seed, "z", scale=2.0) + 1
    plan = coupling(x, z)
    ours = 2 * (plan * half_squared_distances(x, z)).sum().item()
    assert ours == pytest.approx(bures_by_eigenvalues(x, z), rel=1e-5)
    assert plan.sum(0).numpy() == pytest.approx(np.full(q, 1 / q), abs=1e-12)
    assert plan.sum(1).numpy() == pytest.approx(np.full(p, 1 / p), abs=1e-12)


def test_one_class_each_is_transport_plus_bures():
    # W is constant, so it adds half of itself to the transport of points without labels.
    source, target = labelled(40, 3, 1, "source"), labelled(25, 3, 1, "target", scale=2.0)
    points = ot.emd2([], [], half_squared_distances(source.x, target.x).numpy())
    expected = points + bures_by_eigenvalues(source.x, target.x) / 2
    metric = converged(OTDDGaussian, 0.005)
    assert value(metric, source, target) == pytest.approx(expected, rel=5e-3)


def assigned(cost):
    """The optimal transport between uniform weights as an assignment of repeated points."""
    n, m = cost.shape
    copies = np.lcm(n, m)
    repeated = cost.repeat(copies // n, 0).repeat(copies // m, 1)
    rows, columns = linear_sum_assignment(repeated)
    return repeated[rows, columns].mean()


def assigned_otdd(source, target):
    squares = cdist(source.x.numpy(), target.x.numpy(), "sqeuclidean")
    row_labels = source.labels.numpy()
    column_labels = target.labels.numpy()
    total = squares / 2
    for a in np.unique(row_labels):
        for b in np.unique(column_labels):
            block = np.ix_(row_labels == a, column_labels == b)
            total[block] += assigned(squares[block]) / 2
    return assigned(total)


@examples(15)
@given(
    st.integers(0, 10**6),
    st.integers(4, 12),
    st.integers(4, 8),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_the_exact_distance_is_that_of_assignment(seed, n, m, k, classes):
    source, target = (
        labelled(n, 3, k, seed, "source", spread=2),
        labelled(m, 3, classes, seed, "target"),
    )
    assert value(OTDDExact(), source, target) == pytest.approx(
        assigned_otdd(source, target), rel=1e-9
    )


def test_exact_in_float32_far_from_the_origin():
    """Some classes have no points."""
    source = labelled(20, 3, 2, "source")
    target = labelled(9, 3, 3, "target")
    moved = []
    for side in (source, target):
        x = (side.x + 100.0).float()
        moved.append(Features(x=x, labels=side.labels + 1, num_classes=5))
    distant = distance(OTDDExact(), *moved).value
    assert distant.dtype == torch.float32
    assert distant.item() == pytest.approx(value(OTDDExact(), source, target), rel=1e-4)


def test_an_unsolved_program_is_refused():
    with pytest.raises(NonFiniteError, match=r"metric\.max_iterations"):
        distance(
            OTDDExact(max_iterations=3), labelled(60, 3, 2, "source"), labelled(40, 3, 2, "target")
        )
