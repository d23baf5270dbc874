"""Turning a filter down its gradient: what it keeps, how far it goes, and where it leads."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli.exceptions import ConfigError
from orca_cli.stages.rigid import moved, turn


def filter_of(values, gradient):
    weight = nn.Parameter(torch.as_tensor(values, dtype=torch.float32))
    weight.grad = torch.as_tensor(gradient, dtype=torch.float32)
    return weight


@given(seed=st.integers(0, 2**31), rows=st.integers(2, 12), columns=st.integers(1, 12), angle=st.floats(1e-3, 3))
def test_a_turn_keeps_all_inner_products_and_goes_down(seed, rows, columns, angle):
    generator = torch.Generator().manual_seed(seed)
    old, gradient = (torch.randn(rows, columns, 1, generator=generator) for _ in range(2))
    weight = filter_of(old, gradient)
    turn(weight, angle)
    new = weight.detach()
    torch.testing.assert_close(
        new.flatten(1).T @ new.flatten(1), old.flatten(1).T @ old.flatten(1), rtol=1e-4, atol=1e-4
    )
    if angle < 0.01:
        assert (gradient * (new - old)).sum() <= 1e-6


@pytest.mark.parametrize("angle", [0.01, 0.3])
def test_in_the_plane_a_turn_is_by_the_angle(angle):
    weight = filter_of([[1.0], [0.0]], [[0.0], [-5.0]])  # the second axis is down
    turn(weight, angle)
    found = math.atan2(weight[1].item(), weight[0].item())
    assert found == pytest.approx(2 * math.atan(angle / 2), rel=1e-5)
    assert found == pytest.approx(angle, rel=angle**2)


def test_turns_find_the_rotation_between_two_filters():
    """Orthogonal Procrustes: from a rotated copy, the way back to the first one."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(8, 5, generator=generator)
    rotation = torch.linalg.matrix_exp(0.3 * (lambda a: a - a.T)(torch.randn(8, 8, generator=generator)))
    weight = nn.Parameter(rotation @ wanted)
    first = (weight - wanted).norm().item()
    for step in range(200):
        weight.grad = (weight - wanted).detach()
        turn(weight, 0.2 * 0.97**step)
    assert (weight - wanted).norm().item() < 0.01 * first


def test_without_a_gradient_a_filter_stays():
    weight = filter_of([[1.0, 2.0], [3.0, 4.0]], torch.zeros(2, 2))
    turn(weight, 0.3)
    assert weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_layer_without_a_filter_is_only_aligned_freely():
    layer = nn.Linear(2, 3)
    assert moved(layer, "free") == (None, [layer.weight, layer.bias])
    with pytest.raises(ConfigError, match=r"align\.motion=rigid.*Linear.*align\.motion=free"):
        moved(layer, "rigid")
