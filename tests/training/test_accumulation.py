"""The gradient of a step does not depend on how its samples are cut into batches, whatever is known of their targets."""

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.losses import (
    MaskedBCE,
    MaskedCrossEntropy,
    MaskedHuber,
    MaskedMAE,
    MaskedMSE,
    NatsPerFrameLoss,
    RelativeL2Loss,
)
from orca_cli.training.loop import train_step
from tests.training.toy import Dense, Pairs, engine, gradient, optimizer

KNOWN = [18, 1, 0, 5, 18, 2, 9, 1]  # entries, of 18, of each sample


def unknown():
    """Return [8, 3, 6] bool: which entries of eight samples are unknown, unevenly."""
    mask = np.ones((8, 18), bool)
    for row, count in enumerate(KNOWN):
        mask[row, np.random.default_rng(row).permutation(18)[:count]] = False
    return torch.from_numpy(mask.reshape(8, 3, 6))


def numbers(binary=False):
    y = torch.randn(8, 3, 6, generator=torch.Generator().manual_seed(2))
    return torch.where(unknown(), torch.nan, (y > 0).float() if binary else y)


def classes():
    y = torch.randint(0, 3, (8, 6), generator=torch.Generator().manual_seed(2))
    return torch.where(unknown()[:, 0], IGNORED_CLASS, y)


def one_class():
    return torch.tensor([0, IGNORED_CLASS, IGNORED_CLASS, IGNORED_CLASS, 1, 2, 2, IGNORED_CLASS])


WEIGHTS = torch.tensor([1.0, 10.0, 0.1])
CASES = {
    "bce": (MaskedBCE(), numbers(binary=True), False),
    "bce over all": (MaskedBCE(count_missing=True), numbers(binary=True), False),
    "bce, a weight a label": (MaskedBCE(positive_weight=[4.0, 0.1, 20.0]), numbers(binary=True), False),
    "mse": (MaskedMSE(), numbers(), False),
    "cross-entropy": (MaskedCrossEntropy(), classes(), False),
    "cross-entropy, weighted": (MaskedCrossEntropy([1.0, 10.0, 0.1]), classes(), False),
    "cross-entropy, weighted, a batch without a class": (MaskedCrossEntropy([1.0, 10.0, 0.1]), one_class(), True),
    "absolute": (MaskedMAE(), numbers(), False),
    "huber": (MaskedHuber(0.5), numbers(), False),
    "relative": (RelativeL2Loss(), numbers(), False),
    "nats": (NatsPerFrameLoss(), numbers(binary=True), False),
    "nats over padding": (NatsPerFrameLoss(count_padding=True), numbers(binary=True), False),
    "torch, ignored": (nn.CrossEntropyLoss(), classes(), False),
    "torch, a batch without a class": (nn.CrossEntropyLoss(), one_class(), True),
    "torch, smooth": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2), classes(), False),
    "torch, squares": (nn.MSELoss(), numbers().nan_to_num(), False),
}


def step(loss, y, flat, size, chosen=range(8), reduce="mean"):
    model = Dense(3, flat)
    settings = {"batch_size": size, "clip": None, "seed": 0, "step": 0, "reduce": reduce}
    value, _ = train_step(engine(), model, optimizer(model), loss, Pairs(y), np.asarray(chosen), **settings)
    return value, gradient(model)


@pytest.mark.parametrize("size", [3, 1])
@pytest.mark.parametrize("name", CASES)
def test_accumulation_does_not_change_the_gradient_of_uneven_targets(name, size):
    loss, y, flat = CASES[name]
    value, whole = step(loss, y, flat, 8)
    same, parts = step(loss, y, flat, size)
    assert same == pytest.approx(value, rel=1e-5)
    assert (parts - whole).norm() < 1e-5 * whole.norm()


UNKNOWN = [(MaskedMSE(), torch.full((8, 3, 6), torch.nan)), (nn.CrossEntropyLoss(), torch.full((8,), IGNORED_CLASS))]


@pytest.mark.parametrize(("loss", "y"), UNKNOWN, ids=["numbers", "classes"])
def test_a_step_without_known_targets_trains_nothing(loss, y):
    value, gradients = step(loss, y, y.dim() == 1, 2)
    assert value == 0
    assert not gradients.any()


def test_the_released_code_adds_the_means_of_the_batches():
    loss, y, flat = CASES["mse"]
    _, together = step(loss, y, flat, 4, reduce="sum")
    halves = [step(loss, y, flat, 4, chosen)[1] for chosen in (range(4), range(4, 8))]
    torch.testing.assert_close(together, halves[0] + halves[1], rtol=1e-5, atol=1e-7)
