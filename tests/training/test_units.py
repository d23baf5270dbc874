"""What is learned does not depend on the units of the targets."""

import pytest
import torch

from orca_cli.interfaces import Scale
from orca_cli.scoring.losses import MaskedMSE, RelativeL2Loss
from orca_cli.training.checkpoint import weights_sha256
from tests.training.toy import Dense, Pairs, gradient, plan

STEPS = 60
X = Pairs(torch.zeros(64)).x.double()
# [64, 2, 6], linear in the inputs of `Pairs`; one channel has three times the deviation of the other.
TARGETS = torch.stack([X[:, 0] + 0.5 * X[:, 1], 3 * X[:, 2] - X[:, 0]], dim=1) + 2.0


def scaled(y):
    mean, std = (
        y.double().mean((0, 2), keepdim=True)[0],
        y.double().std((0, 2), correction=0, keepdim=True)[0],
    )
    return Dense(2, scale=Scale(mean.float().numpy(), std.float().numpy()))


def trained(units, loss=None, **settings):
    """Return mean squared errors / those of the mean, [K], after some steps, the losses, and the model."""
    y = (TARGETS * units).float()
    model = scaled(y)
    settings = {"batch_size": 16, "epochs": STEPS // 4, "warmup_epochs": 0, "lr": 1e-2} | settings
    with plan(model, Pairs(y), loss or MaskedMSE(), **settings) as steps:
        losses = [steps.take(step)[0] for step in range(STEPS)]
    with torch.no_grad():
        squares = (model(Pairs(y).x).double() - y).square().mean((0, 2))
    return squares / y.double().var((0, 2), correction=0), losses, model


SGD = {"optimizer": "sgd", "lr": 3e-2, "clip": 1.0}


@pytest.mark.parametrize(("loss", "settings"), [(MaskedMSE(), {}), (RelativeL2Loss(), SGD)])
def test_targets_in_any_unit_are_learned_alike(loss, settings):
    """In units that are powers of two to the last bit, and with the loss in the task's units."""
    error, losses, model = trained(1.0, loss, **settings)
    assert error.mean() < 0.5  # the premise: it learns
    torch.testing.assert_close(trained(1e-12, loss, **settings)[0], error, rtol=1e-2, atol=1e-5)
    if isinstance(loss, MaskedMSE):
        _, reported, other = trained(2.0**80)  # squares exceed float32
        assert weights_sha256(other.layers.state_dict()) == weights_sha256(
            model.layers.state_dict()
        )
        assert reported[-1] / 4.0**80 == pytest.approx(losses[-1], rel=1e-5)


def first_gradient(units=1.0, **settings):
    y = (TARGETS * units).float()
    model = scaled(y)
    with plan(
        model, Pairs(y), MaskedMSE(), **({"batch_size": 64, "warmup_epochs": 0} | settings)
    ) as steps:
        steps.take(0)
    return gradient(model)


def test_the_papers_protocol_adds_gradients_in_task_units():
    """Four batches a step: their sum is four times their mean. A unit for all outputs keeps the gradient's direction."""
    clean, paper = (first_gradient(protocol=protocol) for protocol in ("clean", "paper"))
    four = {"batch_size": 16, "accumulation": 4}
    torch.testing.assert_close(first_gradient(**four), clean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        first_gradient(protocol="paper", **four), 4 * paper, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(clean / clean.norm(), paper / paper.norm(), rtol=1e-3, atol=1e-6)
    assert first_gradient(1e-6, protocol="paper").norm() < 1e-8
