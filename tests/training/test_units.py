"""What is learned does not depend on the units of the targets."""

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli.interfaces import Scale
from orca_cli.scoring.losses import MaskedMSE, RelativeL2Loss
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.loop import train_step
from tests.training.toy import Dense, Pairs, engine, gradient, optimizer, plan, scale_of

STEPS = 60


def targets(n=64):
    """Return [n, 2, 6], linear in the inputs of `Pairs`; one channel has three times the deviation of the other."""
    x = Pairs(np.zeros(n)).x.double()
    return torch.stack([x[:, 0] + 0.5 * x[:, 1], 3 * x[:, 2] - x[:, 0]], dim=1) + 2.0


def trained(units, loss, **settings):
    """Return (mean squared error / that of the mean) after some steps, the last loss, and the model."""
    y = (targets() * units).float()
    model = Dense(2, scale=scale_of(y))
    steps = plan(model, Pairs(y), loss, batch_size=16, epochs=STEPS // 4, warmup_epochs=0, **settings)
    for step in range(STEPS):
        reported, _ = steps.take(step)
    with torch.no_grad():
        squares = (model(Pairs(y).x).double() - y).square().mean()
    return float(squares / (y.double() - y.double().mean((0, 2), keepdim=True)).square().mean()), reported, model


RATES = {"adamw": {"optimizer": "adamw", "lr": 1e-2}, "sgd": {"optimizer": "sgd", "lr": 3e-2, "clip": 1.0}}
LOSSES = {"squares": MaskedMSE(), "absolute": nn.L1Loss(), "relative": RelativeL2Loss()}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rate", RATES)
def test_targets_in_any_unit_are_learned_alike(name, rate):
    error, _, _ = trained(1.0, LOSSES[name], **RATES[rate])
    assert error < 0.5  # the premise: it learns
    for units in (1e-12, 1e15):
        assert trained(units, LOSSES[name], **RATES[rate])[0] == pytest.approx(error, rel=1e-2), units


def test_units_that_are_powers_of_two_change_no_bit():
    hashes = {weights_sha256(trained(units, MaskedMSE())[2].layers.state_dict()) for units in (1.0, 2.0**-20, 2.0**20)}
    assert len(hashes) == 1


def test_the_loss_is_reported_in_the_tasks_units():
    _, one, _ = trained(1.0, MaskedMSE())
    for units in (1e-6, 1e25):  # squares of the last exceed float32
        assert trained(units, MaskedMSE())[1] == pytest.approx(one * units**2, rel=1e-2)


def test_several_numbers_a_sample_are_learned_alike_whatever_the_unit_of_each():
    x = Pairs(np.zeros(64)).x.double().mean(2)
    y = torch.stack([x[:, 0] + 0.5 * x[:, 1], x[:, 2] - x[:, 0]], dim=1) + 2.0

    def trained(units):
        scaled = (y * torch.tensor(units)).float()
        model = Dense(2, flat=True, scale=Scale(scaled.mean(0), scaled.std(0, correction=0)))
        steps = plan(model, Pairs(scaled), MaskedMSE(), batch_size=16, epochs=STEPS // 4, warmup_epochs=0, lr=1e-2)
        losses = [steps.take(step)[0] for step in range(STEPS)]
        with torch.no_grad():
            squares = (model(Pairs(scaled).x) - scaled).double().square().mean(0)
        return squares / scaled.double().var(0, correction=0), losses

    alike, losses = trained([1.0, 1.0])
    assert (alike < 0.5).all()  # the premise: it learns
    for units in ([1e-4, 1e4], [1e6, 1.0]):
        one, scaled_losses = trained(units)
        torch.testing.assert_close(one, alike, rtol=2e-2, atol=1e-4)
        assert scaled_losses == pytest.approx(
            losses, rel=2e-2
        )  # reported in deviations: the outputs have no unit in common


def one_step(unit, y):
    model = Dense(2, scale=scale_of(y))
    samples = Pairs(y.float())
    settings = {"batch_size": 16, "clip": None, "seed": 0, "step": 0, "unit": unit}
    reported, norm = train_step(engine(), model, optimizer(model), MaskedMSE(), samples, np.arange(len(y)), **settings)
    return reported, norm, gradient(model)


def test_one_unit_for_all_outputs_keeps_the_direction_of_the_gradient():
    reported, _, plain = one_step(1.0, targets() * 1e-3)
    same, _, scaled = one_step(0.01, targets() * 1e-3)
    assert same == pytest.approx(reported, rel=1e-5)
    torch.testing.assert_close(scaled, plain * 1e4, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("protocol", "factor"), [("clean", 1), ("paper", 4)])
def test_gradients_of_batches_are_added_by_the_papers_protocols_and_averaged_by_clean(protocol, factor):
    """Four batches a step: their sum is four times their mean."""
    y = targets().float()
    model = Dense(2, scale=scale_of(y))
    steps = plan(model, Pairs(y), MaskedMSE(), protocol=protocol, batch_size=16, accumulation=4, clip=0)
    steps.take(0)
    _, _, mean = one_step(model.deviation if protocol == "clean" else 1.0, y)
    torch.testing.assert_close(gradient(model), factor * mean, rtol=1e-4, atol=1e-6)


def test_the_papers_protocol_keeps_the_tasks_units():
    y = (targets() * 1e-6).float()
    model = Dense(2, scale=scale_of(y))
    steps = plan(model, Pairs(y), MaskedMSE(), protocol="paper", batch_size=16, warmup_epochs=0)
    steps.take(0)
    assert gradient(model).norm() < 1e-8
    steps = plan(model, Pairs(y), MaskedMSE(), batch_size=16, warmup_epochs=0)
    steps.take(0)
    assert gradient(model).norm() > 1e-2
