"""Minibatch OT: known answers, agreement with POT, and zero in expectation between draws of one distribution."""

import numpy as np
import ot
import pytest
import torch

from orca_cli.interfaces import Features
from orca_cli.metrics.minibatch_ot import MinibatchOT
from orca_cli.metrics.otdd import OTDD
from tests.metrics.generators import cloud, cosine, distance


def value(x, z, size=64):
    return distance(MinibatchOT(size), x, z).value


def exact(x, z):
    return ot.emd2([], [], ot.dist(x.numpy(), z.numpy())) / 2


@pytest.mark.parametrize(("n", "m", "size", "pairs"), [(24, 24, 6, 4), (30, 17, 5, 3), (9, 40, 64, 2)])
def test_value_is_that_of_exact_transport_between_consecutive_samples(n, m, size, pairs):
    x, z = cloud(n, 3, "x"), cloud(m, 3, "z", scale=2) + 1
    each = min(size, min(n, m) // 2)
    xs, zs = (side[: pairs * each].reshape(pairs, each, 3) for side in (x, z))
    cross = np.mean([exact(xs[i], zs[i]) for i in range(pairs)])
    own = [np.mean([exact(side[i], side[i + 1]) for i in range(0, pairs - 1, 2)]) for side in (xs, zs)]
    assert value(x, z, size).item() == pytest.approx(cross - sum(own) / 2)


def test_draws_of_one_distribution_have_value_and_gradient_zero_on_average():
    values, slopes = [], []
    for draw in range(400):
        z = cloud(64, 8, "z", draw).requires_grad_()
        found = value(cloud(64, 8, "x", draw), z, 32)
        found.backward()
        values.append(found.item())
        # A contraction towards the mean is what biased transport between samples asks for.
        slopes.append((z.grad * z.detach()).sum().item())
    for found in (values, slopes):
        assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5
    biased = [
        torch.autograd.grad(_biased(cloud(64, 8, "x", 0), z), z)[0] for z in [cloud(64, 8, "z", 0).requires_grad_()]
    ]
    assert (biased[0] * cloud(64, 8, "z", 0)).sum() > 5 * np.std(slopes)


def _biased(x, z):
    rows, columns = ot.dist(x.numpy(), z.detach().numpy()), torch.arange(len(z))
    plan = torch.from_numpy(ot.emd([], [], rows)) * len(z)
    return (x[plan.argmax(0)] - z[columns]).square().sum(1).mean() / 2


def test_a_shift_is_half_its_square():
    x = cloud(40, 3, "x")
    shift = torch.full((3,), 50.0, dtype=torch.float64)
    assert value(x, x + shift).item() == pytest.approx(shift.square().sum().item() / 2, rel=0.05)


def test_single_points_are_compared_across_alone():
    x, z = cloud(1, 3, "x"), cloud(1, 3, "z")
    assert value(x, z).item() == pytest.approx((x - z).square().sum().item() / 2)


def test_otdd_without_labels_ignores_them_and_agrees_with_geomloss():
    from geomloss import SamplesLoss

    x, z = cloud(60, 5, "x"), cloud(40, 5, "z", scale=1.3) + 0.5
    metric = OTDD(labels=False, tolerance=1e-9, max_iterations=100_000, newton_steps=200)
    found = []
    for k, labels in ((1, [0] * 40), (4, [i % 4 for i in range(40)])):
        source = Features(x, torch.arange(60) % 3, 3)
        target = z.clone().requires_grad_()
        labelled = distance(metric, source, Features(target, torch.tensor(labels), k)).value
        labelled.backward()
        found.append((labelled.item(), target.grad))
    other = z.clone().requires_grad_()
    loss = SamplesLoss("sinkhorn", p=2, blur=0.1**0.5, debias=True, backend="tensorized", scaling=0.999)(x, other)
    loss.backward()
    assert found[0][0] == found[1][0] == pytest.approx(loss.item(), rel=1e-5)
    assert cosine(found[0][1], other.grad) > 0.9999
