"""The released code's dataset distance: against geomloss on the whole problem; cached self terms; edge cases."""

import itertools
from dataclasses import replace

import pytest
import torch
from geomloss import SamplesLoss

from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_reference import OTDDReference
from orca_cli.metrics.transport import annealed
from orca_cli.metrics.transport.annealed import Annealing
from orca_cli.metrics.transport.clouds import half_squared_distances
from orca_cli.seeding import torch_generator
from tests.metrics.generators import changed, cloud, cosine, distance, labelled

REG = 0.1


def squares(x, y):
    return (x[:, :, None] - y[:, None]).square().sum(-1)


def released(source, target, reg=REG):
    """The whole problem by geomloss at its own annealing: labels are one more coordinate and W is a table of numbers."""
    divergence = SamplesLoss("sinkhorn", p=2, blur=reg**0.5, cost=squares, backend="tensorized")
    k, l = source.num_classes, target.num_classes  # noqa: E741
    clouds = [f.x.detach()[f.labels == c] for f in (source, target) for c in range(f.num_classes)]
    table = torch.zeros(k + l, k + l, dtype=source.x.dtype)
    for a, b in itertools.combinations(range(k + l), 2):
        table[a, b] = table[b, a] = divergence(clouds[a], clouds[b]).item()

    def cost(x, y):
        rows, columns = x[..., -1].long(), y[..., -1].long()
        return squares(x[..., :-1], y[..., :-1]) / 2 + table[rows[:, :, None], columns[:, None]] / 2

    joined = [torch.cat([f.x, (f.labels + start)[:, None].to(f.x)], 1) for f, start in ((source, 0), (target, k))]
    return SamplesLoss("sinkhorn", p=2, blur=reg**0.5, cost=cost, backend="tensorized")(*joined)


def ours(source, target, reg=REG):
    return distance(OTDDReference(reg), source, target).value


def slope(function, source, target):
    z = target.x.detach().clone().requires_grad_()
    value = function(source, replace(target, x=z))
    value.backward()
    return value.item(), z.grad.flatten().double()


@pytest.mark.parametrize(
    ("k", "classes", "n", "m", "d", "scale", "dtype"),
    [
        (4, 1, 90, 25, 6, 1.0, torch.float64),
        (3, 1, 61, 20, 24, 0.3, torch.float32),
        (3, 4, 40, 21, 5, 3.0, torch.float64),
        (1, 1, 20, 20, 3, 0.1, torch.float32),  # features of about the size of the blur
    ],
)
def test_value_and_gradient_are_those_of_geomloss(k, classes, n, m, d, scale, dtype):
    close = dtype == torch.float64
    source = changed(labelled(n, d, k, "source", scale=scale, spread=scale), lambda x: x.to(dtype))
    target = changed(labelled(m, d, classes, "target", scale=0.7 * scale, spread=scale), lambda x: x.to(dtype))
    value, gradient = slope(ours, source, target)
    expected, expected_gradient = slope(released, source, target)
    assert value == pytest.approx(expected, rel=1e-5 if close else 1e-4)
    assert cosine(gradient, expected_gradient) > 1 - (1e-9 if close else 1e-5)
    assert gradient.norm().item() == pytest.approx(expected_gradient.norm().item(), rel=1e-3)


def test_shuffled_source_labels_move_the_value_and_not_the_gradient():
    source, target = labelled(80, 5, 4, "source", spread=3), labelled(20, 5, 1, "target")
    order = torch.randperm(80, generator=torch_generator(0, "order"))
    shuffled = Features(source.x, source.labels[order], 4)
    (value, gradient), (other, other_gradient) = slope(ours, source, target), slope(ours, shuffled, target)
    assert abs(value - other) > 0.01 * value
    # What is left comes from the first level of annealing, where geomloss starts both potentials from 0.
    assert (gradient - other_gradient).norm() < 1e-3 * gradient.norm()


@pytest.mark.parametrize(("d", "scale"), [(2, 0.3), (4, 1.0), (16, 0.3)])
def test_self_terms_are_read_from_the_table_at_any_diameter(d, scale):
    x, annealing = cloud(150, d, "x", scale=scale), Annealing(reg=0.1)
    cost = half_squared_distances(x, x)
    diameter = (x.amax(0) - x.amin(0)).square().sum().item()
    table = annealed.tabulate(lambda start, stop: cost[start:stop], 150, diameter, annealing, x).tolist()
    ratios = [1, 1.3, 2, 3.9, 5, 11, 40, 400]
    direct, _ = annealed.selves(
        lambda start, stop: cost[start:stop], 150, annealing.levels([diameter * r for r in ratios], x)
    )
    for ratio, value in zip(ratios, direct.tolist(), strict=True):
        # Fewer levels than others in the batch change nothing.
        alone, _ = annealed.selves(lambda start, stop: cost[start:stop], 150, annealing.levels([diameter * ratio], x))
        assert alone.item() == pytest.approx(value, rel=1e-12)
    read = [annealed.read(table, diameter * r, annealing) for r in ratios]
    assert read == pytest.approx(direct.tolist(), rel=1e-5)
    assert max(read) > 1.001 * min(read)  # else there is nothing to tabulate


def test_self_terms_in_pieces_are_those_in_one_piece(monkeypatch):
    source, target = labelled(60, 3, 3, "source"), labelled(15, 3, 2, "target")
    whole = ours(source, target)
    monkeypatch.setattr(annealed, "_CHUNK_ELEMENTS", 130)
    monkeypatch.setattr(annealed, "_HELD_ELEMENTS", 100)
    assert ours(source, target).item() == pytest.approx(whole.item(), rel=1e-12)


def test_single_points_are_pulled_to_the_mean_of_the_source():
    source, target = labelled(30, 3, 3, "source"), labelled(12, 3, 2, "target")
    point = Features(target.x[:1], torch.zeros(1, dtype=torch.long), 1)
    value, gradient = slope(ours, source, point)
    assert value == pytest.approx(slope(released, source, point)[0], rel=1e-5)
    # One point is pulled to the mean of the source, whatever the solver did.
    assert gradient.numpy() == pytest.approx((point.x[0] - source.x.mean(0)).numpy(), abs=1e-9)
