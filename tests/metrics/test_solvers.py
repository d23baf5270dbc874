"""Newton's method and Sinkhorn's algorithm against POT, geomloss, known answers and each other."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.metrics.transport.clouds import half_squared_distances
from orca_cli.metrics.transport.entropic import Transport, exp_
from tests.metrics.generators import cloud
from tests.properties import examples

EXACT = Transport(tolerance=1e-11, max_iterations=20000, newton_steps=20000)
SOLVERS = {"newton": Transport.by_newton, "sinkhorn": Transport.by_sinkhorn}


def plans(cost, solution, a, b, reg):
    """Return the plans [B, p, q] of solutions, for weights [B, p] and [B, q]."""
    exponent = (a.log() + solution.f / reg)[:, :, None] + (b.log() + solution.g / reg)[:, None, :]
    return exp_(exponent.sub_(cost, alpha=1 / reg))


def uniform(*shape):
    return torch.full(shape, 1 / shape[-1], dtype=torch.float64)


def random_weights(n, *names):
    weights = cloud(n, 1, *names)[:, 0].exp()
    return (weights / weights.sum())[None]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("n", "m"), [(20, 30), (200, 12), (1, 5)])
def test_agrees_with_pot(name, n, m):
    x, z = cloud(n, 4, "x"), cloud(m, 4, "z") + 1
    a, b = random_weights(n, "a"), random_weights(m, "b")
    cost = half_squared_distances(x, z)
    reg = 0.2
    solution = SOLVERS[name](EXACT, cost[None], a, b, reg)
    settings = {"method": "sinkhorn_log", "stopThr": 1e-13, "numItermax": 50000}
    plan = ot.sinkhorn(a[0].numpy(), b[0].numpy(), cost.numpy(), reg, **settings)
    ours = plans(cost[None], solution, a, b, reg)[0]
    np.testing.assert_allclose(ours.numpy(), plan, atol=1e-8)
    entropy = (plan * np.log(np.clip(plan, 1e-300, None) / (a[0][:, None] * b).numpy())).sum()
    assert solution.value.item() == pytest.approx(
        (plan * cost.numpy()).sum() + reg * entropy, abs=1e-8
    )
    assert solution.error.item() < 1e-9


@pytest.mark.parametrize("name", SOLVERS)
def test_padding_gets_no_mass(name):
    x, z = cloud(14, 3, "x"), cloud(10, 3, "z")
    cost = half_squared_distances(x, z)[None]
    alone = SOLVERS[name](EXACT, cost, uniform(1, 14), uniform(1, 10), 0.1)
    padded = torch.zeros(2, 16, 13, dtype=torch.float64)
    padded[:, :14, :10] = cost
    a = torch.zeros(2, 16, dtype=torch.float64)
    b = torch.zeros(2, 13, dtype=torch.float64)
    a[:, :14] = 1 / 14
    b[:, :10] = 1 / 10
    # The second problem is easy, so that problems leave the batch at different times.
    padded[1] = padded[1] / 100
    solution = SOLVERS[name](EXACT, padded, a, b, 0.1)
    plan = plans(padded, solution, a, b, 0.1)
    alone_plan = plans(cost, alone, uniform(1, 14), uniform(1, 10), 0.1)
    torch.testing.assert_close(plan[:1, :14, :10], alone_plan, rtol=1e-7, atol=1e-10)
    assert float(plan[:, 14:].sum() + plan[:, :, 10:].sum()) < 1e-12
    assert solution.value[0].item() == pytest.approx(alone.value.item(), abs=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_an_unsolved_problem_says_so(name):
    x, z = cloud(30, 3, "x", scale=10), cloud(20, 3, "z", scale=10)
    cost = half_squared_distances(x, z)[None]
    weights = (uniform(1, 30), uniform(1, 20))
    hasty = Transport(tolerance=1e-9, max_iterations=1, newton_steps=1)
    solution = SOLVERS[name](hasty, cost, *weights, 0.01)
    plan = plans(cost, solution, *weights, 0.01)
    assert solution.error.item() == pytest.approx(
        (plan.sum(1) - 1 / 20).abs().sum().item(), abs=1e-9
    )
    assert plan.sum(2) == pytest.approx(uniform(1, 30), abs=1e-9)
    assert solution.error.item() > 1e-3


def test_a_bad_start_is_left_and_a_good_one_is_used():
    x, z = cloud(200, 4, "x", scale=5), cloud(20, 4, "z", scale=5)
    cost = half_squared_distances(x, z)[None]
    weights = (uniform(1, 200), uniform(1, 20))
    transport = Transport(tolerance=1e-3, newton_steps=40)
    bad = transport.solve(cost, *weights, 0.05, 1e4 * cloud(1, 20, "start"))
    assert bad.error.item() <= 1e-3
    good = transport.solve(cost, *weights, 0.05, bad.g)
    assert good.error.item() <= 1e-3
    assert good.iterations < bad.iterations


@examples(15)
@given(
    seed=st.integers(0, 10**6),
    reg=st.sampled_from([0.02, 0.1, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_newton_converges_where_sinkhorn_is_slow(seed, reg, scale):
    x, z = cloud(40, 6, seed, "x", scale=scale), cloud(11, 6, seed, "z", scale=scale)
    cost = half_squared_distances(x, z)[None]
    transport = Transport(tolerance=1e-8, newton_steps=200)
    solution = transport.by_newton(cost, uniform(1, 40), uniform(1, 11), reg)
    assert solution.error.item() < 1e-8
