"""What is asked of every metric alike: gradients by finite differences, invariances, equal points, what is refused."""

from dataclasses import replace

import pytest
import torch

from orca_cli.config import configuration, parts
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.euclidean import Euclidean
from orca_cli.metrics.mmd import MMD
from orca_cli.metrics.moments import Moments
from orca_cli.metrics.otdd import OTDD
from orca_cli.metrics.otdd_by_class import OTDDByClass
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.metrics.otdd_gaussian import OTDDGaussian
from orca_cli.metrics.otdd_reference import OTDDReference
from orca_cli.metrics.transrate import TransRate
from tests.metrics.generators import (
    changed,
    converged,
    difference_quotients,
    gradient,
    labelled,
    value,
)

FILES = {name: path for name, path in configuration.choices("metric").items() if name != "none"}
SINKHORN, NEWTON = (converged(OTDDByClass, 0.5, points) for points in (0, 512))
GAUSSIAN = converged(OTDDGaussian, 0.5)
CLOSE, WITHIN_SOLVER = {"abs": 1e-8}, {"rel": 1e-5, "abs": 1e-5}

# name -> (metric, points and classes of the source, of the target, dimensions, step, tolerance). MMD's bandwidth is a
# constant of its gradient, which is compared in test_mmd.py.
GRADIENTS = {
    "euclidean": (Euclidean(), (13, 1), (7, 1), 3, 1e-5, CLOSE),
    "moments": (Moments(), (13, 1), (7, 1), 3, 1e-5, CLOSE),
    "otdd, without labels": (OTDD(5, labels=False), (23, 1), (21, 1), 3, 1e-5, CLOSE),
    "otdd, 3 to 2": (OTDD(5), (23, 3), (21, 2), 3, 1e-6, CLOSE),
    "otdd_exact, 3 to 2": (
        OTDDExact(),
        (15, 3),
        (8, 2),
        3,
        1e-6,
        {"rel": 1e-6},
    ),  # within the step plans hold
    "otdd_gaussian, 2 to 3": (GAUSSIAN, (40, 2), (30, 3), 2, 1e-4, WITHIN_SOLVER),
    "otdd_gaussian, single points": (GAUSSIAN, (9, 2), (7, 5), 3, 1e-4, WITHIN_SOLVER),
    "otdd_by_class, sinkhorn, 3 to 1": (SINKHORN, (14, 3), (8, 1), 3, 1e-4, WITHIN_SOLVER),
    "otdd_by_class, newton, 4 to 3": (NEWTON, (9, 4), (17, 3), 3, 1e-4, WITHIN_SOLVER),
    "transrate, few points": (TransRate(1e-2), (5, 1), (6, 2), 9, 1e-5, {"rel": 1e-6, "abs": 1e-7}),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_that_of_finite_differences(name):
    metric, (n, k), (m, other), d, step, tolerance = GRADIENTS[name]
    source, target = labelled(n, d, k, "source", spread=2), labelled(m, d, other, "target")
    slope = gradient(metric, source, target)
    for move, quotient in difference_quotients(
        lambda x: value(metric, source, replace(target, x=x)), target.x, step
    ):
        assert quotient == pytest.approx((slope * move).sum().item(), **tolerance)


# name -> (metric, the metric of points that are 3 times as far apart, by which factor it is larger there)
INVARIANT = {
    "euclidean": (Euclidean(), Euclidean(), 3),
    "moments": (Moments(), Moments(), 9),
    "mmd": (MMD(), MMD(), 1),
    "transrate": (TransRate(), TransRate(), 1),
    "otdd_exact": (OTDDExact(), OTDDExact(), 9),
    "otdd_gaussian": (replace(GAUSSIAN, reg=2), replace(GAUSSIAN, reg=18), 9),
    "otdd_by_class, sinkhorn": (replace(SINKHORN, reg=2), replace(SINKHORN, reg=18), 9),
    "otdd_by_class, newton": (replace(NEWTON, reg=2), replace(NEWTON, reg=18), 9),
    "otdd_reference": (OTDDReference(), None, 1),
}


@pytest.mark.parametrize("name", INVARIANT)
@pytest.mark.parametrize(("n", "k", "m", "classes", "d"), [(11, 3, 8, 2, 3), (6, 1, 9, 4, 7)])
def test_order_place_names_of_classes_and_side_do_not_matter(name, n, k, m, classes, d):
    metric, of_scaled, factor = INVARIANT[name]
    source, target = labelled(n, d, k, "source", spread=2), labelled(m, d, classes, "target")
    expected, close = value(metric, source, target), {"rel": 1e-6, "abs": 1e-7}
    # Some of the names of classes have no point.
    other = Features(source.x.flip(0) + 5, 2 * (k - 1 - source.labels).flip(0), 2 * k)
    moved = Features(target.x.flip(0) + 5, target.labels.flip(0) + 1, classes + 2)
    assert value(metric, other, moved) == pytest.approx(expected, **close)
    if name == "otdd_reference":  # knows its sides by their order
        return
    if name != "transrate":  # of the target alone
        assert value(metric, moved, other) == pytest.approx(expected, **close)
        assert expected > 0
    if name not in ("transrate", "euclidean"):
        assert value(metric, source, source) == pytest.approx(0, abs=1e-6)
    scaled = [changed(part, lambda x: -3 * x) for part in (source, target)]
    assert value(of_scaled, *scaled) == pytest.approx(factor * expected, **close)


def built(name):
    return parts.build(configuration.content(FILES[name]), "metric")


@pytest.mark.parametrize("name", [name for name in FILES if name != "otdd_gaussian"])
def test_equal_points_give_zero_and_no_gradient(name):
    for constant, dtype in ((0.1, torch.float32), (1e6, torch.float64), (1e6, torch.float32)):
        x, z = torch.full((6, 3), constant, dtype=dtype), torch.full((4, 3), constant, dtype=dtype)
        assert value(built(name), x, z) == pytest.approx(0, abs=1e-6)
        assert gradient(built(name), x, z).abs().max() < 1e-6


@pytest.mark.parametrize("name", FILES)
def test_features_that_are_not_finite_are_refused(name):
    good = labelled(10, 3, 2, "good")
    for bad in (float("nan"), -float("inf")):
        x = good.x.clone()
        x[3, 1] = bad
        with pytest.raises(NonFiniteError, match="source"):
            built(name).prepare(replace(good, x=x))
        with pytest.raises(NonFiniteError, match="target"):
            value(built(name), good, replace(good, x=x))
