"""Losses that leave out unknown targets.

They raise DataError for outputs and targets that do not fit together. A batch without a known
target has loss zero and gradient zero, so that it does not end a run. `weight_of` returns the
number by which the mean over a batch divides.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.config.ranges import NotNegative, Positive
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import IGNORED_CLASS, Loss
from orca_cli.scoring.checks import check_fit

# Losses of torch whose mean divides by the number, or the total weight, of the known targets.
_OF_TORCH = (nn.CrossEntropyLoss, nn.NLLLoss)
_ONE_SHAPE = "outputs and targets of the same shape (B, K, *E): B samples, K outputs, further axes"


class _Masked(nn.Module):
    """A loss that averages over the entries whose target is not NaN, or over all of them."""

    count_missing = False
    # Returns the loss of every entry. Output and target are 0 where the target is unknown.
    _entries: Callable[[Tensor, Tensor], Tensor]

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of outputs [B, K] or [B, K, *E] against targets of that shape."""
        _check_shapes(outputs, targets, outputs.shape)
        is_known = ~targets.isnan()
        # Filled before the loss is computed: a NaN that is masked only afterwards would still make
        # the gradient NaN.
        losses = self._entries(torch.where(is_known, outputs, 0.0), targets.nan_to_num(nan=0.0))
        return _masked_mean(losses, is_known | self.count_missing)

    def weight_of(self, targets: Tensor) -> int:
        """Return the number of entries that enter the average."""
        if self.count_missing:
            return targets.numel()
        return int((~targets.isnan()).sum())


class MaskedBCE(_Masked):
    """Binary cross-entropy of logits against 0 and 1, in nats, averaged over known targets.

    Args:
        positive_weight: factor on the loss of positive entries, a number for all outputs or a list
            of K numbers; with 1, positive and negative entries have the same weight.
        count_missing: whether entries without a target enter the average as logit 0 against 0, each
            with a constant loss of log 2, as in the released code for cosmic rays.
    """

    weights: Tensor

    def __init__(
        self, positive_weight: Positive | list[Positive] = 1.0, count_missing: bool = False
    ) -> None:
        super().__init__()
        self.positive_weight = positive_weight
        self.count_missing = count_missing
        weights = torch.tensor(positive_weight, dtype=torch.float32)
        # A buffer follows the loss to its device; checkpoints leave it out, since a setting
        # determines it.
        self.register_buffer("weights", weights, persistent=False)

    def _entries(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = self.weights.to(outputs)
        # A single factor applies to all outputs and needs no axis.
        if weight.ndim:
            _check_count(len(weight), outputs.shape[1], "task.loss.positive_weight")
            # [K, 1, ...], as the last axes of outputs [B, K, *E].
            position_axes = (1,) * (outputs.ndim - 2)
            weight = weight.reshape(-1, *position_axes)
        return functional.binary_cross_entropy_with_logits(
            outputs, targets, pos_weight=weight, reduction="none"
        )


class MaskedMSE(_Masked):
    """Mean over known targets of (output - target)^2, in squared units of the targets.

    Args:
        count_missing: whether entries without a target enter the average with a loss of 0, as in
            the code behind the paper's numbers for cosmic rays.
    """

    def __init__(self, count_missing: bool = False) -> None:
        super().__init__()
        self.count_missing = count_missing

    def _entries(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square()


class MaskedMAE(_Masked):
    """Mean over known targets of |output - target|, in units of the targets."""

    def _entries(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()


class MaskedHuber(_Masked):
    """Huber's loss (1964), averaged over known targets: d^2 / 2 up to delta, then linear.

    Args:
        delta: threshold in units of the targets. With protocol=clean, this unit is the targets'
            standard deviation over the training split.
    """

    def __init__(self, delta: Positive = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def _entries(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.huber_loss(outputs, targets, reduction="none", delta=self.delta)


class MaskedCrossEntropy(nn.Module):
    """Cross-entropy of logits, in nats, averaged over the targets that are not -100.

    It is also the focal loss that the published code uses for NinaPro, with a focus of 0.

    Args:
        weight: K factors on the losses of the classes; the average is weighted, as in torch. None:
            all classes have the same weight.
    """

    weights: Tensor | None

    def __init__(self, weight: list[NotNegative] | None = None) -> None:
        super().__init__()
        self.weight = weight
        tensor = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.register_buffer("weights", tensor, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits [B, K, *E] against classes [B, *E]."""
        takes = "logits (B, K, *E) and classes (B, *E)"
        _check_shapes(outputs, targets, outputs.shape[:1] + outputs.shape[2:], takes)
        is_known = targets != IGNORED_CLASS
        weights = None
        if self.weights is not None:
            weights = self.weights.to(outputs)
            # Checked at every batch, since the number of outputs is not known before the first.
            _check_count(len(weights), outputs.shape[1], "task.loss.weight")
        # The mean is taken below, since torch's mean is NaN without a known class.
        loss = functional.cross_entropy(
            outputs, targets, weights, ignore_index=IGNORED_CLASS, reduction="none"
        )
        if weights is None:
            return _masked_mean(loss, is_known)
        # -100 is not an index; class 0 takes its place, and is masked.
        target_weights = weights[targets.clamp_min(0)]
        total_weight = torch.where(is_known, target_weights, 0.0).sum()
        # All known classes may have a weight of 0.
        return loss.sum() / total_weight.where(total_weight > 0, 1.0)

    def weight_of(self, targets: Tensor) -> float:
        """Return the number of known targets, or the sum of their weights."""
        return _class_weight(targets, self.weights, IGNORED_CLASS)


class RelativeL2Loss(nn.Module):
    """Mean over the batch of |output - target| / |target|.

    |.| is the Euclidean norm over the known entries of a sample.

    Args:
        eps: number added to |target|, in the targets' units, so that a target of zero does not
            cause a division by zero.
        reduction: mean, or sum over the batch as in the published code for Darcy flow. A sum grows
            with the batch, and so does the gradient.
    """

    def __init__(self, eps: Positive = 1e-8, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.eps = eps
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs [B, K] or [B, K, *E] against targets of the same shape."""
        _check_shapes(outputs, targets, outputs.shape)
        is_known = ~targets.isnan()
        # Only known entries contribute to the norms: unknown entries are 0 in the target and in the
        # difference.
        truth = targets.nan_to_num(nan=0.0)
        difference = torch.where(is_known, outputs - truth, 0.0)
        difference_norm = difference.flatten(1).norm(dim=1)  # [B]
        target_norm = truth.flatten(1).norm(dim=1)
        ratio = difference_norm / (target_norm + self.eps)
        counted = is_known.flatten(1).any(dim=1)
        if self.reduction == "mean":
            # Samples without a known entry have a ratio of 0, which must not lower the mean.
            return _masked_mean(ratio, counted)
        return torch.where(counted, ratio, 0.0).sum()

    def weight_of(self, targets: Tensor) -> int:
        """Return the number of samples with a known entry."""
        is_known = ~targets.isnan()
        return int(is_known.flatten(1).any(dim=1).sum())


class NatsPerFrameLoss(nn.Module):
    """Binary cross-entropy of logits in nats, summed over K labels and averaged over frames.

    Frames whose targets are all NaN are padding.

    Args:
        count_padding: whether to average over the K labels as well, and over padding as if it were
            silence, as in the code behind the paper's numbers for music.
    """

    def __init__(self, count_padding: bool = False) -> None:
        super().__init__()
        self.count_padding = count_padding

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits [B, K, L] against 0 and 1 of the same shape."""
        _check_shapes(outputs, targets, outputs.shape)
        is_known = ~targets.isnan()
        truth = targets.nan_to_num(nan=0.0)
        nats = functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        # The mean over all B * K * L entries; targets at padding were filled with 0.
        if self.count_padding:
            return nats.mean()
        # Frames divide the sum, not entries: long pieces weigh more, and K labels add up.
        total = torch.where(is_known, nats, 0.0).sum()
        return total / is_known.any(dim=1).sum().clamp_min(1)

    def weight_of(self, targets: Tensor) -> int:
        """Return the number of frames that enter the average."""
        if self.count_padding:
            return targets.numel()
        is_known = ~targets.isnan()
        return int(is_known.any(dim=1).sum())


def default_loss(kind: str, integer_targets: bool) -> nn.Module:
    """Return the loss of a task that does not name a loss.

    It depends on the kind (`interfaces.KINDS`). For dense targets it is cross-entropy at every
    position if they are classes, and else the mean squared difference.
    """
    if kind == "labels":
        return MaskedBCE()
    if kind == "values" or (kind == "dense" and not integer_targets):
        return MaskedMSE()
    return MaskedCrossEntropy()


def _check_shapes(
    outputs: Tensor, targets: Tensor, expected: torch.Size, takes: str = _ONE_SHAPE
) -> None:
    # [B, H, W] and [B, 1, H, W] would broadcast to [B, B, H, W]: every output with every target.
    check_fit(targets.shape == expected, outputs, targets, takes, where="task.loss")


def _check_count(weights: int, outputs: int, where: str) -> None:
    if weights != outputs:
        raise ConfigError(
            f"must have {outputs} weights, one for each output; got {weights}", where=where
        )


def _masked_mean(loss: Tensor, is_known: Tensor) -> Tensor:
    # A product with the mask would be wrong, since zero times infinity is NaN.
    total = torch.where(is_known, loss, 0.0).sum()
    return total / is_known.sum().clamp_min(1)


def _class_weight(targets: Tensor, weights: Tensor | None, ignored: int) -> float:
    """Return the number of classes that are not ignored, or the sum of their weights."""
    known_classes = targets[targets != ignored]
    if weights is None:
        return float(len(known_classes))
    known_weights = weights.to(targets.device)[known_classes]
    return float(known_weights.sum())


def counts_targets(loss: Loss) -> bool:
    """Return whether a loss divides by the number of its known targets."""
    return hasattr(loss, "weight_of") or isinstance(loss, _OF_TORCH)


def is_sum(loss: Loss) -> bool:
    """Return whether a loss is a sum over its samples, not a mean."""
    return getattr(loss, "reduction", "mean") == "sum"


def is_undefined(loss: Loss, targets: Tensor) -> bool:
    """Return whether a loss is NaN, as torch's mean cross-entropy is without a known class."""
    # Targets that are floats are probabilities of classes, and no target is ignored.
    if not isinstance(loss, _OF_TORCH) or targets.is_floating_point() or is_sum(loss):
        return False
    return bool((targets == loss.ignore_index).all())


def weight_of(loss: Loss, targets: Tensor) -> float:
    """Return the number, up to a factor, by which the mean over a batch with these targets divides.

    The losses above count their known targets, and torch's cross-entropy its known classes, each
    with the weight of the class. Other losses average over samples.
    """
    if hasattr(loss, "weight_of"):
        return float(loss.weight_of(targets))
    if isinstance(loss, _OF_TORCH) and not targets.is_floating_point():
        return _class_weight(targets, loss.weight, loss.ignore_index)
    return float(len(targets))


def shares(loss: Loss, targets: Sequence[Tensor]) -> list[float]:
    """Return the factor of each batch's loss in the loss over all of them.

    Args:
        loss: a mean over known targets, or a sum.
        targets: targets of each batch, shaped as Batch.y.
    """
    # The sums of the batches add up to the sum over all of them.
    if is_sum(loss):
        return [1.0] * len(targets)
    weights = [weight_of(loss, batch_targets) for batch_targets in targets]
    sizes = [len(batch_targets) for batch_targets in targets]
    return normalized(weights, sizes)


def normalized(weights: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return the weights divided by their sum, [n].

    If all are zero, the numbers of samples, `sizes`, take their place.
    """
    # Without a known target every batch has a loss of 0, and any shares that sum to 1 will do.
    masses = list(weights)
    if not any(weights):
        masses = [float(size) for size in sizes]
    return [weight / sum(masses) for weight in masses]
