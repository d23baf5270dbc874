"""Errors of classification, over a whole split. Targets of -100 are left out; an output that is NaN counts as an error."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from orca_cli.config.ranges import Count
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Score
from orca_cli.scoring import checks, ranking


class ZeroOne:
    """Fraction of samples, or of positions, whose largest output is not that of the target class.

    Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Ties go to the lowest class.
    """

    name = "0-1 error"
    percent = True

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count samples, or positions where targets have an extent."""
        _check_shapes(outputs, targets)
        counted = targets != IGNORED_CLASS
        n = int(counted.sum())
        # argmax returns the index of a NaN, which could by chance be the right class.
        wrong = (outputs.argmax(dim=1) != targets) | outputs.isnan().any(dim=1)
        return Score(int(wrong[counted].sum()) / n if n else None, n, targets.numel() - n)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K] or [K, *E]: one for the majority class (the lowest of several) at each position, else zero.

        The overall majority class stands in at positions that no training sample has.
        """
        overall = torch.bincount(train_targets[train_targets != IGNORED_CLASS], minlength=num_outputs)
        # A loop over classes keeps memory at one map per class, where a one-hot copy of all targets would take K times them.
        counts = torch.stack([(train_targets == k).sum(dim=0) for k in range(num_outputs)])
        majority = torch.where(counts.sum(dim=0) > 0, counts.argmax(dim=0), overall.argmax())
        return torch.nn.functional.one_hot(majority, num_outputs).movedim(-1, 0).float()


class Balanced(ZeroOne):
    """One minus the mean over classes of recall: the 0-1 error if every class that occurs had as many samples.

    scikit-learn's `1 - balanced_accuracy_score`. Outputs [n, K] against targets [n], or [n, K, *E] against [n, *E]. Any
    constant class has the same error.
    """

    name = "balanced 0-1 error"

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error; `n` and `skipped` count classes: those that occur among the targets, and the others."""
        _check_shapes(outputs, targets)
        k, counted = outputs.shape[1], targets != IGNORED_CLASS
        truth, predicted = targets[counted], _predictions(outputs.movedim(1, -1)[counted])
        count = torch.bincount(truth, minlength=k)[:k]
        hits = torch.bincount(truth[predicted == truth], minlength=k)[:k]
        occurs = count > 0
        n = int(occurs.sum())
        value = 1.0 - float((hits[occurs].double() / count[occurs]).mean()) if n else None
        return Score(value, n, k - n)


class ClassAUROC(ZeroOne):
    """One minus the mean over classes of the area under the ROC curve of each against the rest.

    Samples are ranked by the probability of the class. scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")`;
    with two classes both have one area, the usual one. Classes that no sample or every sample has are skipped. Any constant
    has an error of 0.5.
    """

    name = "1 - AUROC"

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error of outputs [n, K] against [n]; `n` and `skipped` count classes."""
        _check_shapes(outputs, targets)
        scores = outputs.double().log_softmax(dim=1).movedim(1, -1)[targets != IGNORED_CLASS]
        truth = targets[targets != IGNORED_CLASS]
        areas = [ranking.auroc(scores[:, k], truth == k) for k in range(outputs.shape[1])]
        defined = [area for area in areas if area is not None]
        value = 1.0 - sum(defined) / len(defined) if defined else None
        return Score(value, len(defined), len(areas) - len(defined))


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
        self, num_classes: Count | None = None, by: checks.Unit = "samples", also_first: Count | None = None
    ) -> None:
        self._num_classes, self.by, self._also_first = num_classes, by, also_first
        self.name = "1 - macro F1" if by == "samples" else "1 - macro F1 of records"

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error of outputs [n, K] against [n], or [n, K, *E] against [n, *E]; `n` and `skipped` count classes."""
        _check_shapes(outputs, targets)
        k = outputs.shape[1] if self._num_classes is None else self._num_classes
        if k > outputs.shape[1]:
            raise DataError(f"{k} classes, but {outputs.shape[1]} outputs", where="task.error.num_classes")
        counted = targets != IGNORED_CLASS
        scores = outputs.movedim(1, -1)[counted]  # [samples or positions, K]
        truth = targets[counted]
        f1_by_unit = {"samples": _class_f1(_predictions(scores), truth, outputs.shape[1])}
        if (by_records := self._record_f1(scores, truth, counted, groups)) is not None:
            f1_by_unit["records"] = by_records
        if self.by not in f1_by_unit:
            raise checks.missing(groups)
        others = {}
        for unit, values in f1_by_unit.items():
            for count in (k, self._also_first):
                if count is not None and (unit, count) != (self.by, k):
                    name = f"1 - macro F1 of {unit}" + ("" if count == k else f", classes 0-{count - 1}")
                    others[name] = _macro(values[:count]).value
        return replace(_macro(f1_by_unit[self.by][:k]), others=others)

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [K], or [K, *E]: one for the most frequent of the classes that are averaged over (the lowest of several).

        A constant class has F1 = 2 n / (n + its own number) at best, so the most frequent one has the least error.
        """
        k = num_outputs if self._num_classes is None else min(self._num_classes, num_outputs)
        counted = train_targets[(train_targets >= 0) & (train_targets < k)]
        votes = torch.zeros(num_outputs)
        votes[torch.bincount(counted, minlength=k).argmax()] = 1.0
        return votes.reshape(-1, *(1,) * (train_targets.ndim - 1)).expand(-1, *train_targets.shape[1:]).contiguous()

    def _record_f1(self, scores: Tensor, truth: Tensor, counted: Tensor, groups: Tensor | None) -> Tensor | None:
        """Return the F1 of each class over records; None without records, or where one has several targets."""
        if groups is None or counted.ndim != 1:
            return None
        checks.numbered(groups, len(counted))
        place, count = checks.numbered(groups[counted], len(truth))
        label = checks.shared(truth, place, count)
        return None if label is None else _class_f1(_majority(scores, place, count), label, scores.shape[1])


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    fits = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
    takes = "outputs (n, K, *E) and integer targets (n, *E)"
    checks.check_fit(fits and not targets.is_floating_point(), outputs, targets, takes)


def _predictions(scores: Tensor) -> Tensor:
    """Return the class of each row of scores [m, K]; K, which stands for none, where one of them is NaN."""
    return torch.where(scores.isnan().any(dim=1), scores.shape[1], scores.argmax(dim=1))


def _majority(scores: Tensor, place: Tensor, count: int) -> Tensor:
    k = scores.shape[1]
    predicted = _predictions(scores)
    voting = predicted < k
    votes = torch.bincount(place[voting] * k + predicted[voting], minlength=count * k).reshape(count, k)
    level = torch.zeros(count, k, dtype=torch.float64).index_add_(0, place[voting], scores[voting].double())
    # All tied classes have the same number of samples under them, so sums order them as means do.
    tied = votes == votes.amax(dim=1, keepdim=True)
    best = level.masked_fill(~tied, -torch.inf).argmax(dim=1)
    return torch.where(votes.any(dim=1), best, k)


def _class_f1(predicted: Tensor, truth: Tensor, k: int) -> Tensor:
    """Return F1 of every class, [K] float64; NaN for a class that is neither predicted nor a target."""
    hits = torch.bincount(truth[predicted == truth], minlength=k)[:k].double()
    positives = torch.bincount(predicted, minlength=k)[:k] + torch.bincount(truth, minlength=k)[:k]
    return 2 * hits / positives


def _macro(f1: Tensor) -> Score:
    defined = f1[~f1.isnan()]
    return Score(1.0 - float(defined.mean()) if len(defined) else None, len(defined), len(f1) - len(defined))
