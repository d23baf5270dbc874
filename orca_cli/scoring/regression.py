"""Errors of dense regression as neural operators have them, over a whole split. Targets of NaN are left out."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import check_fit, check_numbers


class RelativeL2:
    """Mean over samples of |output - target| / |target|, both Euclidean norms over all channels and positions.

    The usual error of neural operators. Samples whose target is zero or unknown everywhere are skipped.
    """

    name = "relative l2"
    percent = False

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count samples."""
        difference, target = _differences(outputs, targets)
        norm = target.norm(dim=1)
        counted = norm > 0
        n = int(counted.sum())
        value = float((difference.norm(dim=1)[counted] / norm[counted]).mean()) if n else None
        return Score(value, n, len(norm) - n)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K, *E]: the map whose mean relative error over the training targets is least, nearly.

        It is the geometric median with weights 1 / |target|: the best of 50 Weiszfeld steps from the weighted mean, the
        target nearest to where they end (near a target they come slowly), the mean, and zero.
        """
        target = _flat(train_targets)
        known = ~target.isnan()
        target = target.nan_to_num(nan=0.0)
        norm = target.norm(dim=1)
        weights = torch.where(norm > 0, 1 / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
        if not weights.any():  # targets of zero, or none known
            return torch.zeros(train_targets.shape[1:])
        floor = 1e-9 * norm.mean()
        median = _weighted_mean(target, known, weights)
        for _ in range(50):
            distance = ((target - median) * known).norm(dim=1).clamp_min(floor)
            median = _weighted_mean(target, known, weights / distance)
        nearest = target[((target - median) * known).norm(dim=1).argmin()]
        candidates = [median, nearest, _weighted_mean(target, known, torch.ones_like(norm)), torch.zeros_like(median)]
        cost = torch.stack([(((target - c) * known).norm(dim=1) * weights).sum() for c in candidates])
        return candidates[int(cost.argmin())].reshape(train_targets.shape[1:]).float()


class MeanSquared:
    """Mean of (output - target)^2 over all known entries, in squared units of the task."""

    name = "MSE"
    percent = False

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count entries."""
        difference, _ = _differences(outputs, targets)
        n = int((~targets.isnan()).sum())
        return Score(float(difference.square().sum()) / n if n else None, n, targets.numel() - n)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K, *E]: the mean of the training targets at every position; the overall mean where none is known."""
        targets = train_targets.double()
        return targets.nanmean(dim=0).where(~targets.isnan().all(dim=0), targets.nanmean()).nan_to_num(nan=0.0).float()


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double()


def _differences(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return output - target and target, [n, entries] float64, zero where the target is NaN."""
    fits = outputs.shape == targets.shape and targets.is_floating_point()
    check_fit(fits, outputs, targets, "outputs and real-valued targets of one shape (n, K, *E)")
    target = _flat(targets)
    known = ~target.isnan()
    difference = torch.where(known, _flat(outputs) - target, 0.0)
    check_numbers(~difference.isfinite())
    return difference, target.nan_to_num(nan=0.0)


def _weighted_mean(target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    total = weights @ known.double()
    return (weights @ target) / total.where(total > 0, 1.0)
