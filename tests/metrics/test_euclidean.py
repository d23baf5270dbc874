"""Mean Euclidean distance and moments: against SciPy and NumPy; points on top of each other, single and equal ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from orca_cli.metrics.euclidean import Euclidean
from orca_cli.metrics.moments import Moments
from tests.metrics.generators import cloud, distance, gradient, value
from tests.properties import examples


@examples(20)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_value_agrees_with_scipy_in_any_order_and_place(seed, n, m, d):
    x, z, metric = cloud(n, d, seed, "x"), cloud(m, d, seed, "z") + 1, Euclidean(chunk=5)
    expected = cdist(x, z).mean()
    assert value(metric, x, z) == pytest.approx(expected, rel=1e-10)
    assert value(metric, z.flip(0), x.flip(0)) == pytest.approx(expected, rel=1e-10)
    assert value(metric, x + 100, z + 100) == pytest.approx(expected, rel=1e-8)
    assert value(metric, x * -3, z * -3) == pytest.approx(3 * expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_top_of_each_other_have_no_part_in_the_gradient(dtype):
    x = cloud(9, 40, "x").to(dtype) + 5
    result = distance(Euclidean(), x, x)
    assert result.diagnostics["coinciding"] == 9
    assert result.value.item() == pytest.approx(cdist(x, x).mean(), rel=1e-6)
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


def test_shift_and_stretch_are_told_apart():
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    result = distance(Moments(), x, x * 3 + torch.tensor([2.0, 0.0]))
    assert result.value.item() == pytest.approx((4 + 0) / 2 + 4)
    assert result.diagnostics == pytest.approx({"mean_part": 2.0, "std_part": 4.0, "m": 2.0})


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_and_equal_points_have_deviation_zero(dtype):
    x = cloud(9, 3, "x").to(dtype)
    for z in (torch.ones(1, 3, dtype=dtype), torch.full((5, 3), 0.1, dtype=dtype)):
        assert value(Moments(), x, z) == pytest.approx(moments_distance(x, z), rel=1e-4)
        # Equal points move together: only their mean counts.
        slope = gradient(Moments(), x, z)
        expected = (2 * (z.mean(0) - x.mean(0)) / 3 / len(z)).expand_as(z)
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)
