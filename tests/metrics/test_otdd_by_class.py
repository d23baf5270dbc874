"""The distances by class and of the released code: against geomloss, far scales, labels."""

from dataclasses import replace

import pytest
import torch

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_by_class import OTDDByClass
from orca_cli.metrics.otdd_reference import OTDDReference
from orca_cli.seeding import torch_generator
from tests.metrics.generators import (
    changed,
    cloud,
    converged,
    cosine,
    geomloss_otdd,
    gradient,
    labelled,
    value,
)


@pytest.mark.parametrize(("k", "m", "newton_points"), [(3, 1, 512), (2, 4, 0)])
def test_value_agrees_with_geomloss(k, m, newton_points):
    source, target = labelled(42, 3, k, "source", spread=2), labelled(24, 3, m, "target")
    ours = value(converged(OTDDByClass, 0.5, newton_points), source, target)
    assert ours == pytest.approx(geomloss_otdd(source, target, 0.5, scaling=0.95).item(), rel=5e-4)


def test_defaults_are_near_the_converged_problem_in_float32():
    source, target = labelled(60, 16, 4, "source", scale=2), labelled(24, 16, 2, "target", scale=2)
    single = [changed(side, torch.Tensor.float) for side in (source, target)]
    exact = converged(OTDDByClass)
    assert value(OTDDByClass(), *single) == pytest.approx(value(exact, source, target), rel=1e-3)
    assert cosine(gradient(OTDDByClass(), *single), gradient(exact, source, target)) > 0.995


@pytest.mark.parametrize("m", [1, 2])
def test_costs_much_larger_than_the_distance_lose_no_digits(m):
    # Two groups 2,000 apart whose points move by 0.5: float32 cannot represent such costs to within reg.
    labels = torch.arange(20) % 2
    x = (cloud(20, 3, "source") + 2000 * labels[:, None]).float()
    source = Features(x=x, labels=labels, num_classes=2)
    target = Features(x=x[:10] + 0.5, labels=labels[:10] % m, num_classes=m)
    single = (source, target)
    double = [changed(side, torch.Tensor.double) for side in single]
    expected = value(OTDDByClass(), *double)
    assert value(OTDDByClass(), *single) == pytest.approx(expected, rel=1e-5)


def test_an_overflow_is_not_silent():
    x = cloud(6, 2, "huge").float() * 1e25
    huge = Features(x=x, labels=torch.tensor([0, 1] * 3), num_classes=2)
    with pytest.raises(NonFiniteError):
        value(OTDDByClass(), huge, cloud(3, 2, "target").float())


@pytest.mark.parametrize(
    ("k", "classes", "n", "m", "d", "scale", "dtype"),
    [
        (4, 1, 90, 25, 6, 1.0, torch.float64),
        (3, 1, 61, 20, 24, 0.3, torch.float32),
        (3, 4, 40, 21, 5, 3.0, torch.float64),
        # Points within the blur: the label distances inside the target count.
        (3, 4, 40, 21, 5, 0.1, torch.float64),
        (1, 1, 20, 20, 3, 0.1, torch.float32),  # features of about the size of the blur
        (3, 1, 30, 1, 3, 1.0, torch.float64),
    ],
)
def test_the_released_code_is_that_of_geomloss(k, classes, n, m, d, scale, dtype):
    rel, cosine_gap = {torch.float64: (1e-5, 1e-9), torch.float32: (1e-4, 1e-5)}[dtype]
    source = changed(labelled(n, d, k, "source", scale=scale, spread=scale), lambda x: x.to(dtype))
    target = changed(
        labelled(m, d, classes, "target", scale=0.7 * scale, spread=scale), lambda x: x.to(dtype)
    )
    target.x.requires_grad_()
    expected = geomloss_otdd(source, target, 0.1)
    (expected_slope,) = torch.autograd.grad(expected, target.x)
    slope = gradient(OTDDReference(0.1), source, target)
    assert value(OTDDReference(0.1), source, target) == pytest.approx(expected.item(), rel=rel)
    assert cosine(slope, expected_slope) > 1 - cosine_gap
    assert slope.norm().item() == pytest.approx(expected_slope.norm().item(), rel=1e-3)


def test_shuffled_source_labels_do_not_move_the_gradient():
    source, target = labelled(80, 5, 4, "source", spread=3), labelled(20, 5, 1, "target")
    order = torch.randperm(80, generator=torch_generator(0, "order"))
    shuffled = replace(source, labels=source.labels[order])
    metric = OTDDReference(0.1)
    before, after = (value(metric, side, target) for side in (source, shuffled))
    assert abs(before - after) > 0.01 * before
    # The gradient moves a little because of the first level of annealing, where geomloss starts
    # both potentials from 0.
    slope = gradient(metric, source, target)
    shuffled_slope = gradient(metric, shuffled, target)
    assert (slope - shuffled_slope).norm() < 1e-3 * slope.norm()
