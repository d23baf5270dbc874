"""The dataset distance: value, gradient through features and label distances, invariances, edge cases."""

import itertools

import pytest
import torch
from geomloss import SamplesLoss

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_by_class import OTDDByClass
from tests.metrics.generators import changed, cloud, cosine, distance, gradient, labelled, unlabelled, value

EXACT = {"tolerance": 1e-10, "newton_steps": 300, "max_iterations": 3000}


def geomloss_divergence(x, z, reg):
    """Debiased, for the cost |x - z|^2 / 2."""
    return SamplesLoss("sinkhorn", p=2, blur=reg**0.5, scaling=0.95, debias=True, backend="tensorized")(x, z).item()


def geomloss_otdd(source, target, reg):
    """OTDD by geomloss alone; labels enter the cost through a table in an extra coordinate."""
    clouds = [f.x[f.labels == c] for f in (source, target) for c in range(f.num_classes)]
    table = torch.zeros(len(clouds), len(clouds), dtype=torch.float64)
    for a, b in itertools.combinations(range(len(clouds)), 2):
        table[a, b] = table[b, a] = 2 * geomloss_divergence(clouds[a], clouds[b], reg / 2)

    def cost(x, y):
        labels = table[x[..., -1].long()[..., :, None], y[..., -1].long()[..., None, :]]
        return torch.cdist(x[..., :-1], y[..., :-1]).square() / 2 + labels / 2

    starts = ((source, 0), (target, source.num_classes))
    joined = [torch.cat([f.x, (f.labels + start)[:, None].double()], 1) for f, start in starts]
    settings = {"p": 2, "blur": reg**0.5, "scaling": 0.95, "debias": True, "diameter": 20.0}
    return SamplesLoss("sinkhorn", cost=cost, backend="tensorized", **settings)(*joined).item()


@pytest.mark.parametrize(("k", "m", "newton_points"), [(3, 1, 512), (2, 4, 0)])
def test_value_agrees_with_geomloss(k, m, newton_points):
    source, target = labelled(42, 3, k, "source", spread=2), labelled(24, 3, m, "target")
    ours = value(OTDDByClass(reg=0.5, newton_points=newton_points, **EXACT), source, target)
    assert ours == pytest.approx(geomloss_otdd(source, target, 0.5), rel=5e-4)


def test_one_class_each_is_transport_plus_label_distance():
    # c = |x - z|^2 / 2 + W / 2 with W constant: the value is W/2 + W/2 at small reg. Sorted points are matched on a line.
    x, z = cloud(25, 1, "x"), cloud(25, 1, "z", scale=2.0) + 1
    expected = (x.sort(0)[0] - z.sort(0)[0]).square().mean().item()
    assert value(OTDDByClass(reg=0.005), x, z) == pytest.approx(expected, rel=0.02)


def test_defaults_are_near_the_converged_problem_in_float32():
    source, target = labelled(60, 16, 4, "source", scale=2), labelled(24, 16, 2, "target", scale=2)
    single, exact = [changed(part, torch.Tensor.float) for part in (source, target)], OTDDByClass(**EXACT)
    assert value(OTDDByClass(), *single) == pytest.approx(value(exact, source, target), rel=1e-3)
    assert cosine(gradient(OTDDByClass(), *single), gradient(exact, source, target)) > 0.995


def test_the_prepared_part_is_all_that_depends_on_the_source_alone():
    source, metric = labelled(40, 3, 3, "source"), OTDDByClass()
    prepared = metric.prepare(source)
    assert {t.dtype for t in prepared.values()} == {torch.float64}
    diagnostics = metric.distance(source, prepared, labelled(10, 3, 2, "target")).diagnostics
    assert set(diagnostics) == {"iterations", "marginal_error", "converged"}
    assert diagnostics["marginal_error"] <= metric.tolerance
    assert diagnostics["converged"] == 1


@pytest.mark.parametrize(("scale", "m"), [(1e-4, 2), (1e4, 1), (1e4, 2)])
def test_any_scale_stays_finite_and_right(scale, m):
    # Two groups of points far apart: the nearest points are matched at every scale.
    source = labelled(24, 3, 2, "source", scale=0.1 * scale, spread=scale)
    target = labelled(8, 3, m, "target", scale=0.1 * scale, spread=scale)
    single = [changed(part, torch.Tensor.float) for part in (source, target)]
    result = value(OTDDByClass(), *single)
    assert gradient(OTDDByClass(), *single).isfinite().all()
    unit = [changed(part, lambda x: x / scale) for part in (source, target)]
    expected = 0.0 if scale < 1 else value(OTDDByClass(reg=1e-4), *unit) * scale**2
    assert result == pytest.approx(expected, rel=0.02, abs=1e-6)


def test_costs_much_larger_than_the_distance_lose_no_digits_and_an_overflow_is_not_silent():
    # Two groups 2,000 apart whose points move by 0.5: float32 cannot hold such costs to within reg.
    labels = torch.arange(20) % 2
    x = (cloud(20, 3, "source") + 2000 * labels[:, None]).float()
    for m in (1, 2):
        single = Features(x, labels, 2), Features(x[:10] + 0.5, labels[:10] % m, m)
        double = [changed(part, torch.Tensor.double) for part in single]
        assert value(OTDDByClass(), *single) == pytest.approx(value(OTDDByClass(), *double), rel=1e-5)
    huge = Features(cloud(6, 2, "huge").float() * 1e25, torch.tensor([0, 1] * 3), 2)
    with pytest.raises(NonFiniteError):
        distance(OTDDByClass(), huge, unlabelled(cloud(3, 2, "target").float()))
