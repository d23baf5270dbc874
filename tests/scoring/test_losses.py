"""Losses: unknown targets neither count nor get a gradient; on known targets, losses agree with torch."""

import pytest
import torch
from torch.nn import functional

from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.dense import NatsPerFrame
from orca_cli.scoring.losses import (
    MaskedBCE,
    MaskedCrossEntropy,
    MaskedHuber,
    MaskedMSE,
    NatsPerFrameLoss,
    RelativeL2Loss,
)
from tests.scoring.cases import CASES

NAN = float("nan")
WEIGHTS = [0.5, 2.0, 0.25, 7.0]


def draw(*shape):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    )


def bce(outputs, targets, weights=(1.0,) * 4, **more):
    weight = torch.tensor(weights, dtype=torch.float64).reshape(4, *(1,) * (outputs.ndim - 2))
    return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, **more)


def relative(outputs, targets):
    return ((outputs - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)).mean()


# Loss -> its formula over known targets, and whether these are classes; outputs are [6, 4, 5].
LOSSES = {
    MaskedBCE(): (bce, False),
    MaskedBCE(positive_weight=WEIGHTS): (lambda z, y: bce(z, y, WEIGHTS), False),
    MaskedMSE(): (functional.mse_loss, False),
    MaskedHuber(0.5): (lambda z, y: functional.huber_loss(z, y, delta=0.5), False),
    RelativeL2Loss(): (relative, False),
    NatsPerFrameLoss(): (lambda z, y: bce(z, y, reduction="none").sum(1).mean(), False),
    MaskedCrossEntropy(): (functional.cross_entropy, True),
    MaskedCrossEntropy(WEIGHTS): (
        lambda z, y: functional.cross_entropy(z, y, torch.tensor(WEIGHTS).double()),
        True,
    ),
}


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_are_torchs_over_known_targets_only(loss):
    expected, has_classes = LOSSES[loss]
    outputs = draw(6, 4, 5).requires_grad_()
    targets = (
        torch.arange(30).reshape(6, 5) % 4
        if has_classes
        else (draw(5, 6, 4).permute(1, 2, 0) > 0).double()
    )
    value = expected(outputs[:4, :, 1:], targets[:4, ..., 1:]).item()
    targets[4:] = targets[..., 0] = IGNORED_CLASS if has_classes else NAN
    masked_loss = loss(outputs, targets)
    assert masked_loss.item() == pytest.approx(value)
    if isinstance(loss, MaskedHuber):
        assert loss.weight_of(targets) == 4 * 4 * 4
    masked_loss.backward()
    assert outputs.grad[:4, :, 1:].abs().min() > 0
    assert not outputs.grad[4:].any()
    assert not outputs.grad[..., 0].any()
    outputs.grad = None
    nothing = loss(outputs[4:], targets[4:])
    nothing.backward()
    assert nothing.item() == 0
    assert not outputs.grad.any()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_shapes_that_would_broadcast_are_refused(loss):
    targets = torch.ones(3, 1, 4, 4)
    for wrong in (
        (targets, targets[:, 0]) if LOSSES[loss][1] else (targets,)
    ):  # numbers are not classes
        with pytest.raises(
            DataError, match=r"task\.loss: outputs \(3, 4, 4\) do not fit .*targets \(3,.* 4, 4\)"
        ):
            loss(torch.zeros(3, 4, 4), wrong)


@pytest.mark.parametrize("padding", [False, True])
def test_one_batch_of_nats_per_frame_is_one_split_of_the_error(padding):
    (case,) = [one for one in CASES if one.settings == {"count_padding": padding}]
    outputs, targets = map(torch.from_numpy, case.drawn(0, 0.0, 0.2)[:2])
    outputs = outputs.nan_to_num(nan=0.0)
    value = NatsPerFrame(count_padding=padding)(outputs.numpy(), targets.numpy()).value
    assert NatsPerFrameLoss(count_padding=padding)(outputs, targets).item() == pytest.approx(
        value, rel=1e-5
    )


def test_missing_entries_can_count_as_in_the_published_code():
    outputs, targets = draw(4, 1, 3, 3).requires_grad_(), (draw(4, 1, 3, 5)[..., :3] > 0).double()
    ignored = draw(4, 1, 3, 4)[..., :3] > 0.5
    keep = (~ignored).double()
    entropy = functional.binary_cross_entropy_with_logits(outputs * keep, targets * keep)
    squares = functional.mse_loss(outputs * keep, targets * keep)
    targets[ignored] = NAN
    assert MaskedBCE(count_missing=True)(outputs, targets).item() == pytest.approx(entropy.item())
    loss = MaskedMSE(count_missing=True)(outputs, targets)
    assert loss.item() == pytest.approx(squares.item())
    loss.backward()
    assert not outputs.grad[ignored].any()
