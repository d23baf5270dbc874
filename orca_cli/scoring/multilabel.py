"""Errors of multi-label classification, over a whole split.

Outputs are scores [n, K], higher for "present"; only their order within a label matters. Targets
[n, K] are 0 or 1, and NaN where unknown; an unknown entry is left out of its label.
"""

from dataclasses import replace

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring import checks


class MeanAveragePrecision:
    """One minus the mean over labels of average precision.

    Average precision is the sum over distinct thresholds of (recall step) x precision, without
    interpolation; entries with equal scores enter together. Labels without a positive entry have no
    average precision, and are skipped. The error by the other choice of `by` is in the score's
    `others` if all samples of a record have the same targets.

    Args:
        by: unit that is scored: samples, or records. For records, outputs are first averaged over
            the samples of a record, such as the pieces of a clip in FSD50K.
    """

    percent = True
    constant = checks.mean_constant

    def __init__(self, by: checks.Unit = "samples") -> None:
        self.by = by
        self.name = "1 - mAP" if by == "samples" else "1 - mAP of records"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        checks.check_same(outputs, targets, "(n, K)")
        scores = {"samples": _precisions(outputs, targets)}
        recorded = checks.records(groups, targets, required=self.by == "records")
        if recorded is not None:
            record, shared = recorded
            sums = checks.sums_by_record(outputs, record, len(shared))
            record_means = sums / np.bincount(record)[:, None]  # [R, K]
            scores["records"] = _precisions(record_means, shared)
        score = scores.pop(self.by)
        # Only the score of the other unit remains, if it exists.
        further_errors = {f"1 - mAP of {unit}": other.value for unit, other in scores.items()}
        return replace(score, others=further_errors)


class MeanAUROC:
    """One minus the mean over labels of the area under the ROC curve.

    For a label it is the fraction of pairs of a positive and a negative entry that are ordered
    wrongly; ties count a half. Labels without such a pair are skipped.
    """

    name = "1 - AUROC"
    percent = True
    constant = checks.mean_constant

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        checks.check_same(outputs, targets, "(n, K)")
        is_known = ~np.isnan(targets)
        # NaN is not above 0.5, and is left out as unknown.
        return checks.one_minus_mean(checks.aurocs(outputs, targets > 0.5, is_known))


class LabelMacroF1:
    """One minus the mean over labels of F1 = 2 TP / (2 TP + FP + FN).

    A label is predicted where its logit is above 0. Labels that are neither a target nor predicted
    anywhere have no F1, and are skipped.
    """

    name = "1 - macro F1"
    percent = True

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count labels."""
        checks.check_same(outputs, targets, "(n, K)")
        # An unknown target is neither predicted nor, as NaN, above 0.5.
        predicted = (outputs > 0) & ~np.isnan(targets)
        present = targets > 0.5
        right = (predicted & present).sum(0)
        # 2 TP + FP + FN: a right prediction is in both sums. [K]
        total = predicted.sum(0) + present.sum(0)
        # A label that is neither predicted nor present has an F1 of NaN.
        with np.errstate(invalid="ignore"):
            return checks.one_minus_mean(2 * right / total)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K] of 1: a label that is predicted everywhere has an F1 above 0."""
        return np.ones(num_outputs, np.float32)


def _precisions(outputs: np.ndarray, targets: np.ndarray) -> Score:
    """Return one minus the mean of the average precisions of all labels."""
    precisions = []
    # Label by label, since each has its own unknown entries.
    for label, is_known in enumerate(~np.isnan(targets.T)):
        present = targets[is_known, label] > 0.5
        precisions.append(checks.average_precision(outputs[is_known, label], present))
    return checks.one_minus_mean(np.array(precisions))
