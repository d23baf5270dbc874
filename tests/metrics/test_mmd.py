"""MMD: against its definition, the gradient against finite differences, properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.metrics.mmd import MMD
from tests.metrics.generators import cloud, difference_quotients, gradient, value
from tests.properties import examples


def definition(x, z, bandwidth=None):
    """Value and bandwidth, as the formula reads."""
    x, z = np.asarray(x), np.asarray(z)
    joined = np.concatenate([x, z])
    squares = ((joined[:, None] - joined[None]) ** 2).sum(-1)
    n, count = len(x), len(joined)
    bandwidth = squares.sum() / (count * (count - 1)) if bandwidth is None else bandwidth
    kernel = sum(np.exp(-squares / (scale * bandwidth)) for scale in (0.25, 0.5, 1, 2, 4))
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean(), bandwidth


# The bandwidth of the far cloud lies outside what is tabulated.
CLOUDS = {"near": (1.0, 0.5), "wide": (3.0, 0.0), "narrow": (0.01, 0.0), "far": (1.0, 40.0)}


@pytest.mark.parametrize("name", CLOUDS)
def test_value_is_that_of_the_definition(name):
    scale, shift = CLOUDS[name]
    # Beyond 1,024 points are compared in pieces.
    for n, m in ((23, 11), *(((1030, 11), (11, 1030)) if name == "near" else ())):
        x, z = cloud(n, 4, "x"), cloud(m, 4, "z", scale=scale) + shift
        assert value(MMD(), x, z) == pytest.approx(definition(x, z)[0], abs=1e-12)


def test_gradient_is_that_of_finite_differences_at_a_constant_bandwidth():
    x, z = cloud(17, 3, "x"), cloud(9, 3, "z") + 1
    slope, held = gradient(MMD(), x, z), definition(x, z)[1]
    for move, quotient in difference_quotients(lambda z: definition(x, z, held)[0], z, 1e-5):
        assert quotient == pytest.approx((slope * move).sum().item(), abs=1e-8)


@examples(10)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), d=st.integers(1, 5))
def test_small_and_constant_clouds(seed, n, m, d):
    x, z = cloud(n, d, seed, "x"), cloud(m, d, seed, "z", scale=2.0)
    assert value(MMD(), x, z) == pytest.approx(definition(x, z)[0], abs=1e-12)
    for one, other in ((z, torch.zeros_like(x)), (torch.zeros_like(x), z)):
        assert np.isfinite(value(MMD(), one, other))
        assert gradient(MMD(), one, other).isfinite().all()


@pytest.mark.parametrize(("scale", "shift"), [(1e-20, 100.0), (1.0, 100.0), (1e15, 0.0)])
def test_float32_is_near_float64_at_any_scale_and_place(scale, shift):
    x, z = (cloud(60, 5, "x") + shift).float(), (cloud(20, 5, "z") + shift + 1).float()
    exact = value(MMD(), x.double(), z.double())
    assert value(MMD(), x * scale, z * scale) == pytest.approx(exact, abs=3e-5)
    slope = gradient(MMD(), x * scale, z * scale) * scale
    torch.testing.assert_close(slope.double(), gradient(MMD(), x.double(), z.double()), rtol=1e-2, atol=1e-6)
