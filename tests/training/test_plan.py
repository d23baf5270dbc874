"""Which samples a step sees, at what rate, and the cost of computing the plan."""

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli import seeding
from orca_cli.config.schema import Config, Train
from orca_cli.stages.plan import Plan
from tests.training.toy import SETTLED, Dense, Pairs, plan


def test_the_order_of_an_epoch_is_drawn_once_and_is_that_of_its_name(monkeypatch):
    drawn, original = [], seeding.numpy_generator

    def count(seed, *names):
        drawn.extend(names[2:] if names[:2] == ("finetune", "order") else ())
        return original(seed, *names)

    monkeypatch.setattr(seeding, "numpy_generator", count)
    steps = plan(
        Dense(1), Pairs(np.zeros((50, 1, 6), np.float32)), nn.MSELoss(), batch_size=3, accumulation=2, epochs=3
    )
    with steps:
        for step in range(3 * steps.per_epoch):
            steps.take(step)
    assert drawn == [0, 1, 2]
    assert len(steps._samples.read) == 3 * 17
    for epoch in range(3):
        read = sum(steps._samples.read[epoch * 17 : (epoch + 1) * 17], [])
        assert read == list(original(0, "finetune", "order", epoch).permutation(50))


def test_a_plan_can_start_inside_an_epoch_go_back_and_go_on():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    first, second = (plan(Dense(1), samples, nn.MSELoss(), batch_size=4, epochs=2) for _ in range(2))
    with first:
        for step in range(6):
            first.take(step)
    straight = samples.read.copy()
    for step in (4, 2, 5, 0):
        with second:
            samples.read.clear()
            second.take(step)
        assert samples.read[0] == straight[step]
    for step in (4, 5, 6, 7):  # an epoch more than was planned
        second.take(step)
    second.close()


def rates(**settings):
    """Return the rates of 4 steps an epoch, as parts of the peak."""
    steps = plan(Dense(1), Pairs(np.zeros((8, 1, 6), np.float32)), nn.MSELoss(), batch_size=2, lr=1.0, **settings)
    return [steps.rate(step) for step in range(settings["epochs"] * steps.per_epoch)]


def test_a_warmup_longer_than_training_takes_half_of_it():
    factors = rates(epochs=3, warmup_epochs=5)
    assert factors == rates(epochs=3, warmup_epochs=1.5)
    assert factors[6] == max(factors) == 1
    assert factors[-1] < 0.2
    assert rates(epochs=6, warmup_epochs=9, decay_epochs=4) == rates(epochs=6, warmup_epochs=2, decay_epochs=4)


def test_a_warmup_that_fits_is_as_set_and_so_is_one_without_a_limit():
    assert max(rates(epochs=10, warmup_epochs=5)[:20]) < 1
    assert rates(epochs=10, warmup_epochs=5) == rates(epochs=10, warmup_epochs=5, warmup_limit=None)
    assert max(rates(epochs=3, warmup_epochs=5, warmup_limit=None)) < 0.6


@pytest.mark.parametrize(
    ("configured", "n", "taken"),
    [
        ((32, 1), 28, (28, 1)),
        ((16, 5), 60, (12, 5)),
        ((1, 100), 7, (1, 7)),
    ],
)
def test_a_step_asks_for_no_more_samples_than_there_are(configured, n, taken):
    settings = Train(**SETTLED | {"batch_size": configured[0], "accumulation": configured[1]})
    train = Plan.from_settings(Config(train=settings), {}).train
    fitted = train.fitted(n)
    assert (fitted.batch_size, fitted.accumulation) == taken
    assert bool(train.smaller_batch(n)) == (configured != taken)
    samples, sizes = (
        Pairs(np.zeros((n, 1, 6), np.float32)),
        {"batch_size": configured[0], "accumulation": configured[1]},
    )
    with plan(Dense(1), samples, nn.MSELoss(), **sizes) as steps:
        assert steps.per_epoch == -(-n // (taken[0] * taken[1]))
        assert len(steps.take(0)[1]) == min(n, taken[0] * taken[1])


@pytest.mark.parametrize("is_body_layer", [False, True])
def test_all_but_the_body_and_its_own_layer_learn_at_the_outer_rate(is_body_layer):
    """After a step of SGD without momentum every parameter has moved by its rate times its gradient."""
    model = Dense(2, flat=True)
    model.body, model.embedder = model.layers.pop(0), nn.Conv1d(3, 3, 1)
    model.embedder.is_body_layer = is_body_layer
    model.forward = lambda x, valid=None: model.layers(model.body(model.embedder(x))).mean(dim=2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.01, "warmup_epochs": 0, "outer_rate": 10.0}
    with plan(model, Pairs(torch.zeros(8, 2)), nn.MSELoss(), **settings) as taken:
        taken.take(0)
        rate = taken.rate(0)
    for name, value in model.named_parameters():
        expected_rate = rate if name.startswith(("body.", "embedder.") if is_body_layer else "body.") else 10 * rate
        torch.testing.assert_close(before[name] - value.detach(), expected_rate * value.grad, rtol=1e-3, atol=1e-7)
