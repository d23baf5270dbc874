"""Errors of classification, over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Score


class ZeroOne:
    """Fraction of samples, or of positions, whose largest output is not that of the target class.

    Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Ties go to the lowest class. Targets of -100 are
    left out; so is a fraction of nothing, which is undefined. An output that is NaN counts as an error.
    """

    name = "0-1 error"
    percent = True

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count samples, or positions where targets have an extent.

        Raises:
            DataError: outputs and targets do not fit together.
        """
        _check_shapes(outputs, targets)
        counted = targets != IGNORED_CLASS
        n = int(counted.sum())
        skipped = targets.numel() - n
        if n == 0:
            return Score(None, 0, skipped)
        # argmax returns the index of a NaN, which could by chance be the right class.
        wrong = (outputs.argmax(dim=1) != targets) | outputs.isnan().any(dim=1)
        return Score(int(wrong[counted].sum()) / n, n, skipped)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K]: one for the majority class of the training targets (the lowest of several), else zero.

        For targets with an extent [n, *E] it is [K, *E] with the majority class of every position of its own; the
        overall majority class stands in at positions that no training sample has.
        """
        return _votes(train_targets, num_outputs)


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.ndim < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape or targets.is_floating_point():
        raise DataError(
            f"outputs {tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}",
            where="task.error",
            hint="the 0-1 error takes outputs (n, K, *E) and integer targets (n, *E)",
        )


def _votes(targets: Tensor, num_outputs: int) -> Tensor:
    counted = targets != IGNORED_CLASS
    overall = torch.bincount(targets[counted], minlength=num_outputs)
    # A loop over classes keeps memory at one map per class, where a one-hot copy of all targets would take K times them.
    counts = torch.stack([(targets == k).sum(dim=0) for k in range(num_outputs)])
    majority = torch.where(counts.sum(dim=0) > 0, counts.argmax(dim=0), overall.argmax())
    return torch.nn.functional.one_hot(majority, num_outputs).movedim(-1, 0).float()
