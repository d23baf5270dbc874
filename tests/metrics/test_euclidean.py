"""Mean Euclidean distance, moments, TransRate: against SciPy, NumPy and the formula; single, equal and coinciding points."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from orca_cli.interfaces import Features
from orca_cli.metrics.euclidean import Euclidean
from orca_cli.metrics.moments import Moments
from orca_cli.metrics.transrate import TransRate
from tests.metrics.generators import cloud, gradient, labelled, value
from tests.properties import examples


@examples(20)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_value_agrees_with_scipy_in_any_order_and_place(seed, n, m, d):
    x, z, metric = cloud(n, d, seed, "x"), cloud(m, d, seed, "z") + 1, Euclidean()
    expected = cdist(x, z).mean()
    assert value(metric, x, z) == pytest.approx(expected, rel=1e-10)
    assert value(metric, z.flip(0), x.flip(0)) == pytest.approx(expected, rel=1e-10)
    assert value(metric, x + 100, z + 100) == pytest.approx(expected, rel=1e-8)
    assert value(metric, x * -3, z * -3) == pytest.approx(3 * expected, rel=1e-10)


def test_points_on_top_of_each_other_have_no_part_in_the_gradient():
    x = cloud(9, 40, "x").float() + 5
    assert value(Euclidean(), x, x) == pytest.approx(cdist(x, x).mean(), rel=1e-6)
    # The gradient of z_0 without its own pair.
    apart = x[:1] - x[1:]
    expected = (apart / apart.norm(dim=1, keepdim=True)).sum(0) / 81
    torch.testing.assert_close(gradient(Euclidean(), x, x)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_neither_overflows_nor_vanishes(scale):
    x, z = cloud(9, 4, "x").float(), cloud(5, 4, "z").float()
    assert value(Euclidean(), x * scale, z * scale) == pytest.approx(scale * cdist(x, z).mean(), rel=1e-5)
    torch.testing.assert_close(gradient(Euclidean(), x * scale, z * scale), gradient(Euclidean(), x, z))


def moments_distance(x, z):
    x, z = np.asarray(x), np.asarray(z)
    return np.mean((x.mean(0) - z.mean(0)) ** 2 + (x.std(0) - z.std(0)) ** 2)


@examples(20)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_moments_agree_with_numpy_in_any_order_and_place(seed, n, m, d):
    x, z = cloud(n, d, seed, "x"), cloud(m, d, seed, "z", scale=2) + 1
    expected = moments_distance(x, z)
    # The root of eps stands in for the deviation of a single point.
    assert value(Moments(), x, z) == pytest.approx(expected, rel=1e-5)
    assert value(Moments(), z.flip(0), x.flip(0)) == pytest.approx(expected, rel=1e-5)
    assert value(Moments(), x + 9, z + 9) == pytest.approx(expected, rel=1e-5)
    assert value(Moments(), x, x) == 0


SOURCE = labelled(5, 2, 1, "source")


def definition(target, eps):
    """TransRate by eigenvalues, as the formula reads."""
    z = target.x.numpy() - target.x.numpy().mean(0)
    z = z / np.sqrt(np.trace(z.T @ z))

    def rate(rows):
        return np.log1p(np.linalg.svd(rows, compute_uv=False) ** 2 / (len(rows) * eps)).sum() / 2

    classes = [z[target.labels.numpy() == label] for label in np.unique(target.labels)]
    return rate(z) - np.mean([rate(rows) for rows in classes])


# Fewer points than dimensions, more, and classes on both sides.
@pytest.mark.parametrize(("n", "d", "k"), [(30, 4, 3), (9, 20, 3), (24, 7, 4), (12, 3, 1)])
def test_transrate_is_that_of_the_formula(n, d, k):
    target = labelled(n, d, k, "target", spread=2)
    for eps in (1e-4, 0.5):
        expected = -definition(target, eps)
        assert value(TransRate(eps), SOURCE, target) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@examples(20)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), d=st.integers(1, 5))
def test_transrate_depends_on_neither_order_names_place_nor_scale(seed, k, d):
    target, metric = labelled(12, d, k, seed, "target"), TransRate()
    expected = value(metric, SOURCE, target)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    for x, labels, classes in (
        (target.x[order], target.labels[order], k),
        (target.x, target.labels + 2, k + 4),
        (target.x * 7 + 3, target.labels, k),
    ):
        assert value(metric, SOURCE, Features(x, labels, classes)) == pytest.approx(expected, abs=1e-8)
    if k == 1:
        assert expected == pytest.approx(0, abs=1e-9)
        assert gradient(metric, SOURCE, target).abs().max() < 1e-6
