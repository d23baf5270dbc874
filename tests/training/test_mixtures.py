"""A step on mixed samples: the loss is the mean of both targets' losses by their shares, whatever the loss."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy
from orca_cli.training.loop import train_step
from tests.training.toy import Dense, Pairs, engine, gradient, optimizer

SHARE = 0.7


class Mixed(Pairs):
    """Pairs whose optimizer steps see each sample's target beside that of the one before it."""

    def batch(self, indices, augment=None):
        batch = super().batch(indices)
        return batch if augment is None else dataclasses.replace(batch, partner=batch.y.roll(1, 0), share=SHARE)


CLASSES = torch.tensor([0, 1, 2, 2, 1, 0, 1, 2])
LABELS = torch.nn.functional.one_hot(CLASSES, 3).float()
LABELS[2, 1] = torch.nan
CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
    "cross-entropy, weighted": (MaskedCrossEntropy([1.0, 10.0, 0.1]), CLASSES),
    "labels, some unknown": (MaskedBCE(positive_weight=3.0), LABELS),
}


def step(samples, loss, batch_size=8):
    model = Dense(3, flat=True)
    settings = {"batch_size": batch_size, "clip": None, "seed": 0, "step": 0}
    value, _ = train_step(engine(), model, optimizer(model), loss, samples, np.arange(8), **settings)
    return value, gradient(model)


@pytest.mark.parametrize(("loss", "y"), CASES.values(), ids=CASES)
def test_loss_and_gradient_are_those_of_both_targets_by_their_shares(loss, y):
    value, mixed_gradient = step(Mixed(y), loss)
    own_value, own_gradient = step(Pairs(y), loss)
    other, other_gradient = step(Pairs(y.roll(1, 0)), loss)
    assert value == pytest.approx(SHARE * own_value + (1 - SHARE) * other, rel=1e-5)
    torch.testing.assert_close(mixed_gradient, SHARE * own_gradient + (1 - SHARE) * other_gradient)


@pytest.mark.parametrize(("loss", "y"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("halvings", [1, 3])
def test_cutting_a_batch_changes_nothing(loss, y, halvings):
    """A piece's partners may weigh more than its own targets, or less."""
    value, mixed_gradient = step(Mixed(y), loss)
    model, cut = Dense(3, flat=True), engine()
    for _ in range(halvings):
        cut.cuts = cut.cuts.halved()
    settings = {"batch_size": 8, "clip": None, "seed": 0, "step": 0}
    cut_value, _ = train_step(cut, model, optimizer(model), loss, Mixed(y), np.arange(8), **settings)
    assert cut_value == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient(model), mixed_gradient)
