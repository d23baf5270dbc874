"""Errors of real-valued targets, over a whole split: each of the K outputs has its own, and the error is their mean.

Outputs and targets are [n, K] or [n, K, *E], in the task's units; positions count like samples. Targets of NaN are left out,
and an output without a known target is skipped. These are scikit-learn's, with `multioutput="uniform_average"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import check_fit, check_numbers


@dataclass(frozen=True)
class _Sums:
    """Of every output, [K] float64: number of known targets, sums of absolute and squared differences, and of squares about the
    mean of the targets."""

    known: Tensor
    absolute: Tensor
    squared: Tensor
    spread: Tensor


def _unexplained(sums: _Sums) -> Tensor:
    # Undefined where all targets are equal: nothing is to be explained.
    return torch.where(sums.spread > 0, sums.squared / sums.spread, torch.nan)


_ALL: dict[str, Callable[[_Sums], Tensor]] = {
    "RMSE": lambda sums: (sums.squared / sums.known).sqrt(),
    "MAE": lambda sums: sums.absolute / sums.known,
    "1 - R2": _unexplained,
    "RMSE / deviation": lambda sums: _unexplained(sums).sqrt(),
}


class _Values:
    """Base of the errors below; each score has the other errors in `others`."""

    name: str
    percent = False

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` counts known targets, `skipped` the others, and all of outputs for which it is undefined."""
        sums = _sums(outputs, targets)
        score = _mean(_ALL[self.name](sums), sums.known, targets.numel())
        others = {
            name: _mean(formula(sums), sums.known, 0).value for name, formula in _ALL.items() if name != self.name
        }
        return replace(score, others=others)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K, *E]: the mean of the training targets at every position; the overall mean where none is known."""
        targets = train_targets.double()
        return targets.nanmean(dim=0).where(~targets.isnan().all(dim=0), targets.nanmean()).nan_to_num(nan=0.0).float()


class RMSE(_Values):
    """Root of the mean squared difference, in the task's units."""

    name = "RMSE"


class MAE(_Values):
    """Mean absolute difference, in the task's units."""

    name = "MAE"

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K, *E]: the median of the training targets at every position; the overall median where none is known."""
        targets = train_targets.double()
        median = targets.nanmedian(dim=0).values
        return median.where(~median.isnan(), targets.nanmedian()).nan_to_num(nan=0.0).float()


class OneMinusR2(_Values):
    """One minus the coefficient of determination: squared differences over those from the mean of the split's own targets.

    0 is perfect, 1 is as good as that mean, and more is worse.
    """

    name = "1 - R2"


class NormalisedRMSE(_Values):
    """Root mean squared difference over the deviation of the split's own targets; 1 is as good as their mean."""

    name = "RMSE / deviation"


def _sums(outputs: Tensor, targets: Tensor) -> _Sums:
    fits = outputs.shape == targets.shape and targets.is_floating_point() and targets.ndim > 1
    check_fit(fits, outputs, targets, "outputs and real-valued targets of one shape (n, K) or (n, K, *E)")
    target = _by_output(targets)
    known = ~target.isnan()
    difference = torch.where(known, _by_output(outputs) - target, 0.0)
    check_numbers(~difference.isfinite())
    count = known.sum(dim=1).double()
    mean = target.nan_to_num(nan=0.0).sum(dim=1) / count
    around = torch.where(known, target - mean[:, None], 0.0)
    # Equal targets differ from their computed mean by rounding.
    around = torch.where(around.abs() > 1e-12 * mean.abs()[:, None], around, 0.0)
    return _Sums(count, difference.abs().sum(dim=1), difference.square().sum(dim=1), around.square().sum(dim=1))


def _by_output(x: Tensor) -> Tensor:
    """Return [K, entries] float64."""
    return x.movedim(1, 0).reshape(x.shape[1], -1).double()


def _mean(per_output: Tensor, known: Tensor, total: int) -> Score:
    defined = ~per_output.isnan()
    n = int(known[defined].sum())
    return Score(float(per_output[defined].mean()) if defined.any() else None, n, total - n)
