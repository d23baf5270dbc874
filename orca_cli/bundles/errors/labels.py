"""Errors of multi-label classification and of masks; as `orca_cli/scoring/multilabel.py` and `masks.py` document them."""

from __future__ import annotations

import math
from collections.abc import Callable

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

_OfLabel = Callable[[np.ndarray, np.ndarray], float | None]


def mean_average_precision(saved: Saved, by: str = "samples") -> Score:
    """Return one minus the mean over labels of average precision, over samples or records."""
    found = {"samples": _over_labels(saved.outputs, saved.targets, ranking.average_precision)}
    if saved.groups is not None:
        place, count = record_places(saved.groups, len(saved.outputs))
        of_record = shared(saved.targets, place, count)
        if of_record is not None:
            sums = np.zeros((count, saved.outputs.shape[1]))
            np.add.at(sums, place, saved.outputs.astype(np.float64))
            means = sums / np.bincount(place, minlength=count)[:, None]
            found["records"] = _over_labels(means, of_record, ranking.average_precision)
    if by not in found:
        raise CannotComputeError("which samples are of one record is not saved")
    value, n, skipped = found.pop(by)
    others = {f"1 - mAP of {unit}": other for unit, (other, _, _) in found.items()}
    return Score("1 - mAP" if by == "samples" else "1 - mAP of records", True, value, n, skipped, others)


def mean_auroc(saved: Saved) -> Score:
    """Return one minus the mean over labels of the area under the ROC curve."""
    return Score("1 - AUROC", True, *_over_labels(saved.outputs, saved.targets, ranking.auroc))


def label_macro_f1(saved: Saved) -> Score:
    """Return one minus the mean over labels of F1; a label is predicted where its logit is above 0."""
    return Score("1 - macro F1", True, *_over_labels(saved.outputs, saved.targets, _f1))


def mask_error(saved: Saved, report: str = "auroc", count_ignored: bool = False, threshold: float = 0.5) -> Score:
    """Return one of four errors of binary masks; the others of the four are in `others`."""
    outputs, targets = saved.outputs, saved.targets
    fits = outputs.ndim > 1 and outputs.shape == targets.shape and targets.dtype.kind == "f"
    require(fits and 0 < threshold < 1, f"outputs {outputs.shape} do not fit masks {targets.shape}")
    scores, truth = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1)
    present, known = truth > 0.5, ~np.isnan(truth)
    require(scores.shape[1] <= MOST_OUTPUTS, "too many outputs")
    if count_ignored:
        scores, known = np.where(known, scores, scores.dtype.type(0)), np.ones_like(known)
    pooled, positive = scores[known], present[known]
    require(not np.isnan(pooled).any(), "outputs that count are NaN")
    columns = range(scores.shape[1])
    areas = [ranking.auroc(scores[known[:, p], p], present[known[:, p], p]) for p in columns]
    mean, defined, undefined = mean_of(areas)
    misses, alarms = _rate(pooled <= 0, positive), _rate(pooled > 0, ~positive)
    logit = pooled.dtype.type(math.log(threshold / (1 - threshold)))
    values = {
        "1 - AUROC of pixels": less_one(ranking.auroc(pooled, positive)),
        "balanced error of pixels": None if misses is None or alarms is None else (misses + alarms) / 2,
        f"false-negative rate at {threshold:g}": _rate(~(pooled > logit), positive),
        "1 - AUROC per position": less_one(mean),
    }
    names = dict(zip(("auroc", "balanced", "fnr", "pixel_auroc"), values, strict=True))
    require(report in names, f"no such error of masks: {report}")
    value = values.pop(names[report])
    counted, total = (defined, defined + undefined) if report == "pixel_auroc" else (len(pooled), known.size)
    n = 0 if value is None else counted
    return Score(names[report], True, value, n, total - n, values)


def _over_labels(outputs: np.ndarray, targets: np.ndarray, value: _OfLabel) -> tuple[float | None, int, int]:
    """Return one minus the mean over labels of a value, how many have it, and how many do not."""
    fits = outputs.ndim == 2 and outputs.shape == targets.shape and outputs.shape[1] <= MOST_OUTPUTS
    require(fits, f"outputs {outputs.shape} do not fit targets {targets.shape} of labels")
    known = ~np.isnan(targets)
    columns = range(outputs.shape[1])
    mean, n, skipped = mean_of([value(outputs[known[:, k], k], targets[known[:, k], k] > 0.5) for k in columns])
    return less_one(mean), n, skipped


def _f1(scores: np.ndarray, present: np.ndarray) -> float | None:
    predicted = scores > 0
    total = int(predicted.sum()) + int(present.sum())
    return 2 * int((predicted & present).sum()) / total if total else None


def _rate(wrong: np.ndarray, among: np.ndarray) -> float | None:
    count = int(among.sum())
    return int((wrong & among).sum()) / count if count else None
