"""Errors of classification, over a whole split. Targets of -100 are left out; an output that is NaN counts as an error."""

from dataclasses import replace

import numpy as np

from orca_cli.config.ranges import Count
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Score
from orca_cli.scoring import checks


class ZeroOne:
    """Fraction of samples, or of positions, whose largest output is not that of the target class.

    Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Ties go to the lowest class.
    """

    name = "0-1 error"
    percent = True

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count samples, or positions where targets have an extent."""
        _check_shapes(outputs, targets)
        wrong = np.where(targets != IGNORED_CLASS, _predictions(outputs) != targets, np.nan)
        return checks.mean(wrong.reshape(-1))

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K] or [K, *E]: one for the majority class (the lowest of several) at each position, else zero.

        The overall majority class stands in at positions that no training sample has.
        """
        # A loop over classes keeps memory at one map per class, where a one-hot copy of all targets would take K times them.
        counts = np.stack([(train_targets == k).sum(axis=0) for k in range(num_outputs)])
        overall = counts.reshape(num_outputs, -1).sum(axis=1).argmax()
        majority = np.where(counts.sum(axis=0) > 0, counts.argmax(axis=0), overall)
        classes = np.arange(num_outputs).reshape(-1, *(1,) * majority.ndim)
        return (classes == majority).astype(np.float32)


class Balanced(ZeroOne):
    """One minus the mean over classes of recall: the 0-1 error if every class that occurs had as many samples.

    scikit-learn's `1 - balanced_accuracy_score`. Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Any
    constant class has the same error.
    """

    name = "balanced 0-1 error"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count classes: those that occur among the targets, and the others."""
        _check_shapes(outputs, targets)
        k, counted = outputs.shape[1], targets != IGNORED_CLASS
        truth, predicted = targets[counted], _predictions(outputs)[counted]
        with np.errstate(invalid="ignore"):  # of classes that do not occur
            return checks.one_minus_mean(_counts(truth[predicted == truth], k) / _counts(truth, k))


class ClassAUROC(ZeroOne):
    """One minus the mean over classes of the area under the ROC curve of each against the rest.

    Samples are ranked by the probability of the class. scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")`;
    with two classes both have one area, the usual one. Classes that no sample or every sample has are skipped. Any constant
    has an error of 0.5.
    """

    name = "1 - AUROC"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of outputs [n, K] against [n]; `n` and `skipped` count classes."""
        import torch

        _check_shapes(outputs, targets)
        counted = targets != IGNORED_CLASS
        # The last bit of a softmax decides which samples are tied, so recorded errors are found again by torch's alone.
        logs = torch.from_numpy(np.ascontiguousarray(outputs)).double().log_softmax(dim=1).numpy()
        scores, truth = np.moveaxis(logs, 1, -1)[counted], targets[counted]
        return checks.one_minus_mean(
            checks.aurocs(scores, truth[:, None] == np.arange(outputs.shape[1]))
        )


class MacroF1:
    """One minus the mean over classes of F1 = 2 TP / (2 TP + FP + FN), the classes being a fixed list from 0 on.

    This is scikit-learn's macro average over the labels that occur: a class that is neither a target nor a prediction
    anywhere has no F1 and is skipped; one that is predicted but never a target has F1 = 0. The other choice of `by`, and
    the mean over the first classes, are in the score's `others`.

    A record's prediction is the class that most of its samples vote for; of equally many votes the one with the larger
    mean output over the record's samples, and then the lowest. Its target is that of its samples.

    Args:
        num_classes: the mean is over classes 0..num_classes-1; None takes all that the model has outputs for.
        by: samples, or records, such as the whole electrocardiograms that samples are windows of.
        also_first: a further error averages over classes 0..also_first-1. The PhysioNet/CinC challenge of 2017 counts
            normal, atrial fibrillation and other rhythms, the first 3 of 4, over records.
    """

    percent = True

    def __init__(
        self,
        num_classes: Count | None = None,
        by: checks.Unit = "samples",
        also_first: Count | None = None,
    ) -> None:
        self._num_classes, self.by, self._also_first = num_classes, by, also_first
        self.name = "1 - macro F1" if by == "samples" else "1 - macro F1 of records"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of outputs [n, K] against [n], or [n, K, *E] against [n, *E]; `n` and `skipped` count classes."""
        _check_shapes(outputs, targets)
        k = self._num_classes or outputs.shape[1]
        if k > outputs.shape[1]:
            raise DataError(
                f"{k} classes, but {outputs.shape[1]} outputs", where="task.error.num_classes"
            )
        counted = targets != IGNORED_CLASS
        scores, truth = (
            np.moveaxis(outputs, 1, -1)[counted],
            targets[counted],
        )  # [samples or positions, K], [...]
        f1_by_unit = {"samples": _class_f1(_predictions(scores), truth, outputs.shape[1])}
        recorded = checks.records(
            groups if targets.ndim == 1 else None, targets, counted, required=self.by == "records"
        )
        if recorded is not None:
            record, shared = recorded
            f1_by_unit["records"] = _class_f1(
                _majority(scores, record, len(shared)), shared, outputs.shape[1]
            )
        others = {}
        for unit, values in f1_by_unit.items():
            for count in (k, self._also_first):
                if count is not None and (unit, count) != (self.by, k):
                    name = f"1 - macro F1 of {unit}" + (
                        "" if count == k else f", classes 0-{count - 1}"
                    )
                    others[name] = checks.one_minus_mean(values[:count]).value
        return replace(checks.one_minus_mean(f1_by_unit[self.by][:k]), others=others)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K], or [K, *E]: one for the most frequent of the classes that are averaged over (the lowest of several).

        A constant class has F1 = 2 n / (n + its own number) at best, so the most frequent one has the least error.
        """
        k = min(self._num_classes or num_outputs, num_outputs)
        votes = np.zeros((num_outputs, *train_targets.shape[1:]), np.float32)
        votes[_counts(train_targets[train_targets >= 0], k).argmax()] = 1.0
        return votes


def _check_shapes(outputs: np.ndarray, targets: np.ndarray) -> None:
    fits = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
    takes = "outputs (n, K, *E) and integer targets (n, *E)"
    checks.check_fit(fits and targets.dtype.kind != "f", outputs, targets, takes)


def _predictions(scores: np.ndarray) -> np.ndarray:
    """Return the class of scores [m, K, ...], K for none: argmax gives the place of a NaN, which could be the right class."""
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], scores.argmax(axis=1))


def _counts(classes: np.ndarray, k: int) -> np.ndarray:
    """Return how often each of the classes 0..k-1 occurs among these, which may have more."""
    return np.bincount(classes[classes < k], minlength=k)


def _majority(scores: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    k = scores.shape[1]
    predicted = _predictions(scores)
    voting = predicted < k
    votes = np.bincount(record[voting] * k + predicted[voting], minlength=count * k).reshape(
        count, k
    )
    # All tied classes have the same number of samples under them, so sums order them as means do.
    level = checks.sums_by_record(scores[voting], record[voting], count)
    best = np.where(votes == votes.max(axis=1, keepdims=True), level, -np.inf).argmax(axis=1)
    return np.where(votes.any(axis=1), best, k)


def _class_f1(predicted: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Return F1 of every class, [K] float64; NaN for a class that is neither predicted nor a target."""
    with np.errstate(invalid="ignore"):
        return (
            2 * _counts(truth[predicted == truth], k) / (_counts(predicted, k) + _counts(truth, k))
        )
