"""Mean Euclidean distance, moments, TransRate and MMD against SciPy, NumPy and the formulas.

Also points that coincide, and float32.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from orca_cli.metrics.euclidean import Euclidean
from orca_cli.metrics.mmd import MMD
from orca_cli.metrics.moments import Moments
from orca_cli.metrics.transrate import TransRate
from tests.metrics.generators import cloud, difference_quotients, gradient, labelled, value
from tests.properties import examples


def moments_distance(x, z):
    x, z = np.asarray(x), np.asarray(z)
    return np.mean((x.mean(0) - z.mean(0)) ** 2 + (x.std(0) - z.std(0)) ** 2)


def mmd_definition(x, z, bandwidth=None):
    """The value and the bandwidth, straight from the formula."""
    joined = np.concatenate([x, z])
    squares = ((joined[:, None] - joined[None]) ** 2).sum(-1)
    n, count = len(x), len(joined)
    bandwidth = squares.sum() / (count * (count - 1)) if bandwidth is None else bandwidth
    kernel = sum(np.exp(-squares / (scale * bandwidth)) for scale in (0.25, 0.5, 1, 2, 4))
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean(), bandwidth


@examples(20)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_values_agree_with_scipy_and_numpy(seed, n, m, d):
    x, z = cloud(n, d, seed, "x"), cloud(m, d, seed, "z", scale=2) + 1
    assert value(Euclidean(), x, z) == pytest.approx(cdist(x, z).mean(), rel=1e-10)
    # A single point has the root of eps for its deviation, hence the tolerance.
    assert value(Moments(), x, z) == pytest.approx(moments_distance(x, z), rel=1e-5)
    assert value(MMD(), x, z) == pytest.approx(mmd_definition(x, z)[0], abs=1e-12)


# Beyond 1,024 points MMD works in pieces. The far cloud's bandwidth is outside the table.
@pytest.mark.parametrize(
    ("n", "m", "scale", "shift"), [(1030, 11, 1, 0.5), (11, 1030, 1, 0.5), (23, 11, 1, 40)]
)
def test_mmd_of_many_and_of_distant_points(n, m, scale, shift):
    x, z = cloud(n, 4, "x"), cloud(m, 4, "z", scale=scale) + shift
    assert value(MMD(), x, z) == pytest.approx(mmd_definition(x, z)[0], abs=1e-12)


def test_mmd_gradient_is_at_a_constant_bandwidth():
    x, z = cloud(17, 3, "x"), cloud(9, 3, "z") + 1
    slope = gradient(MMD(), x, z)
    _, bandwidth = mmd_definition(x, z)

    def at_this_bandwidth(z):
        return mmd_definition(x, z, bandwidth)[0]

    for move, quotient in difference_quotients(at_this_bandwidth, z, 1e-5):
        assert quotient == pytest.approx((slope * move).sum().item(), abs=1e-8)


def test_coinciding_points_have_no_part_in_the_gradient():
    x = cloud(9, 40, "x").float() + 5
    assert value(Euclidean(), x, x) == pytest.approx(cdist(x, x).mean(), rel=1e-6)
    # The gradient of z_0 without its own pair.
    differences = x[:1] - x[1:]
    expected = (differences / differences.norm(dim=1, keepdim=True)).sum(0) / 81
    torch.testing.assert_close(gradient(Euclidean(), x, x)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_neither_overflows_nor_vanishes(scale):
    x, z = cloud(9, 4, "x").float(), cloud(5, 4, "z").float()
    assert value(Euclidean(), x * scale, z * scale) == pytest.approx(
        scale * cdist(x, z).mean(), rel=1e-5
    )
    torch.testing.assert_close(
        gradient(Euclidean(), x * scale, z * scale), gradient(Euclidean(), x, z)
    )


@pytest.mark.parametrize(("scale", "shift"), [(1e-20, 100.0), (1.0, 100.0), (1e15, 0.0)])
def test_mmd_in_float32_is_near_float64_at_any_scale_and_place(scale, shift):
    x = (cloud(60, 5, "x") + shift).float()
    z = (cloud(20, 5, "z") + shift + 1).float()
    exact = value(MMD(), x.double(), z.double())
    assert value(MMD(), x * scale, z * scale) == pytest.approx(exact, abs=3e-5)
    slope = gradient(MMD(), x * scale, z * scale) * scale
    torch.testing.assert_close(
        slope.double(), gradient(MMD(), x.double(), z.double()), rtol=1e-2, atol=1e-6
    )


def transrate_definition(target, eps):
    """The formula, by singular values."""
    z = target.x.numpy() - target.x.numpy().mean(0)
    z = z / np.sqrt(np.trace(z.T @ z))

    def rate(rows):
        return np.log1p(np.linalg.svd(rows, compute_uv=False) ** 2 / (len(rows) * eps)).sum() / 2

    classes = [z[target.labels.numpy() == label] for label in np.unique(target.labels)]
    return rate(z) - np.mean([rate(rows) for rows in classes])


# Fewer points than dimensions, more, and a single class.
@pytest.mark.parametrize(("n", "d", "k"), [(30, 4, 3), (9, 20, 3), (12, 3, 1)])
@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_transrate_is_that_of_the_formula(n, d, k, eps):
    target = labelled(n, d, k, "target", spread=2)
    expected = -transrate_definition(target, eps)
    assert value(TransRate(eps), labelled(5, 2, 1, "source"), target) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )
