"""Errors of classification; formulas and names as `orca_cli/scoring/classification.py` documents them."""

from __future__ import annotations

import numpy as np

from orca_cli.bundles.errors import ranking
from orca_cli.bundles.errors.score import (
    MOST_OUTPUTS,
    CannotComputeError,
    Saved,
    Score,
    less_one,
    mean_of,
    record_places,
    require,
    shared,
)

_IGNORED = -100


def zero_one(saved: Saved) -> Score:
    """Return the fraction of samples or positions whose largest output is not that of the target class."""
    _check(saved)
    outputs, targets = saved.outputs, saved.targets
    counted = targets != _IGNORED
    wrong = (outputs.argmax(axis=1) != targets) | np.isnan(outputs).any(axis=1)
    n = int(counted.sum())
    return Score("0-1 error", True, int(wrong[counted].sum()) / n if n else None, n, targets.size - n)


def balanced(saved: Saved) -> Score:
    """Return one minus the mean over the classes that occur of recall."""
    scores, truth = _counted(saved)
    k = scores.shape[1]
    count = _counts(truth, k)
    occurs = count > 0
    n = int(occurs.sum())
    hits = _counts(truth[_predictions(scores) == truth], k)
    value = 1.0 - float((hits[occurs] / count[occurs]).mean()) if n else None
    return Score("balanced 0-1 error", True, value, n, k - n)


def class_auroc(saved: Saved) -> Score:
    """Return one minus the mean over classes of the area under the ROC curve of each against the rest."""
    scores, truth = _counted(saved)
    require(scores.shape[1] <= MOST_OUTPUTS, "too many outputs")
    shifted = scores.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True) if shifted.size else shifted
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    value, n, skipped = mean_of([ranking.auroc(logs[:, k], truth == k) for k in range(scores.shape[1])])
    return Score("1 - AUROC", True, less_one(value), n, skipped)


def macro_f1(saved: Saved, num_classes: int | None = None, by: str = "samples", also_first: int | None = None) -> Score:
    """Return one minus the mean over classes of F1, over samples or records."""
    scores, truth = _counted(saved)
    k = scores.shape[1] if num_classes is None else num_classes
    require(k <= scores.shape[1], f"{k} classes, but {scores.shape[1]} outputs")
    found = {"samples": _class_f1(_predictions(scores), truth, scores.shape[1])}
    if (by_records := _of_records(saved, scores, truth)) is not None:
        found["records"] = by_records
    if by not in found:
        raise CannotComputeError("which samples are of one record is not saved")
    others = {}
    for unit, values in found.items():
        for count in (k, also_first):
            if count is not None and (unit, count) != (by, k):
                name = f"1 - macro F1 of {unit}" + ("" if count == k else f", classes 0-{count - 1}")
                others[name] = _macro(values[:count])[0]
    value, n, skipped = _macro(found[by][:k])
    return Score("1 - macro F1" if by == "samples" else "1 - macro F1 of records", True, value, n, skipped, others)


def _check(saved: Saved) -> None:
    outputs, targets = saved.outputs, saved.targets
    fits = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape and outputs.shape[1] > 0
    require(fits and saved.integer_targets, f"outputs {outputs.shape} do not fit targets {targets.shape} of classes")


def _counted(saved: Saved) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [m, K] and classes [m] of the samples or positions that count."""
    _check(saved)
    counted = saved.targets != _IGNORED
    truth = saved.targets[counted].astype(np.int64)
    require(not (truth < 0).any(), "targets are negative")
    return np.moveaxis(saved.outputs, 1, -1)[counted], truth


def _predictions(scores: np.ndarray) -> np.ndarray:
    """Return the class of each row of scores [m, K]; K, which stands for none, where one of them is NaN."""
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], scores.argmax(axis=1))


def _counts(classes: np.ndarray, k: int) -> np.ndarray:
    """Return how often each of K classes occurs, [K]; a class of a stranger's file may be any number."""
    return np.bincount(classes[classes < k], minlength=k)


def _class_f1(predicted: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Return F1 of every class, [K]; NaN for a class that is neither predicted nor a target."""
    hits = _counts(truth[predicted == truth], k)
    with np.errstate(invalid="ignore"):
        return 2 * hits / (_counts(predicted, k) + _counts(truth, k))


def _macro(f1: np.ndarray) -> tuple[float | None, int, int]:
    defined = f1[~np.isnan(f1)]
    return (1.0 - float(defined.mean()) if len(defined) else None), len(defined), len(f1) - len(defined)


def _of_records(saved: Saved, scores: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """Return the F1 of each class over records; None without records, or where one has several targets."""
    counted = saved.targets != _IGNORED
    if saved.groups is None or counted.ndim != 1:
        return None
    record_places(saved.groups, len(counted))
    place, count = record_places(saved.groups[counted], len(truth))
    label = shared(truth, place, count)
    return None if label is None else _class_f1(_majority(scores, place, count), label, scores.shape[1])


def _majority(scores: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """Return the class of each record: the one with most votes, of several the one with the largest mean output."""
    k = scores.shape[1]
    predicted = _predictions(scores)
    voting = predicted < k
    votes = np.bincount(place[voting] * k + predicted[voting], minlength=count * k).reshape(count, k)
    level = np.zeros((count, k))
    np.add.at(level, place[voting], scores[voting].astype(np.float64))
    level[votes != votes.max(axis=1, keepdims=True)] = -np.inf
    return np.where(votes.any(axis=1), level.argmax(axis=1), k)
