"""A step does not depend on how its samples are cut into batches and pieces, whatever is known of their targets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli.exceptions import MemoryExhaustedError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring import losses
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy, MaskedMSE
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.loop import pieces_of, train_step
from tests.training.toy import Dense, Pairs, engine, gradient, optimizer, plan

KNOWN = [18, 1, 0, 5, 18, 2, 9, 1]  # entries, out of 18, of each sample


def unknown():
    """Return [8, 3, 6] bool: which entries of eight samples are unknown, unevenly."""
    mask = np.ones((8, 18), bool)
    for row, count in enumerate(KNOWN):
        mask[row, np.random.default_rng(row).permutation(18)[:count]] = False
    return torch.from_numpy(mask.reshape(8, 3, 6))


DRAW = torch.Generator().manual_seed(2)
NUMBERS = torch.where(unknown(), torch.nan, torch.randn(8, 3, 6, generator=DRAW))
BINARY = torch.where(NUMBERS.isnan(), torch.nan, (NUMBERS > 0).float())
CLASSES = torch.where(unknown()[:, 0], IGNORED_CLASS, torch.randint(0, 3, (8, 6), generator=DRAW))
SCARCE = torch.tensor([0, -100, -100, -100, 1, 2, 2, -100])  # a batch without a class
WEIGHTS = [1.0, 10.0, 0.1]
CASES = {
    "bce, a weight a label": (MaskedBCE(positive_weight=[4.0, 0.1, 20.0]), BINARY),
    "mse": (MaskedMSE(), NUMBERS),
    "cross-entropy, weighted, a batch without a class": (MaskedCrossEntropy(WEIGHTS), SCARCE),
    "huber": (losses.MaskedHuber(0.5), NUMBERS),
    "relative": (losses.RelativeL2Loss(), NUMBERS),
    "nats over padding": (losses.NatsPerFrameLoss(count_padding=True), BINARY),
    "torch, smooth": (
        nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), label_smoothing=0.2),
        CLASSES,
    ),
}


def step(loss, y, size=8):
    """Return loss and gradient of one step; classes at positions and numbers have outputs at positions."""
    model = Dense(3, flat=y.dim() == 1 or y.shape == (8, 3))
    settings = {"batch_size": size, "clip": None, "seed": 0, "step": 0}
    value, _ = train_step(
        engine(),
        model,
        optimizer(model),
        loss,
        samples=Pairs(y),
        indices=np.arange(8),
        **settings,
    )
    return value, gradient(model)


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert (one[1] - other[1]).norm() < 1e-5 * other[1].norm()


@pytest.mark.parametrize(("loss", "y"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("size", [3, 1])
def test_accumulation_keeps_the_gradient_of_uneven_targets(loss, y, size):
    same(step(loss, y, size), step(loss, y))


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (MaskedMSE(), torch.full((8, 3, 6), torch.nan)),
        (nn.CrossEntropyLoss(), torch.full((8,), IGNORED_CLASS)),
    ],
    ids=["values", "classes"],
)
def test_a_step_without_known_targets_trains_nothing(loss, y):
    value, gradients = step(loss, y, 2)
    assert value == 0
    assert not gradients.any()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 4))
def test_every_sample_is_in_one_piece_of_one_process(sizes, processes):
    by_process = [pieces_of(sizes, max(sizes), rank, processes) for rank in range(processes)]
    for number, size in enumerate(sizes):
        rows = [
            row
            for place, piece in enumerate(by_process[0])
            if piece.batch == number
            for row in range(piece.start, piece.stop)
            if sum(pieces[place].is_own for pieces in by_process) == 1
        ]
        assert rows == list(range(size))
    assert len({piece.part for piece in by_process[0]}) == len(by_process[0])


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), MemoryError()]
)
def test_a_batch_that_does_not_fit_leaves_the_weights(error, monkeypatch):
    model, samples = Dense(3, flat=True), Pairs(torch.arange(16) % 3)
    before = weights_sha256(model.state_dict())
    monkeypatch.setattr(model, "forward", lambda x, valid=None: (_ for _ in ()).throw(error))
    with plan(model, samples, nn.CrossEntropyLoss()) as steps, pytest.raises(MemoryExhaustedError):
        steps.take(0)
    assert weights_sha256(model.state_dict()) == before
