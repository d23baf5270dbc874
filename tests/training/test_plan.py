"""Which samples a step sees, and at what rate."""

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli import seeding
from orca_cli.models.predictors import PooledPredictor
from tests.training.toy import Dense, Pairs, plan


def zeros(n):
    return Pairs(np.zeros((n, 1, 6), np.float32))


def test_the_order_of_an_epoch_is_drawn_once_by_its_name(monkeypatch):
    drawn, original = [], seeding.numpy_generator

    def count(seed, *names):
        drawn.extend(names[2:] if names[:2] == ("finetune", "order") else ())
        return original(seed, *names)

    monkeypatch.setattr(seeding, "numpy_generator", count)
    samples = zeros(50)
    with plan(Dense(1), samples, nn.MSELoss(), batch_size=3, accumulation=2, epochs=3) as steps:
        for step in range(3 * steps.per_epoch):
            steps.take(step)
    assert drawn == [0, 1, 2]
    assert len(samples.read) == 3 * 17
    for epoch in range(3):
        read = sum(samples.read[epoch * 17 : (epoch + 1) * 17], [])
        assert read == list(original(0, "finetune", "order", epoch).permutation(50))


def rates(**settings):
    with plan(Dense(1), zeros(8), nn.MSELoss(), batch_size=2, lr=1.0, **settings) as steps:
        return [steps.rate(step) for step in range(settings["epochs"] * steps.per_epoch)]


def test_a_long_warmup_takes_half_of_training_unless_unlimited():
    factors = rates(epochs=3, warmup_epochs=5)
    assert factors == rates(epochs=3, warmup_epochs=1.5)
    assert factors[6] == max(factors) == 1
    assert factors[-1] < 0.2
    assert rates(epochs=6, warmup_epochs=9, decay_epochs=4) == rates(
        epochs=6, warmup_epochs=2, decay_epochs=4
    )
    assert max(rates(epochs=3, warmup_epochs=5, warmup_limit=None)) < 0.6


@pytest.mark.parametrize(
    ("n", "batch_size", "accumulation", "first_batch", "in_step"),
    [(60, 16, 5, 12, 60), (7, 1, 100, 1, 7)],
)
def test_a_step_asks_for_no_more_samples_than_there_are(
    n, batch_size, accumulation, first_batch, in_step
):
    samples = zeros(n)
    with plan(
        Dense(1), samples, nn.MSELoss(), batch_size=batch_size, accumulation=accumulation
    ) as steps:
        assert steps.per_epoch == 1
        assert len(steps.take(0)[1]) == in_step
    assert len(samples.read[0]) == first_batch


@pytest.mark.parametrize("is_body_layer", [False, True])
def test_all_but_the_body_and_its_layer_learn_at_outer_rate(is_body_layer):
    """After a step of SGD without momentum every parameter has moved by its rate times its gradient.

    A predictor behind the body's own layer starts as a ridge, and so learns at the rate of the body.
    """
    model = Dense(2, flat=True)
    model.body, model.embedder = model.layers.pop(0), nn.Conv1d(3, 3, 1)
    model.embedder.is_body_layer = is_body_layer
    model.embedder.sample_width = 0
    model.predictor = PooledPredictor(2, 2, "mean")
    model.forward = lambda x, valid=None: model.predictor.linear(
        model.layers(model.body(model.embedder(x))).mean(dim=2)
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = {
        "optimizer": "sgd", "momentum": 0.0, "lr": 0.01, "warmup_epochs": 0, "outer_rate": 10.0,
    }  # fmt: skip
    with plan(model, Pairs(torch.zeros(8, 2)), nn.MSELoss(), **settings) as steps:
        steps.take(0)
        rate = steps.rate(0)
    known = ("body.", "embedder.", "predictor.") if is_body_layer else ("body.",)
    for name, value in model.named_parameters():
        expected = (rate if name.startswith(known) else 10 * rate) * value.grad
        torch.testing.assert_close(before[name] - value.detach(), expected, rtol=1e-3, atol=1e-7)
