"""Errors of multi-label classification, over a whole split.

Outputs are scores [n, K], higher for "present"; only their order within a label matters. Targets [n, K] are 0 or 1, and
NaN where unknown; an unknown entry is left out of its label.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring import checks


def _label_mean(
    outputs: np.ndarray, targets: np.ndarray, value: Callable[[np.ndarray, np.ndarray], float | None]
) -> Score:
    """Return one minus the mean over labels of a value of each label's known entries; labels without one are skipped."""
    checks.check_same(outputs, targets, "(n, K)")
    known = ~np.isnan(targets)
    rows = [(k, known[:, k]) for k in range(outputs.shape[1])]
    return checks.one_minus_mean([value(outputs[row, k], targets[row, k] > 0.5) for k, row in rows])


class MeanAveragePrecision:
    """One minus the mean over labels of average precision.

    Average precision is the sum over distinct thresholds of (recall step) x precision, without interpolation; entries
    with equal scores enter together. Labels without a positive entry have none, and are skipped. The other choice of
    `by` is in the score's `others`, where samples have records that share their targets.

    Args:
        by: samples, or records: outputs are averaged over the samples of a record first, as the logits of a clip's pieces
            are for FSD50K.
    """

    percent, constant = True, checks.mean_constant

    def __init__(self, by: checks.Unit = "samples") -> None:
        self.by = by
        self.name = "1 - mAP" if by == "samples" else "1 - mAP of records"

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        scores = {"samples": _label_mean(outputs, targets, checks.average_precision)}
        if (by_record := checks.records(groups, targets)) is not None:
            record, shared = by_record
            means = checks.sums_by_record(outputs, record, len(shared)) / np.bincount(record)[:, None]
            scores["records"] = _label_mean(means, shared, checks.average_precision)
        if self.by not in scores:
            raise checks.missing(groups)
        score = scores.pop(self.by)
        return replace(score, others={f"1 - mAP of {unit}": other.value for unit, other in scores.items()})


class MeanAUROC:
    """One minus the mean over labels of the area under the ROC curve.

    It is the fraction of pairs of a positive and a negative entry that are ordered wrongly; ties count a half. Labels
    without such a pair are skipped.
    """

    name, percent, constant = "1 - AUROC", True, checks.mean_constant

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        return _label_mean(outputs, targets, checks.auroc)


class LabelMacroF1:
    """One minus the mean over labels of F1 = 2 TP / (2 TP + FP + FN); a label is predicted where its logit is above 0.

    Labels that are neither a target nor predicted anywhere have no F1, and are skipped.
    """

    name, percent = "1 - macro F1", True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        return _label_mean(outputs, targets, _f1)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K] of 1: to predict a label everywhere has an F1 above 0, to predict it nowhere has not."""
        return np.ones(num_outputs, np.float32)


def _f1(scores: np.ndarray, present: np.ndarray) -> float | None:
    predicted = scores > 0
    total = int(predicted.sum() + present.sum())
    return 2 * int((predicted & present).sum()) / total if total else None
