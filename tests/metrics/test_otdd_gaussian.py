"""The dataset distance with Gaussian classes: Bures' formula, values, edge cases."""

import numpy as np
import ot
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_gaussian import OTDDGaussian, coupling
from orca_cli.metrics.transport.clouds import half_squared_distances
from tests.metrics.generators import cloud, difference_quotients, distance, labelled, value
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


def bures_by_coupling(x, z):
    return 2 * (coupling(x, z) * half_squared_distances(x, z)).sum()


@examples(30)
@given(seed=st.integers(0, 10**6), p=st.integers(1, 12), q=st.integers(1, 12), d=st.integers(1, 15))
def test_coupling_costs_what_bures_formula_says(seed, p, q, d):
    x, z = cloud(p, d, seed, "x"), cloud(q, d, seed, "z", scale=2.0) + 1
    ours = bures_by_coupling(x, z).item()
    assert ours == pytest.approx(bures_by_eigenvalues(x, z), rel=1e-5)
    if min(p, q) > d:
        assert ours == pytest.approx(bures_by_pot(x, z), rel=1e-6)
    plan = coupling(x, z)
    assert plan.sum(0).numpy() == pytest.approx(np.full(q, 1 / q), abs=1e-12)
    assert plan.sum(1).numpy() == pytest.approx(np.full(p, 1 / p), abs=1e-12)


@pytest.mark.parametrize(("p", "q", "d"), [(30, 25, 3), (6, 7, 20), (8, 1, 3)])
def test_coupling_carries_the_gradient(p, q, d):
    x, z = cloud(p, d, "x"), cloud(q, d, "z", scale=2.0) + 1
    plan = coupling(x, z)
    slope = 2 * (plan.sum(0)[:, None] * z - plan.T @ x)
    for move, quotient in difference_quotients(lambda z: bures_by_coupling(x, z).item(), z, 1e-5):
        assert quotient == pytest.approx((slope * move).sum().item(), rel=1e-6)


def test_one_class_each_is_transport_plus_bures():
    # W is constant, so it adds half of itself to the transport of points without labels.
    source, target = labelled(40, 3, 1, "source"), labelled(25, 3, 1, "target", scale=2.0)
    plan = ot.emd([], [], half_squared_distances(source.x, target.x).numpy())
    points = (plan * half_squared_distances(source.x, target.x).numpy()).sum()
    expected = points + bures_by_pot(source.x, target.x) / 2
    assert value(OTDDGaussian(reg=0.005, **EXACT), source, target) == pytest.approx(expected, rel=5e-3)


def test_properties():
    source, target = labelled(24, 3, 3, "source", spread=2), labelled(15, 3, 2, "target")
    metric, usual = OTDDGaussian(reg=0.3, **EXACT), OTDDGaussian(reg=0.3)
    expected = value(metric, source, target)
    assert expected > 0
    assert value(metric, target, source) == pytest.approx(expected, rel=1e-6)
    assert value(metric, source, source) == pytest.approx(0, abs=1e-6)
    renamed = Features(source.x.flip(0) + 50, (2 - source.labels).flip(0) * 2, 6)
    moved = Features(target.x + 50, target.labels, 2)
    assert value(metric, renamed, moved) == pytest.approx(expected, rel=1e-6)
    single = Features(renamed.x.float(), renamed.labels, 6), Features(moved.x.float(), moved.labels, 2)
    assert value(usual, *single) == pytest.approx(expected, rel=1e-3)
    assert distance(usual, *single).diagnostics["self_source"] == pytest.approx(0, abs=1e-3)
