"""Errors of multi-label classification, over a whole split.

Outputs are scores [n, K], higher for "present"; only their order within a label matters. Targets [n, K] are 0 or 1, and
NaN where unknown; an unknown entry is left out of its label.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Score


class MeanAveragePrecision:
    """One minus the mean over labels of average precision.

    Average precision is the sum over distinct thresholds of (recall step) x precision, without interpolation; entries
    with equal scores enter together. Labels without a positive entry have none, and are skipped.
    """

    name = "1 - mAP"
    percent = True

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count labels.

        Raises:
            DataError: outputs and targets do not fit together.
        """
        return _mean_over_labels(outputs, targets, _average_precision)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K]: the training frequency of every label; any constant has the same error."""
        return _frequencies(train_targets, num_outputs)


class MeanAUROC:
    """One minus the mean over labels of the area under the ROC curve.

    It is the fraction of pairs of a positive and a negative entry that are ordered wrongly; ties count a half. Labels
    without a positive or without a negative entry have none, and are skipped.
    """

    name = "1 - AUROC"
    percent = True

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count labels.

        Raises:
            DataError: outputs and targets do not fit together.
        """
        return _mean_over_labels(outputs, targets, _auroc)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K]: the training frequency of every label; any constant has an error of 0.5."""
        return _frequencies(train_targets, num_outputs)


def _mean_over_labels(outputs: Tensor, targets: Tensor, value: Callable[[Tensor, Tensor], float | None]) -> Score:
    if outputs.ndim != 2 or outputs.shape != targets.shape:
        raise DataError(
            f"outputs {tuple(outputs.shape)} do not fit targets {tuple(targets.shape)}",
            where="task.error",
            hint="multi-label errors take outputs (n, K) and targets (n, K)",
        )
    known = ~targets.isnan() if targets.is_floating_point() else torch.ones_like(targets, dtype=torch.bool)
    values = []
    for k in range(outputs.shape[1]):
        scores, present = outputs[known[:, k], k], targets[known[:, k], k] > 0.5
        values.append(value(scores, present))
    defined = [v for v in values if v is not None]
    skipped = len(values) - len(defined)
    if not defined:
        return Score(None, 0, skipped)
    return Score(1.0 - sum(defined) / len(defined), len(defined), skipped)


def _cumulative(scores: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and of all entries at or above each distinct score, from the highest down."""
    # NaN would sort as the highest score and so could win; an output that is no number ranks last.
    order = torch.argsort(scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), descending=True)
    ranked = scores[order].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    last_of_ties = torch.ones_like(ranked, dtype=torch.bool)
    last_of_ties[:-1] = ranked[:-1] != ranked[1:]
    positives = present[order].cumsum(0)[last_of_ties].double()
    total = torch.arange(1, len(ranked) + 1, dtype=torch.float64)[last_of_ties]
    return positives, total


def _average_precision(scores: Tensor, present: Tensor) -> float | None:
    if not present.any():
        return None
    positives, total = _cumulative(scores, present)
    steps = torch.diff(positives, prepend=positives.new_zeros(1)) / positives[-1]
    return float((steps * positives / total).sum())


def _auroc(scores: Tensor, present: Tensor) -> float | None:
    if not present.any() or present.all():
        return None
    positives, total = _cumulative(scores, present)
    zero = positives.new_zeros(1)
    recall = torch.cat([zero, positives / positives[-1]])
    fallout = torch.cat([zero, total - positives])
    return float(torch.trapezoid(recall, fallout / fallout[-1]))


def _frequencies(targets: Tensor, num_outputs: int) -> Tensor:
    frequencies = targets.float().nanmean(dim=0)
    # A label that is unknown in all training samples has no frequency.
    return frequencies.nan_to_num(nan=0.0).reshape(num_outputs)
