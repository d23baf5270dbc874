"""Losses: unknown targets neither count nor get a gradient; known ones agree with torch."""

import pytest
import torch
from torch.nn import functional

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.losses.masked import (
    MaskedBCE,
    MaskedCrossEntropy,
    MaskedHuber,
    MaskedMAE,
    MaskedMSE,
    NatsPerFrameLoss,
    RelativeL2Loss,
    default_loss,
)

NAN = float("nan")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_masked_bce_is_the_mean_over_known_entries():
    logits = draw(6, 4).requires_grad_()
    targets = (draw(6, 4) > 0).double()
    expected = functional.binary_cross_entropy_with_logits(
        logits[:4], targets[:4], pos_weight=torch.tensor(3.0, dtype=torch.float64)
    )
    targets[4:] = NAN
    loss = MaskedBCE(positive_weight=3.0)(logits, targets)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert logits.grad[:4].abs().min() > 0
    assert not logits.grad[4:].any()


def test_masked_mse_is_the_mean_over_known_entries():
    outputs, targets = draw(3, 1, 5).requires_grad_(), draw(3, 1, 6)[..., :5].clone()
    expected = functional.mse_loss(outputs[:2], targets[:2])
    targets[2] = NAN
    loss = MaskedMSE()(outputs, targets)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert not outputs.grad[2].any()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MaskedMAE(), functional.l1_loss),
        (MaskedHuber(0.5), lambda outputs, targets: functional.huber_loss(outputs, targets, delta=0.5)),
    ],
)
def test_masked_losses_of_numbers_are_torchs_over_known_entries(loss, expected):
    outputs, targets = draw(6, 3).requires_grad_(), 2 * draw(3, 6).T.clone()
    value = expected(outputs[:4], targets[:4])
    targets[4:] = NAN
    assert loss.weight_of(targets) == 12
    found = loss(outputs, targets)
    assert found.item() == pytest.approx(value.item())
    found.backward()
    assert outputs.grad[:4].abs().min() > 0
    assert not outputs.grad[4:].any()
    with pytest.raises(DataError, match="of one shape"):
        loss(outputs, targets[:, :1])


def test_masked_cross_entropy_agrees_with_torch():
    outputs, targets = draw(3, 4, 5), torch.arange(15).reshape(3, 5) % 4
    targets[0, :3] = IGNORED_CLASS
    expected = functional.cross_entropy(outputs, targets, ignore_index=IGNORED_CLASS)
    assert MaskedCrossEntropy()(outputs, targets).item() == pytest.approx(expected.item())


def test_weights_of_classes_and_labels_are_torchs():
    outputs, targets = draw(3, 4, 5), torch.arange(15).reshape(3, 5) % 4
    targets[0, :3] = IGNORED_CLASS
    weight = [0.5, 2.0, 0.0, 7.0]
    tensor = torch.tensor(weight, dtype=torch.float64)
    expected = functional.cross_entropy(outputs, targets, tensor, ignore_index=IGNORED_CLASS)
    assert MaskedCrossEntropy(weight)(outputs, targets).item() == pytest.approx(expected.item())
    assert MaskedCrossEntropy([1.0] * 4)(outputs, targets).item() == pytest.approx(
        MaskedCrossEntropy()(outputs, targets).item()
    )
    labels = (draw(3, 5, 4).movedim(2, 1) > 0).double()  # [3, 4, 5]
    for logits, truth in ((outputs, labels), (outputs[..., 0], labels[..., 0])):
        shaped = tensor.reshape(-1, *(1,) * (logits.ndim - 2)) + 1
        expected = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=shaped)
        found = MaskedBCE(positive_weight=[w + 1 for w in weight])(logits, truth)
        assert found.item() == pytest.approx(expected.item())


def test_as_many_weights_as_outputs_are_needed():
    with pytest.raises(ConfigError, match=r"task\.loss\.weight: 3 weights, but 4 outputs"):
        MaskedCrossEntropy([1.0, 2.0, 3.0])(draw(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ConfigError, match=r"task\.loss\.positive_weight: 3 weights, but 4 outputs"):
        MaskedBCE(positive_weight=[1.0, 2.0, 3.0])(draw(3, 4), draw(3, 4))
    with pytest.raises(ConfigError, match=r"task\.loss\.weight\[1\]: -1 is out of range"):
        parts.build({"_target_": "orca_cli.losses.masked.MaskedCrossEntropy", "weight": [1, -1]}, "task.loss")


def test_relative_l2_loss_is_the_mean_over_samples():
    targets = torch.tensor([[[3.0, 4.0]], [[6.0, NAN]], [[NAN, NAN]]])
    outputs = torch.tensor([[[3.0, 5.0]], [[3.0, 9.0]], [[1.0, 1.0]]], requires_grad=True)
    loss = RelativeL2Loss()(outputs, targets)
    assert loss.item() == pytest.approx((1 / 5 + 1 / 2) / 2)
    loss.backward()
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("loss", [MaskedMSE(), RelativeL2Loss(), NatsPerFrameLoss()])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(DataError, match=r"task\.loss: outputs \(3, 4, 4\) do not fit targets \(3, 1, 4, 4\)"):
        loss(torch.zeros(3, 4, 4), torch.ones(3, 1, 4, 4))


def test_missing_entries_can_count_as_the_published_code_counts_them():
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


def test_relative_l2_loss_can_be_summed_over_the_batch():
    outputs, targets = draw(3, 1, 5), draw(3, 1, 6)[..., :5].clone()
    targets[1] = NAN
    mean, total = RelativeL2Loss()(outputs, targets), RelativeL2Loss(reduction="sum")(outputs, targets)
    assert total.item() == pytest.approx(2 * mean.item())
    with pytest.raises(ConfigError, match=r"task\.loss\.reduction: 'none'"):
        parts.build({"_target_": "orca_cli.losses.masked.RelativeL2Loss", "reduction": "none"}, "task.loss")


@pytest.mark.parametrize(
    "loss",
    [
        MaskedBCE(),
        MaskedMSE(),
        MaskedMAE(),
        MaskedHuber(),
        RelativeL2Loss(),
        RelativeL2Loss(reduction="sum"),
        MaskedCrossEntropy(),
        NatsPerFrameLoss(),
    ],
)
def test_a_batch_without_known_targets_trains_nothing(loss):
    outputs = draw(2, 3, 4).requires_grad_()
    integer = isinstance(loss, MaskedCrossEntropy)
    targets = torch.full((2, 4), IGNORED_CLASS) if integer else torch.full((2, 3, 4), NAN, dtype=torch.float64)
    value = loss(outputs, targets)
    value.backward()
    assert value.item() == 0
    assert not outputs.grad.any()


def test_defaults_and_ranges():
    assert isinstance(default_loss("classes", True), MaskedCrossEntropy)
    assert isinstance(default_loss("labels", False), MaskedBCE)
    assert isinstance(default_loss("values", False), MaskedMSE)
    assert isinstance(default_loss("dense", False), MaskedMSE)
    assert isinstance(default_loss("dense", True), MaskedCrossEntropy)
    with pytest.raises(ConfigError, match=r"task\.loss\.positive_weight"):
        parts.build({"_target_": "orca_cli.losses.masked.MaskedBCE", "positive_weight": 0}, "task.loss")
    with pytest.raises(ConfigError, match=r"task\.kind"):
        default_loss("classs", True)
