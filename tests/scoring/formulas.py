"""Definitions of every error of `orca_cli/scoring` in NumPy, independent of the program; areas by scikit-learn.

A formula takes the outputs, targets and records that an error takes, as arrays, and the settings of the error. A value is a
number, or None where it is undefined.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from orca_cli.interfaces import IGNORED_CLASS, Score


def mean(values):
    """Return the mean of the defined values, their number, and the number of undefined values."""
    every = [np.nan if value is None else value for value in values]
    defined = [float(value) for value in every if not np.isnan(value)]
    return (
        (sum(defined) / len(defined) if defined else None),
        len(defined),
        len(every) - len(defined),
    )


def less_one(value):
    return None if value is None else 1 - value


def ratio(part, among):
    return float((part & among).sum() / among.sum()) if among.any() else None


def finite(scores):
    """Return scores in the form that scikit-learn takes: NaN is below all other scores."""
    return np.nan_to_num(scores.astype(np.float64), nan=-1e300)


def area(scores, present):
    return (
        float(roc_auc_score(present, finite(scores))) if 0 < present.sum() < len(present) else None
    )


def precision(scores, present):
    return float(average_precision_score(present, finite(scores))) if present.any() else None


def counted(outputs, targets):
    """Return outputs [m, K], their classes (K for none, where an output is NaN) and the target classes, [m]."""
    known = targets != IGNORED_CLASS
    rows = np.moveaxis(outputs, 1, -1)[known]
    return rows, np.where(np.isnan(rows).any(1), rows.shape[1], rows.argmax(1)), targets[known]


def zero_one(outputs, targets, groups):
    _, predicted, truth = counted(outputs, targets)
    return Score(
        float(np.mean(predicted != truth)) if len(truth) else None,
        len(truth),
        targets.size - len(truth),
    )


def balanced(outputs, targets, groups):
    rows, predicted, truth = counted(outputs, targets)
    recall, n, skipped = mean(ratio(predicted == k, truth == k) for k in range(rows.shape[1]))
    return Score(less_one(recall), n, skipped)


def class_auroc(outputs, targets, groups):
    rows, _, truth = counted(outputs, targets)
    # The program's own softmax: its last bit decides whether two probabilities are equal.
    logs = torch.from_numpy(rows).double().log_softmax(1).numpy()
    value, n, skipped = mean(area(logs[:, k], truth == k) for k in range(rows.shape[1]))
    return Score(less_one(value), n, skipped)


def macro_f1(outputs, targets, groups, num_classes=None, by="samples", also_first=None):
    rows, predicted, truth = counted(outputs, targets)
    classes = {"samples": (predicted, truth)}
    if groups is not None and targets.ndim == 1:
        records = groups[targets != IGNORED_CLASS]
        names = np.unique(records)
        votes = [vote(rows[records == one], predicted[records == one]) for one in names]
        classes["records"] = (
            np.array(votes, int),
            np.array([truth[records == one][0] for one in names], int),
        )
    k = num_classes or outputs.shape[1]
    scores = {
        (unit, first): mean(f1(guesses == c, true == c) for c in range(first))
        for unit, (guesses, true) in classes.items()
        for first in {k, also_first or k}
    }
    value, n, skipped = scores.pop((by, k))
    names = {
        key: f"1 - macro F1 of {key[0]}" + ("" if key[1] == k else f", classes 0-{key[1] - 1}")
        for key in scores
    }
    return Score(
        less_one(value),
        n,
        skipped,
        {names[key]: less_one(one) for key, (one, _, _) in scores.items()},
    )


def f1(predicted, present):
    return f1_score(present, predicted) if predicted.any() or present.any() else None


def vote(rows, predicted):
    """Return the class of most samples of a record; of tied classes the one with the largest mean; K without a class."""
    k = rows.shape[1]
    count = np.bincount(predicted, minlength=k + 1)[:k]
    voting = rows[predicted < k].astype(np.float64)
    return max(range(k), key=lambda c: (count[c], voting[:, c].mean(), -c)) if count.any() else k


def over_labels(value, outputs, targets, groups):
    known = ~np.isnan(targets)
    labels = [
        (outputs[known[:, k], k], targets[known[:, k], k] > 0.5) for k in range(outputs.shape[1])
    ]
    average, n, skipped = mean(value(*label) for label in labels)
    return Score(less_one(average), n, skipped)


def mean_average_precision(outputs, targets, groups, by="samples"):
    by_unit = {"samples": over_labels(precision, outputs, targets, groups)}
    if groups is not None:
        members = [np.flatnonzero(groups == one) for one in np.unique(groups)]
        pooled = np.stack([outputs[one].astype(np.float64).mean(0) for one in members])
        by_unit["records"] = over_labels(
            precision, pooled, np.stack([targets[one[0]] for one in members]), None
        )
    chosen = by_unit.pop(by)
    return replace(
        chosen, others={f"1 - mAP of {unit}": other.value for unit, other in by_unit.items()}
    )


def mask_error(outputs, targets, groups, report="auroc", count_ignored=False, threshold=0.5):
    known = ~np.isnan(targets)
    if count_ignored:
        outputs, known = np.where(known, outputs, 0), np.ones_like(known)
    scores, present = outputs[known].astype(np.float64), targets[known] == 1
    by_place = (x.reshape(len(x), -1).T for x in (outputs, targets, known))
    places = [(z[seen], y[seen] == 1) for z, y, seen in zip(*by_place, strict=True)]
    areas, defined, undefined = mean(area(*place) for place in places)
    misses, alarms = ratio(scores <= 0, present), ratio(scores > 0, ~present)
    errors = {
        "auroc": ("1 - AUROC of pixels", less_one(area(scores, present))),
        "balanced": ("balanced error of pixels", None if misses is None or alarms is None else (misses + alarms) / 2),
        "fnr": (f"false-negative rate at {threshold:g}", ratio(1 / (1 + np.exp(-scores)) <= threshold, present)),
        "pixel_auroc": ("1 - AUROC per position", less_one(areas)),
    }  # fmt: skip
    _, value = errors.pop(report)
    n, total = (
        (defined, defined + undefined) if report == "pixel_auroc" else (len(scores), known.size)
    )
    n = 0 if value is None else n
    return Score(value, n, total - n, dict(errors.values()))


NAMES_OF_VALUES = {
    "RMSE": "RMSE",
    "MAE": "MAE",
    "OneMinusR2": "1 - R2",
    "NormalisedRMSE": "RMSE / deviation",
}


def value_error(name, outputs, targets, groups):
    errors = []
    by_output = (
        np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64) for x in (outputs, targets)
    )
    for z, y in zip(*by_output, strict=True):
        known = ~np.isnan(y)
        difference, true = (z - y)[known], y[known]
        rmse, mae = (
            (np.sqrt(np.mean(difference**2)), np.mean(np.abs(difference)))
            if known.any()
            else (None, None)
        )
        by_spread = (
            (rmse**2 / true.var(), rmse / true.std())
            if known.any() and np.ptp(true) > 0
            else (None, None)
        )
        values = dict(zip(NAMES_OF_VALUES.values(), (rmse, mae, *by_spread), strict=True))
        errors.append((values, int(known.sum())))
    n = sum(count for values, count in errors if values[name] is not None)
    means = {key: mean(values[key] for values, _ in errors)[0] for key in NAMES_OF_VALUES.values()}
    return Score(means.pop(name), n, targets.size - n, means)


def relative_l2(outputs, targets, groups):
    def sample_error(z, y):
        norm = np.sqrt(np.nansum(y**2))
        return float(np.sqrt(np.nansum((z - y) ** 2)) / norm) if norm > 0 else None

    return Score(*mean(map(sample_error, outputs.astype(np.float64), targets.astype(np.float64))))


def mean_squared(outputs, targets, groups):
    difference = (outputs.astype(np.float64) - targets)[~np.isnan(targets)]
    n = len(difference)
    return Score(float(np.mean(difference**2)) if n else None, n, targets.size - n)


def nats_per_frame(outputs, targets, groups, count_padding=False):
    known = ~np.isnan(targets)
    logits, truth = outputs.astype(np.float64), np.where(known, targets, 0)
    with np.errstate(invalid="ignore"):  # outputs of padding may be NaN
        nats = np.logaddexp(0, logits) - logits * truth
    frames = int(known.any(1).sum())
    value = float(nats[known].sum() / frames) if frames else None
    whole = float(nats.mean()) if np.isfinite(nats).all() else None
    total = targets.shape[0] * targets.shape[2]
    if count_padding:
        return Score(whole, total, 0, {"nats per frame": value})
    return Score(value, frames, total - frames, {"mean cross-entropy with padding": whole})


def long_range_mae(outputs, targets, groups, separation, threshold, symmetrize_twice):
    below = 0.75 if symmetrize_twice else 0.5

    def protein_error(z, y):
        pairs = [(i, j) for i, j in np.argwhere(y <= threshold) if j - i >= separation]
        return mean(
            abs(max(below * z[j, i] + (1 - below) * z[i, j], 0.01) - y[i, j]) for i, j in pairs
        )[0]

    return Score(
        *mean(
            map(protein_error, outputs[:, 0].astype(np.float64), targets[:, 0].astype(np.float64))
        )
    )


FORMULAS = {
    f"regression.{name}": partial(value_error, key) for name, key in NAMES_OF_VALUES.items()
} | {
    "classification.ZeroOne": zero_one,
    "classification.Balanced": balanced,
    "classification.ClassAUROC": class_auroc,
    "classification.MacroF1": macro_f1,
    "multilabel.MeanAveragePrecision": mean_average_precision,
    "multilabel.MeanAUROC": partial(over_labels, area),
    "multilabel.LabelMacroF1": partial(
        over_labels, lambda scores, present: f1(scores > 0, present)
    ),
    "regression.RelativeL2": relative_l2,
    "regression.MeanSquared": mean_squared,
    "dense.NatsPerFrame": nats_per_frame,
    "dense.MaskError": mask_error,
    "dense.LongRangeMAE": long_range_mae,
}
