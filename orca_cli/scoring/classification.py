"""Errors of classification, over a whole split.

Targets of -100 are left out; an output that is NaN counts as an error.
"""

from dataclasses import replace

import numpy as np

from orca_cli.config.ranges import Count
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Score
from orca_cli.scoring import checks


class ZeroOne:
    """Fraction of samples, or positions, whose largest output is not the target class's output.

    Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Ties go to the lowest class.
    """

    name = "0-1 error"
    percent = True

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error.

        `n` and `skipped` count samples, or positions where targets have an extent.
        """
        _check_shapes(outputs, targets)
        # NaN at ignored targets, which `checks.mean` counts as skipped.
        wrong = np.where(targets != IGNORED_CLASS, _predictions(outputs) != targets, np.nan)
        return checks.mean(wrong.reshape(-1))

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K] or [K, *E]: one for the majority class at each position, else zero.

        Of several majority classes the lowest counts. A position without a known target gets the
        overall majority class.
        """
        # One map per class; a one-hot copy of the targets would take K times their memory.
        counts = np.stack([np.sum(train_targets == label, axis=0) for label in range(num_outputs)])
        overall = counts.reshape(num_outputs, -1).sum(axis=1).argmax()
        majority = np.where(counts.sum(axis=0) > 0, counts.argmax(axis=0), overall)
        # [K, 1, ...], to be compared with the majority [*E].
        classes = np.arange(num_outputs).reshape(-1, *(1,) * majority.ndim)
        return (classes == majority).astype(np.float32)


class Balanced(ZeroOne):
    """One minus the mean over classes of recall.

    It is the 0-1 error that would result if all classes that occur had equally many samples, like
    scikit-learn's `1 - balanced_accuracy_score`. Outputs [n, K] against targets [n], or [n, K, *E]
    against [n, *E]. Any constant class has the same error.
    """

    name = "balanced 0-1 error"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error.

        `n` counts the classes that occur in the targets, `skipped` the other classes.
        """
        _check_shapes(outputs, targets)
        num_classes = outputs.shape[1]
        counted = targets != IGNORED_CLASS
        truth = targets[counted]
        predicted = _predictions(outputs)[counted]
        # The right predictions of each class, [K].
        right = _counts(truth[predicted == truth], num_classes)
        # A class that does not occur has a recall of NaN.
        with np.errstate(invalid="ignore"):
            recall = right / _counts(truth, num_classes)
        return checks.one_minus_mean(recall)


class ClassAUROC(ZeroOne):
    """One minus the mean over classes of the area under the ROC curve of a class against others.

    Samples are ranked by the probability of the class, as in scikit-learn's
    `roc_auc_score(multi_class="ovr", average="macro")`. With two classes, both areas are the same.
    Classes that no sample or every sample has are skipped. Any constant has an error of 0.5.
    """

    name = "1 - AUROC"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of outputs [n, K] against [n]; `n` and `skipped` count classes."""
        _check_shapes(outputs, targets)
        counted = targets != IGNORED_CLASS
        log_probabilities = _log_softmax(outputs)  # [n, K, *E]
        scores = np.moveaxis(log_probabilities, 1, -1)[counted]  # [m, K]
        is_of_class = targets[counted][:, None] == np.arange(outputs.shape[1])  # [m, K]
        return checks.one_minus_mean(checks.aurocs(scores, is_of_class))


class MacroF1:
    """One minus the mean over classes of F1 = 2 TP / (2 TP + FP + FN); classes count from 0 on.

    This is scikit-learn's macro average over the labels that occur. A class that is neither a
    target nor a prediction anywhere has no F1 and is skipped. A class that is predicted but never a
    target has F1 = 0. The error by the other choice of `by`, and the mean over the first classes,
    are in the score's `others`.

    The prediction of a record is the class of most of its samples. Of tied classes, the class with
    the larger mean output over the samples counts; if these are equal too, the lower class.

    Args:
        num_classes: the mean is over classes 0..num_classes-1; None: over all outputs of the model.
        by: unit of the predictions: samples, or records, such as the whole electrocardiograms that
            samples are windows of.
        also_first: a further error averages over classes 0..also_first-1. The PhysioNet/CinC
            challenge of 2017 counts normal, atrial fibrillation and other rhythms, the first 3 of 4
            classes, over records.
    """

    percent = True

    def __init__(
        self,
        num_classes: Count | None = None,
        by: checks.Unit = "samples",
        also_first: Count | None = None,
    ) -> None:
        self._num_classes = num_classes
        self.by = by
        self._also_first = also_first
        self.name = "1 - macro F1" if by == "samples" else "1 - macro F1 of records"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error; `n` and `skipped` count classes.

        Outputs are [n, K] against targets [n], or [n, K, *E] against [n, *E].
        """
        _check_shapes(outputs, targets)
        num_outputs = outputs.shape[1]
        num_classes = self._num_classes or num_outputs
        if num_classes > num_outputs:
            raise DataError(
                f"must be at most {num_outputs}, the number of outputs; got {num_classes}",
                where="task.error.num_classes",
            )
        counted = targets != IGNORED_CLASS
        scores = np.moveaxis(outputs, 1, -1)[counted]  # [samples or positions, K]
        truth = targets[counted]
        f1_of = {"samples": _class_f1(_predictions(scores), truth, num_outputs)}
        # Positions of a map are not cut from records.
        if targets.ndim != 1:
            groups = None
        recorded = checks.records(groups, targets, counted, required=self.by == "records")
        if recorded is not None:
            record, shared = recorded
            majority = _majority(scores, record, len(shared))
            f1_of["records"] = _class_f1(majority, shared, num_outputs)
        # Classes are dropped only at this point: the prediction of a dropped class is still a miss
        # of the true class.
        score = checks.one_minus_mean(f1_of[self.by][:num_classes])
        return replace(score, others=self._further_errors(f1_of, num_classes))

    def _further_errors(
        self, f1_of: dict[str, np.ndarray], num_classes: int
    ) -> dict[str, float | None]:
        """Return name -> error of the other unit, and of the first classes, from F1 [K] by unit."""
        further_errors = {}
        for unit, class_f1 in f1_of.items():
            name = f"1 - macro F1 of {unit}"
            if unit != self.by:
                further_errors[name] = checks.one_minus_mean(class_f1[:num_classes]).value
            count = self._also_first
            # The reported error itself is not repeated.
            if count is not None and (unit, count) != (self.by, num_classes):
                if count != num_classes:
                    name = f"{name}, classes 0-{count - 1}"
                further_errors[name] = checks.one_minus_mean(class_f1[:count]).value
        return further_errors

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [K], or [K, *E]: 1 for the most frequent class (the lowest, if several), else 0.

        Only classes that enter the mean are considered. A class with m of n samples that is always
        predicted has F1 = 2 m / (n + m), and the other classes have 0. So the most frequent class
        has the lowest error.
        """
        num_classes = min(self._num_classes or num_outputs, num_outputs)
        # Ignored targets are -100.
        known_targets = train_targets[train_targets >= 0]
        majority = _counts(known_targets, num_classes).argmax()
        votes = np.zeros((num_outputs, *train_targets.shape[1:]), np.float32)
        votes[majority] = 1.0
        return votes


def _check_shapes(outputs: np.ndarray, targets: np.ndarray) -> None:
    expected_shape = outputs.shape[:1] + outputs.shape[2:]
    fits = outputs.ndim > 1 and targets.shape == expected_shape and targets.dtype.kind != "f"
    takes = "outputs (n, K, *E) and integer targets (n, *E): n samples, K classes, further axes"
    checks.check_fit(fits, outputs, targets, takes)


def _log_softmax(outputs: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities of outputs [n, K, *E], in float64.

    They rank samples as the probabilities do, and do not underflow to ties at 0.
    """
    logits = outputs.astype(np.float64, order="C")
    # The last bits decide which samples with a probability near 1 are tied. Recorded errors were
    # computed with torch; SciPy, used if torch cannot be imported, may tie other samples.
    try:
        import torch
    except ImportError:
        from scipy import special

        return special.log_softmax(logits, axis=1)
    return torch.from_numpy(logits).log_softmax(dim=1).numpy()


def _predictions(scores: np.ndarray) -> np.ndarray:
    """Return the class of scores [m, K, ...]; K, which is never right, where a score is NaN.

    argmax would return the position of the NaN, which could be the right class.
    """
    is_broken = np.isnan(scores).any(axis=1)
    return np.where(is_broken, scores.shape[1], scores.argmax(axis=1))


def _counts(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how often each class of 0..num_classes-1 occurs; higher classes are not counted."""
    return np.bincount(classes[classes < num_classes], minlength=num_classes)


def _majority(scores: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    """Return the class of most samples of each of `count` records, [R]; K if no sample has a class.

    Scores are [m, K]; `record` [m] is the record of each sample.
    """
    num_classes = scores.shape[1]
    predicted = _predictions(scores)
    is_voting = predicted < num_classes
    # One number for each pair of a record and a class, so that a single bincount counts all votes.
    cells = record[is_voting] * num_classes + predicted[is_voting]
    votes = np.bincount(cells, minlength=count * num_classes).reshape(count, num_classes)
    # Tied classes are compared over the same samples, so sums of scores order them as means would.
    sums = checks.sums_by_record(scores[is_voting], record[is_voting], count)
    # [R, K], True for each class with the most votes of its record.
    has_most = votes == votes.max(axis=1, keepdims=True)
    tied_sums = np.where(has_most, sums, -np.inf)
    return np.where(votes.any(axis=1), tied_sums.argmax(axis=1), num_classes)


def _class_f1(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Return F1 of all classes, [K] float64; NaN for classes neither predicted nor a target."""
    right = _counts(truth[predicted == truth], num_classes)
    # 2 TP + FP + FN: a right prediction is in both counts.
    total = _counts(predicted, num_classes) + _counts(truth, num_classes)
    with np.errstate(invalid="ignore"):
        return 2 * right / total
