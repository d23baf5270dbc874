"""Which samples a step sees, at what rate, and what finding that out costs."""

import numpy as np
from torch import nn

from orca_cli import seeding
from tests.training.toy import Dense, Pairs, plan


def test_the_order_of_an_epoch_is_drawn_once_and_is_that_of_its_name(monkeypatch):
    drawn, original = [], seeding.numpy_generator

    def count(seed, *names):
        drawn.extend(names[2:] if names[:2] == ("finetune", "order") else ())
        return original(seed, *names)

    monkeypatch.setattr(seeding, "numpy_generator", count)
    steps = plan(
        Dense(1), Pairs(np.zeros((50, 1, 6), np.float32)), nn.MSELoss(), batch_size=3, accumulation=2, epochs=3
    )
    for step in range(3 * steps.per_epoch):
        steps.take(step)
    assert drawn == [0, 1, 2]
    assert len(steps._samples.read) == 3 * 17
    for epoch in range(3):
        read = sum(steps._samples.read[epoch * 17 : (epoch + 1) * 17], [])
        assert read == list(original(0, "finetune", "order", epoch).permutation(50))


def test_a_plan_can_start_inside_an_epoch_and_go_back():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    first, second = (plan(Dense(1), samples, nn.MSELoss(), batch_size=4, epochs=2) for _ in range(2))
    straight = [list(first.chosen(step)) for step in range(6)]
    assert [list(second.chosen(step)) for step in (4, 2, 5, 0)] == [straight[step] for step in (4, 2, 5, 0)]
