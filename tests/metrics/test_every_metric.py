"""Every metric: gradients by finite differences, invariances, equal points, refusals, traits."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from orca_cli.config import configuration, parts
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features, Metric
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


@dataclass(frozen=True)
class Gradient:
    """A metric, points and classes of both sides, and the tolerance between gradient and differences."""

    metric: Metric
    source: tuple[int, int]
    target: tuple[int, int]
    width: int = 3
    step: float = 1e-5
    close: dict[str, float] = field(default_factory=lambda: CLOSE)


# MMD's bandwidth is a constant of its gradient, which is compared in test_euclidean.py.
GRADIENTS = {
    "euclidean": Gradient(metric=Euclidean(), source=(13, 1), target=(7, 1)),
    "moments": Gradient(metric=Moments(), source=(13, 1), target=(7, 1)),
    "otdd, without labels": Gradient(metric=OTDD(5, labels=False), source=(23, 1), target=(21, 1)),
    "otdd, 3 to 2": Gradient(metric=OTDD(5), source=(23, 3), target=(21, 2), step=1e-6),
    # Plans do not change within the step.
    "otdd_exact, 3 to 2": Gradient(
        metric=OTDDExact(), source=(15, 3), target=(8, 2), step=1e-6, close={"rel": 1e-6}
    ),
    "otdd_gaussian, 2 to 3": Gradient(
        metric=GAUSSIAN, source=(40, 2), target=(30, 3), width=2, step=1e-4, close=WITHIN_SOLVER
    ),
    "otdd_gaussian, single points": Gradient(
        metric=GAUSSIAN, source=(9, 2), target=(7, 5), step=1e-4, close=WITHIN_SOLVER
    ),
    "otdd_by_class, sinkhorn, 3 to 1": Gradient(
        metric=SINKHORN, source=(14, 3), target=(8, 1), step=1e-4, close=WITHIN_SOLVER
    ),
    "otdd_by_class, newton, 4 to 3": Gradient(
        metric=NEWTON, source=(9, 4), target=(17, 3), step=1e-4, close=WITHIN_SOLVER
    ),
    "transrate, few points": Gradient(
        metric=TransRate(1e-2),
        source=(5, 1),
        target=(6, 2),
        width=9,
        close={"rel": 1e-6, "abs": 1e-7},
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_that_of_finite_differences(name):
    case = GRADIENTS[name]
    (n, k), (m, classes) = case.source, case.target
    source = labelled(n, case.width, k, "source", spread=2)
    target = labelled(m, case.width, classes, "target")
    slope = gradient(case.metric, source, target)

    def moved(x):
        return value(case.metric, source, replace(target, x=x))

    # The directions share the gradient.
    for move, quotient in difference_quotients(moved, target.x, case.step):
        assert quotient == pytest.approx((slope * move).sum().item(), **case.close)


@dataclass(frozen=True)
class Invariant:
    """A metric, and its scaled form for points 3 times as far apart, larger by a factor."""

    metric: Metric
    of_scaled: Metric
    factor: float


INVARIANT = {
    "euclidean": Invariant(metric=Euclidean(), of_scaled=Euclidean(), factor=3),
    "moments": Invariant(metric=Moments(), of_scaled=Moments(), factor=9),
    "mmd": Invariant(metric=MMD(), of_scaled=MMD(), factor=1),
    "transrate": Invariant(metric=TransRate(), of_scaled=TransRate(), factor=1),
    "otdd_exact": Invariant(metric=OTDDExact(), of_scaled=OTDDExact(), factor=9),
    "otdd_gaussian": Invariant(metric=replace(GAUSSIAN, reg=2), of_scaled=replace(GAUSSIAN, reg=18), factor=9),
    "otdd_by_class, sinkhorn": Invariant(
        metric=replace(SINKHORN, reg=2), of_scaled=replace(SINKHORN, reg=18), factor=9
    ),
    "otdd_by_class, newton": Invariant(metric=replace(NEWTON, reg=2), of_scaled=replace(NEWTON, reg=18), factor=9),
}  # fmt: skip
SHAPES = pytest.mark.parametrize(
    ("n", "k", "m", "classes", "d"), [(11, 3, 8, 2, 3), (6, 1, 9, 4, 7)]
)


def sides(n, k, m, classes, d):
    return labelled(n, d, k, "source", spread=2), labelled(m, d, classes, "target")


def renamed(source, target):
    """Both sides in another order and place, with other class names; some classes have no point."""
    labels = 2 * (source.num_classes - 1 - source.labels).flip(0)
    return (
        Features(x=source.x.flip(0) + 5, labels=labels, num_classes=2 * source.num_classes),
        Features(
            x=target.x.flip(0) + 5,
            labels=target.labels.flip(0) + 1,
            num_classes=target.num_classes + 2,
        ),
    )


@pytest.mark.parametrize("name", [*INVARIANT, "otdd_reference"])
@SHAPES
def test_order_place_and_names_of_classes_do_not_matter(name, n, k, m, classes, d):
    metric = OTDDReference() if name == "otdd_reference" else INVARIANT[name].metric
    source, target = sides(n, k, m, classes, d)
    expected = pytest.approx(value(metric, source, target), rel=1e-6, abs=1e-7)
    assert value(metric, *renamed(source, target)) == expected


# TransRate uses the target alone, and the released code's distance treats its two sides differently.
@pytest.mark.parametrize("name", [name for name in INVARIANT if name != "transrate"])
@SHAPES
def test_the_sides_may_be_exchanged(name, n, k, m, classes, d):
    metric = INVARIANT[name].metric
    source, target = sides(n, k, m, classes, d)
    expected = value(metric, source, target)
    assert expected > 0
    renamed_source, renamed_target = renamed(source, target)
    exchanged = value(metric, renamed_target, renamed_source)
    assert exchanged == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    "name", [name for name in INVARIANT if name not in ("transrate", "euclidean")]
)
@SHAPES
def test_a_cloud_has_no_distance_to_itself(name, n, k, m, classes, d):
    source, _ = sides(n, k, m, classes, d)
    assert value(INVARIANT[name].metric, source, source) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", INVARIANT)
@SHAPES
def test_the_distance_scales_with_the_features(name, n, k, m, classes, d):
    case = INVARIANT[name]
    source, target = sides(n, k, m, classes, d)
    expected = case.factor * value(case.metric, source, target)
    scaled = [changed(side, lambda x: -3 * x) for side in (source, target)]
    assert value(case.of_scaled, *scaled) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def built(name):
    return parts.build(configuration.content(FILES[name]), "metric")


@pytest.mark.parametrize("name", FILES)
def test_every_metric_has_the_traits(name):
    metric = built(name)
    # This trait is read from the class, before a metric is made.
    assert type(metric).least_classes >= 1
    assert isinstance(metric.all_classes, bool)
    assert metric.sample_size >= 0
    assert metric.sample_classes >= 0


@pytest.mark.parametrize("name", [name for name in FILES if name != "otdd_gaussian"])
@pytest.mark.parametrize(
    ("constant", "dtype"), [(0.1, torch.float32), (1e6, torch.float64), (1e6, torch.float32)]
)
def test_equal_points_give_zero_and_no_gradient(name, constant, dtype):
    x, z = torch.full((6, 3), constant, dtype=dtype), torch.full((4, 3), constant, dtype=dtype)
    assert value(built(name), x, z) == pytest.approx(0, abs=1e-6)
    assert gradient(built(name), x, z).abs().max() < 1e-6


def with_entry(features, number):
    x = features.x.clone()
    x[3, 1] = number
    return replace(features, x=x)


NON_FINITE = pytest.mark.parametrize("number", [float("nan"), -float("inf")])


@pytest.mark.parametrize("name", FILES)
@NON_FINITE
def test_a_source_that_is_not_finite_is_refused(name, number):
    source = with_entry(labelled(10, 3, 2, "good"), number)
    with pytest.raises(NonFiniteError, match="source"):
        built(name).prepare(source)


@pytest.mark.parametrize("name", FILES)
@NON_FINITE
def test_a_target_that_is_not_finite_is_refused(name, number):
    finite = labelled(10, 3, 2, "good")
    with pytest.raises(NonFiniteError, match="target"):
        value(built(name), finite, with_entry(finite, number))
