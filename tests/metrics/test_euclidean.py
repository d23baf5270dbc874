"""Mean Euclidean distance, moments, TransRate: against SciPy, NumPy and the formula; single, equal and coinciding points."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from orca_cli.metrics.euclidean import Euclidean
from orca_cli.metrics.moments import Moments
from orca_cli.metrics.transrate import TransRate
from tests.metrics.generators import cloud, gradient, labelled, value
from tests.properties import examples


def moments_distance(x, z):
    x, z = np.asarray(x), np.asarray(z)
    return np.mean((x.mean(0) - z.mean(0)) ** 2 + (x.std(0) - z.std(0)) ** 2)


@examples(20)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_values_agree_with_scipy_and_numpy(seed, n, m, d):
    x, z = cloud(n, d, seed, "x"), cloud(m, d, seed, "z", scale=2) + 1
    assert value(Euclidean(), x, z) == pytest.approx(cdist(x, z).mean(), rel=1e-10)
    # The root of eps stands in for the deviation of a single point.
    assert value(Moments(), x, z) == pytest.approx(moments_distance(x, z), rel=1e-5)


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
    if k == 1:
        assert expected == pytest.approx(0, abs=1e-9)
        assert gradient(TransRate(), SOURCE, target).abs().max() < 1e-6
