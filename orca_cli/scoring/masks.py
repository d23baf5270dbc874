"""Errors of binary masks, over a whole split. Outputs are logits, targets 0 and 1, and NaN at pixels that are ignored."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Fraction
from orca_cli.interfaces import Score
from orca_cli.scoring import checks

Report = Literal["auroc", "balanced", "fnr", "pixel_auroc"]

_CERTAIN = 20.0  # logit of a constant that is positive whatever the threshold


class MaskError:
    """Four errors of a mask, not comparable with one another: one is reported, the others are in the score's `others`.

    * auroc: one minus the area under the ROC curve of all pixels of all images together, without a threshold.
    * balanced: mean of the false-positive and the false-negative rate at logit 0, which the released code of the paper
      computed as one minus the AUROC of a mask of 0 and 1.
    * fnr: false-negative rate at a probability above `threshold`, as in NAS-Bench-360, which took a logit above 0.5,
      a probability of 0.6225. It counts no false alarm, so a mask that is positive everywhere has 0.
    * pixel_auroc: one minus the mean over pixel positions of the AUROC across images at that position, as in the code
      of the paper's numbers; positions without a positive or without a negative are skipped.

    Args:
        report: which of them.
        count_ignored: whether ignored pixels count as negatives with logit 0, as in the released code.
        threshold: probability above which a pixel counts as positive for `fnr`.
    """

    percent = True

    def __init__(self, report: Report = "auroc", count_ignored: bool = False, threshold: Fraction = 0.5) -> None:
        self._report, self._count_ignored = report, count_ignored
        self._logit = math.log(threshold / (1 - threshold))
        self._names = {
            "auroc": "1 - AUROC of pixels",
            "balanced": "balanced error of pixels",
            "fnr": f"false-negative rate at {threshold:g}",
            "pixel_auroc": "1 - AUROC per position",
        }
        self.name = self._names[report]

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error of logits [n, 1, H, W]; `n` and `skipped` count pixels, or positions for pixel_auroc."""
        checks.check_same(outputs, targets, "(n, 1, H, W)")
        pixels = math.prod(targets.shape[1:])
        scores, known = outputs.reshape(len(outputs), pixels), ~np.isnan(targets).reshape(len(targets), pixels)
        present = targets.reshape(known.shape) > 0.5
        if self._count_ignored:
            scores, known = np.where(known, scores, 0.0), np.ones_like(known)
        pooled, truth = scores[known], present[known]
        checks.check_numbers(np.isnan(pooled), "NaN")
        areas = checks.column_aurocs(scores, present, known)
        defined = areas[~np.isnan(areas)]
        area, positive = checks.auroc(pooled, truth), pooled > 0
        misses, alarms = _rate(~positive, truth), _rate(positive, ~truth)
        values = {
            "auroc": None if area is None else 1 - area,
            "balanced": None if misses is None or alarms is None else (misses + alarms) / 2,
            "fnr": _rate(~(pooled > self._logit), truth),
            "pixel_auroc": 1 - float(defined.mean()) if len(defined) else None,
        }
        value = values.pop(self._report)
        others = {self._names[report]: one for report, one in values.items()}
        by_position = self._report == "pixel_auroc"
        counted, total = (len(defined), len(areas)) if by_position else (len(pooled), known.size)
        n = 0 if value is None else counted
        return Score(value, n, total - n, others)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return logits [1, H, W]: how much more often than overall each pixel is positive in the training set.

        They rank pixels as their frequencies do, and are above 0 where that lowers the balanced error. For `fnr`, which
        counts no false alarm, they are high everywhere. Frequencies take half a sample more of each value than there
        are, so that none is 0 or 1.
        """
        if self._report == "fnr":
            return np.full(train_targets.shape[1:], _CERTAIN, np.float32)
        positives, counts = np.zeros((2, *train_targets.shape[1:]))
        for target in train_targets:  # one image at a time: the targets may be all of a large mapped file
            positives += target > 0.5
            counts += 1.0 if self._count_ignored else ~np.isnan(target)
        overall = (positives.sum() + 0.5) / (counts.sum() + 1)
        frequency = (positives + 0.5) / (counts + 1)
        return (np.log(frequency / (1 - frequency)) - math.log(overall / (1 - overall))).astype(np.float32)


def _rate(wrong: np.ndarray, among: np.ndarray) -> float | None:
    count = int(among.sum())
    return int((wrong & among).sum()) / count if count else None
