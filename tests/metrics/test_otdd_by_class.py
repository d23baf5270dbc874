"""The dataset distance: value, gradient through features and label distances, invariances, edge cases."""

import itertools

import pytest
import torch
from geomloss import SamplesLoss
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_by_class import OTDDByClass
from orca_cli.seeding import torch_generator
from tests.metrics.generators import KNOWN, cloud, cosine, distance, gradient, labelled, unlabelled, value
from tests.properties import examples

EXACT = {"tolerance": 1e-10, "newton_steps": 300, "max_iterations": 3000}


def relabelled(features, order):
    return Features(features.x, torch.tensor(order)[features.labels], features.num_classes)


def geomloss_divergence(x, z, reg):
    """Debiased, for the cost |x - z|^2 / 2."""
    return SamplesLoss("sinkhorn", p=2, blur=reg**0.5, scaling=0.99, debias=True, backend="tensorized")(x, z).item()


def geomloss_otdd(source, target, reg):
    """OTDD by geomloss alone; labels enter the cost through a table in an extra coordinate."""
    clouds = [f.x[f.labels == c] for f in (source, target) for c in range(f.num_classes)]
    table = torch.zeros(len(clouds), len(clouds), dtype=torch.float64)
    for a, b in itertools.combinations(range(len(clouds)), 2):
        table[a, b] = table[b, a] = 2 * geomloss_divergence(clouds[a], clouds[b], reg / 2)

    def cost(x, y):
        labels = table[x[..., -1].long()[..., :, None], y[..., -1].long()[..., None, :]]
        return torch.cdist(x[..., :-1], y[..., :-1]).square() / 2 + labels / 2

    joined = [
        torch.cat([f.x, (f.labels + start)[:, None].double()], 1)
        for f, start in ((source, 0), (target, source.num_classes))
    ]
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=reg**0.5, scaling=0.995, debias=True, cost=cost, backend="tensorized", diameter=20.0
    )
    return loss(*joined).item()


@pytest.mark.parametrize("classes", [(3, 1), (2, 4)])
@pytest.mark.parametrize("newton_points", [0, 512])
def test_value_agrees_with_geomloss(classes, newton_points):
    k, l = classes  # noqa: E741
    source, target = labelled(42, 3, k, "source", spread=2), labelled(24, 3, l, "target")
    ours = value(OTDDByClass(reg=0.5, newton_points=newton_points, **EXACT), source, target)
    assert ours == pytest.approx(geomloss_otdd(source, target, 0.5), rel=3e-4)


@pytest.mark.parametrize("generator", KNOWN)
def test_one_class_each_is_transport_plus_label_distance(generator):
    # c = |x - z|^2 / 2 + W / 2 with W constant: the value is W/2 + W/2 at small reg.
    x, z, expected = generator()
    assert value(OTDDByClass(reg=0.005), unlabelled(x), unlabelled(z)) == pytest.approx(expected, rel=0.02, abs=1e-6)


def test_labels_of_the_source_reach_the_gradient():
    # The released code treats label distances as constants: shuffled labels leave its gradient as it is.
    source, target = labelled(60, 4, 3, "source", spread=3), unlabelled(cloud(15, 4, "target"))
    order = torch.randperm(60, generator=torch_generator(0, "order"))
    shuffled = Features(source.x, source.labels[order], 3)
    metric = OTDDByClass()
    assert cosine(gradient(metric, source, target), gradient(metric, shuffled, target)) < 0.999


@examples(5)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), l=st.integers(1, 3), d=st.integers(1, 5))
def test_properties(seed, k, l, d):  # noqa: E741
    metric = OTDDByClass(reg=1.0, **EXACT)
    source, target = labelled(9, d, k, seed, "source"), labelled(7, d, l, seed, "target")
    expected = value(metric, source, target)
    assert expected >= -1e-8
    assert value(metric, source, source) == pytest.approx(0, abs=1e-8)
    assert value(metric, target, source) == pytest.approx(expected, abs=1e-8)
    order = torch.randperm(7, generator=torch_generator(seed, "order"))
    assert value(metric, source, Features(target.x[order], target.labels[order], l)) == pytest.approx(
        expected, abs=1e-8
    )
    names = list(range(k))[::-1]
    assert value(metric, relabelled(source, names), target) == pytest.approx(expected, abs=1e-8)
    moved = [Features(f.x + 5, f.labels, f.num_classes) for f in (source, target)]
    assert value(metric, *moved) == pytest.approx(expected, abs=1e-8)
    scaled = [Features(f.x * 3, f.labels, f.num_classes) for f in (source, target)]
    assert value(OTDDByClass(reg=9.0, **EXACT), *scaled) == pytest.approx(9 * expected, abs=1e-7)


@pytest.mark.parametrize("l", [1, 3])
def test_defaults_are_near_the_converged_problem_in_float32(l):  # noqa: E741
    source, target = labelled(400, 32, 5, "source", scale=2), labelled(48, 32, l, "target", scale=2)
    single = [Features(f.x.float(), f.labels, f.num_classes) for f in (source, target)]
    exact = OTDDByClass(**EXACT)
    assert value(OTDDByClass(), *single) == pytest.approx(value(exact, source, target), rel=1e-3)
    assert cosine(gradient(OTDDByClass(), *single), gradient(exact, source, target)) > 0.995


def test_the_prepared_part_is_all_that_depends_on_the_source_alone():
    source, metric = labelled(40, 3, 3, "source"), OTDDByClass(chunk=7)
    prepared = metric.prepare(source)
    assert {t.dtype for t in prepared.values()} == {torch.float64}
    assert prepared["self_source"].item() == pytest.approx(0, abs=1e-4)
    whole = OTDDByClass(chunk=1000).prepare(source)
    for name in prepared:
        torch.testing.assert_close(prepared[name], whole[name])
    result = metric.distance(source, prepared, labelled(10, 3, 2, "target"))
    assert set(result.diagnostics) == {"iterations", "marginal_error", "converged", "self_source", "n", "m"}
    assert result.diagnostics["marginal_error"] <= metric.tolerance
    assert result.diagnostics["converged"] == 1


def test_classes_of_one_point_and_classes_without_a_point():
    source = Features(cloud(9, 3, "source"), torch.tensor([0, 2, 2, 2, 2, 2, 3, 3, 3]), 5)
    target = Features(cloud(4, 3, "target"), torch.tensor([1, 1, 1, 3]), 4)
    metric = OTDDByClass(**EXACT)
    compact = value(
        metric,
        Features(source.x, torch.tensor([0, 1, 1, 1, 1, 1, 2, 2, 2]), 3),
        Features(target.x, torch.tensor([0, 0, 0, 1]), 2),
    )
    assert value(metric, source, target) == pytest.approx(compact, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("l", [1, 2])
def test_any_scale_stays_finite_and_right(scale, l):  # noqa: E741
    # Two groups of points far apart: the nearest points are matched at every scale.
    source = labelled(24, 3, 2, "source", scale=0.1 * scale, spread=scale)
    target = labelled(8, 3, l, "target", scale=0.1 * scale, spread=scale)
    reference = value(
        OTDDByClass(reg=1e-4), *(Features(f.x / scale, f.labels, f.num_classes) for f in (source, target))
    )
    single = [Features(f.x.float(), f.labels, f.num_classes) for f in (source, target)]
    result = distance(OTDDByClass(), *single)
    assert result.value.isfinite()
    assert gradient(OTDDByClass(), *single).isfinite().all()
    if scale == 1e4:
        assert result.value.item() == pytest.approx(reference * scale**2, rel=0.02)
    if scale == 1e-4:
        assert abs(result.value.item()) < 1e-6


@pytest.mark.parametrize("l", [1, 2])
def test_costs_much_larger_than_the_distance_lose_no_digits(l):  # noqa: E741
    # Two groups 2,000 apart whose points move by 0.5: float32 cannot hold such costs to within reg.
    labels = torch.arange(20) % 2
    x = (cloud(20, 3, "source") + 2000 * labels[:, None]).float()
    z = x[:10] + 0.5
    single = Features(x, labels, 2), Features(z, labels[:10] % l, l)
    double = [Features(f.x.double(), f.labels, f.num_classes) for f in single]
    assert value(OTDDByClass(), *single) == pytest.approx(value(OTDDByClass(), *double), rel=1e-5)


def test_an_overflow_is_not_silent():
    huge = Features(cloud(6, 2, "huge").float() * 1e25, torch.tensor([0, 1] * 3), 2)
    with pytest.raises(NonFiniteError):
        distance(OTDDByClass(), huge, unlabelled(cloud(3, 2, "target").float()))


def test_without_labels_they_are_ignored_and_the_value_is_geomloss():
    x, z = cloud(60, 5, "x"), cloud(40, 5, "z", scale=1.3) + 0.5
    metric = OTDDByClass(labels=False, tolerance=1e-9, max_iterations=100_000, newton_steps=200)
    source = Features(x, torch.arange(60) % 3, 3)
    one, four = (Features(z, torch.arange(40) % k, k) for k in (1, 4))
    other = z.clone().requires_grad_()
    loss = SamplesLoss("sinkhorn", p=2, blur=0.1**0.5, debias=True, backend="tensorized", scaling=0.999)(x, other)
    loss.backward()
    assert value(metric, source, one) == value(metric, source, four) == pytest.approx(loss.item(), rel=1e-5)
    assert cosine(gradient(metric, source, one), other.grad) > 0.9999
