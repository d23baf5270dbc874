"""Weights averaged over the last steps: the mean of the published definition, and the same bits when resumed."""

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from orca_cli.training.averaging import RunningMean


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)


def steps(model, number, first=1):
    """Take optimizer steps; yields after each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, number + 1):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        yield step


def test_the_mean_is_torchs_over_the_last_steps_alone():
    model = Model()
    torchs = None
    mean = RunningMean(model, model.state_dict(), range(4, 11))
    for step in steps(model, 10):
        mean.add(step)
        assert (not mean.state()) == (step < 4)
        if step >= 4:
            torchs = AveragedModel(model, use_buffers=True) if torchs is None else torchs
            torchs.update_parameters(model)
    state, expected = mean.state(), torchs.module.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    assert int(state["layers.1.num_batches_tracked"]) == 10


def test_a_resumed_mean_has_the_same_bits_and_the_model_its_own_weights_back():
    straight, broken = Model(), Model()
    whole, first = (RunningMean(model, model.state_dict(), range(2, 9)) for model in (straight, broken))
    for step in steps(straight, 8):
        whole.add(step)
    for step in steps(broken, 5):
        first.add(step)
    resumed = Model()
    resumed.load_state_dict(broken.state_dict())
    second = RunningMean(resumed, resumed.state_dict(), range(2, 9))
    second.restore(first.state())
    for step in steps(resumed, 8, first=6):
        second.add(step)
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name
    last_weights = {name: value.clone() for name, value in resumed.state_dict().items()}
    with second.in_place():
        assert all(torch.equal(value, whole.state()[name]) for name, value in resumed.state_dict().items())
    assert all(torch.equal(value, last_weights[name]) for name, value in resumed.state_dict().items())
