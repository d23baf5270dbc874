"""Dataset distances in closed form: with Gaussian classes by Bures' formula; exactly, by assignment problems."""

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
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.metrics.otdd_gaussian import OTDDGaussian, coupling
from orca_cli.metrics.transport.clouds import half_squared_distances
from tests.metrics.generators import cloud, distance, labelled, value
from tests.properties import examples

EXACT = {"tolerance": 1e-10, "newton_steps": 300, "max_iterations": 3000}


def covariance(x):
    return np.cov(x.T.numpy(), bias=True).reshape(x.shape[1], x.shape[1])


def bures_by_pot(x, z):
    means = (part.mean(0).numpy() for part in (x, z))
    return ot.gaussian.bures_wasserstein_distance(*means, covariance(x), covariance(z)) ** 2


def bures_by_eigenvalues(x, z):
    """For singular covariances too, on which POT's matrix roots fail."""
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
    if min(p, q) > d:
        assert ours == pytest.approx(bures_by_pot(x, z), rel=1e-6)
    assert plan.sum(0).numpy() == pytest.approx(np.full(q, 1 / q), abs=1e-12)
    assert plan.sum(1).numpy() == pytest.approx(np.full(p, 1 / p), abs=1e-12)


def test_one_class_each_is_transport_plus_bures():
    # W is constant, so it adds half of itself to the transport of points without labels.
    source, target = labelled(40, 3, 1, "source"), labelled(25, 3, 1, "target", scale=2.0)
    plan = ot.emd([], [], half_squared_distances(source.x, target.x).numpy())
    points = (plan * half_squared_distances(source.x, target.x).numpy()).sum()
    expected = points + bures_by_pot(source.x, target.x) / 2
    assert value(OTDDGaussian(reg=0.005, **EXACT), source, target) == pytest.approx(expected, rel=5e-3)


def assigned(cost):
    """The optimal transport between uniform weights as an assignment: every point is repeated until counts agree."""
    n, m = cost.shape
    copies = np.lcm(n, m)
    repeated = cost.repeat(copies // n, 0).repeat(copies // m, 1)
    rows, columns = linear_sum_assignment(repeated)
    return repeated[rows, columns].mean()


def assigned_otdd(source, target):
    x, z, rows, columns = (part.numpy() for part in (source.x, target.x, source.labels, target.labels))
    squares = cdist(x, z, "sqeuclidean")
    total = squares / 2
    for a in np.unique(rows):
        for b in np.unique(columns):
            block = np.ix_(rows == a, columns == b)
            total[block] += assigned(squares[block]) / 2
    return assigned(total)


@examples(15)
@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(4, 8), st.integers(1, 4), st.integers(1, 3))
def test_the_exact_distance_is_that_of_assignment(seed, n, m, k, classes):
    source, target = labelled(n, 3, k, seed, "source", spread=2), labelled(m, 3, classes, seed, "target")
    expected = assigned_otdd(source, target)
    assert value(OTDDExact(), source, target) == pytest.approx(expected, rel=1e-9)


def test_float32_far_from_the_origin_classes_without_points_and_an_unsolved_program():
    source, target = labelled(20, 3, 2, "source"), labelled(9, 3, 3, "target")
    shift = torch.full((3,), 100.0)
    moved = [Features((part.x + shift).float(), part.labels + 1, 5) for part in (source, target)]
    result = distance(OTDDExact(), *moved)
    assert result.value.dtype == torch.float32
    assert result.value.item() == pytest.approx(value(OTDDExact(), source, target), rel=1e-4)
    assert result.diagnostics["marginal_error"] < 1e-12
    with pytest.raises(NonFiniteError, match=r"metric\.max_iterations"):
        distance(OTDDExact(max_iterations=3), labelled(60, 3, 2, "source"), labelled(40, 3, 2, "target"))
