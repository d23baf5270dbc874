"""The dataset distance with Gaussian classes: Bures' formula, value, gradient, edge cases."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_gaussian import OTDDGaussian, coupling
from orca_cli.metrics.transport.clouds import half_squared_distances
from tests.metrics.generators import cloud, labelled
from tests.properties import examples

EXACT = {"tolerance": 1e-10, "newton_steps": 300, "max_iterations": 3000}


def distance(source, target, **parameters):
    metric = OTDDGaussian(**parameters)
    return metric.distance(source, load(save(metric.prepare(source))), target)


def value(source, target, **parameters):
    return distance(source, target, **parameters).value.item()


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


@examples(60)
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


@pytest.mark.parametrize(("p", "q", "d"), [(30, 25, 3), (40, 9, 5), (6, 7, 20), (1, 8, 3), (8, 1, 3)])
def test_coupling_carries_the_gradient(p, q, d):
    x, z = cloud(p, d, "x"), cloud(q, d, "z", scale=2.0) + 1
    plan = coupling(x, z)
    slope, step = 2 * (plan.sum(0)[:, None] * z - plan.T @ x), 1e-5
    for direction in range(3):
        move = cloud(q, d, "direction", direction)
        up, down = (bures_by_coupling(x, z + sign * step * move).item() for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx((slope * move).sum().item(), rel=1e-6)


def test_equal_points_have_covariance_zero():
    x, z = cloud(9, 4, "x"), cloud(1, 4, "z").expand(6, 4) * 1e3
    assert coupling(x, z).numpy() == pytest.approx(np.full((9, 6), 1 / 54), abs=1e-12)


def test_one_class_each_is_transport_plus_bures():
    # W is constant, so it adds half of itself to the transport of points without labels.
    source, target = labelled(40, 3, 1, "source"), labelled(25, 3, 1, "target", scale=2.0)
    plan = ot.emd([], [], half_squared_distances(source.x, target.x).numpy())
    points = (plan * half_squared_distances(source.x, target.x).numpy()).sum()
    expected = points + bures_by_pot(source.x, target.x) / 2
    assert value(source, target, reg=0.005, **EXACT) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("k", "l", "n", "m", "d"), [(3, 1, 40, 12, 3), (2, 3, 40, 30, 2), (3, 2, 15, 9, 8), (2, 5, 9, 7, 3)]
)
def test_gradient_is_that_of_finite_differences(k, l, n, m, d):  # noqa: E741
    parameters = {"reg": 0.5, **EXACT}
    source, target = labelled(n, d, k, "source", spread=2), labelled(m, d, l, "target")
    z = target.x.clone().requires_grad_()
    distance(source, Features(z, target.labels, l), **parameters).value.backward()
    step = 1e-4
    for direction in range(2):
        move = cloud(m, d, "direction", direction)
        up, down = (
            value(source, Features(target.x + sign * step * move, target.labels, l), **parameters) for sign in (1, -1)
        )
        expected = (z.grad * move).sum().item()
        assert (up - down) / (2 * step) == pytest.approx(expected, abs=1e-5 * (1 + abs(expected)))


def test_properties():
    source, target = labelled(24, 3, 3, "source", spread=2), labelled(15, 3, 2, "target")
    parameters = {"reg": 0.3, **EXACT}
    expected = value(source, target, **parameters)
    assert expected > 0
    assert value(target, source, **parameters) == pytest.approx(expected, rel=1e-6)
    assert value(source, source, **parameters) == pytest.approx(0, abs=1e-6)
    renamed = Features(source.x.flip(0) + 50, (2 - source.labels).flip(0) * 2, 6)
    moved = Features(target.x + 50, target.labels, 2)
    assert value(renamed, moved, **parameters) == pytest.approx(expected, rel=1e-6)
    single = Features(renamed.x.float(), renamed.labels, 6), Features(moved.x.float(), moved.labels, 2)
    assert value(*single, reg=0.3) == pytest.approx(expected, rel=1e-3)
    assert distance(*single, reg=0.3).diagnostics["self_source"] == pytest.approx(0, abs=1e-3)


def test_bad_features_are_errors():
    source, target = labelled(20, 3, 2, "source"), labelled(8, 3, 1, "target")
    with pytest.raises(NonFiniteError, match="target"):
        value(source, Features(target.x * torch.nan, target.labels, 1))
