"""What the mean of a loss over a batch divides by, so that the means of several batches make the mean over all of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from orca_cli.interfaces import Loss


def counts_targets(loss: Loss) -> bool:
    """Return whether a loss divides by its known targets, of which batches of one size may hold different numbers."""
    return hasattr(loss, "weight_of") or isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))


def is_sum(loss: Loss) -> bool:
    """Return whether a loss adds up its samples instead of averaging over them."""
    return getattr(loss, "reduction", "mean") == "sum"


def is_undefined(loss: Loss, targets: Tensor) -> bool:
    """Return whether a loss of these targets is NaN: torch's mean cross-entropy where no class is known."""
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or targets.is_floating_point() or is_sum(loss):
        return False
    return bool((targets == loss.ignore_index).all())


def weight_of(loss: Loss, targets: Tensor) -> float:
    """Return what a loss's mean over a batch with these targets divides by, up to a factor of its own.

    The losses of `masked` know their known targets, and torch's cross-entropy is taken at its word: known classes, each with
    its class's weight. Other losses average over samples.
    """
    if hasattr(loss, "weight_of"):
        return float(loss.weight_of(targets))
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and not targets.is_floating_point():
        known = targets[targets != loss.ignore_index]
        return float(len(known)) if loss.weight is None else loss.weight.to(targets.device)[known].sum().item()
    return float(len(targets))


def shares(loss: Loss, targets: Sequence[Tensor]) -> list[float]:
    """Return the factor of each batch's loss in the loss over all of them; by samples where no target is known.

    Args:
        loss: a mean over what is known, or a sum.
        targets: of the batches, each as Batch.y.
    """
    if is_sum(loss):
        return [1.0] * len(targets)
    return normalized([weight_of(loss, one) for one in targets], [len(one) for one in targets])


def normalized(weights: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return each batch's part of the weight of all, [n]; by `sizes`, their samples, where no target is known."""
    found = list(weights) if any(weights) else [float(size) for size in sizes]
    return [weight / sum(found) for weight in found]
