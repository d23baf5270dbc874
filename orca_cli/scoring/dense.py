"""Errors of dense outputs of single benchmarks, over a whole split: masks, frames of a piece, distance maps of proteins.

Targets of masks and frames are 0 and 1, outputs their logits. Targets of NaN are ignored, padding or unknown.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Positive
from orca_cli.interfaces import Score
from orca_cli.scoring import checks

Report = Literal["auroc", "balanced", "fnr", "pixel_auroc"]

_CERTAIN = 20.0  # logit of a constant that is positive whatever the threshold
_FRAMES, _MEAN = "nats per frame", "mean cross-entropy with padding"
_LEAST = 0.01  # no two atoms are closer, in Angstrom


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

    def __init__(
        self, report: Report = "auroc", count_ignored: bool = False, threshold: Fraction = 0.5
    ) -> None:
        self._report, self._count_ignored = report, count_ignored
        self._logit = math.log(threshold / (1 - threshold))
        self._names = {
            "auroc": "1 - AUROC of pixels",
            "balanced": "balanced error of pixels",
            "fnr": f"false-negative rate at {threshold:g}",
            "pixel_auroc": "1 - AUROC per position",
        }
        self.name = self._names[report]

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of logits [n, 1, H, W]; `n` and `skipped` count pixels, or positions for pixel_auroc."""
        checks.check_same(outputs, targets, "(n, 1, *E)")
        pixels = math.prod(targets.shape[1:])
        scores, known = (
            outputs.reshape(len(outputs), pixels),
            ~np.isnan(targets).reshape(len(targets), pixels),
        )
        present = targets.reshape(known.shape) > 0.5
        if self._count_ignored:
            scores, known = np.where(known, scores, 0.0), np.ones_like(known)
        pooled, truth = scores[known], present[known]
        checks.check_numbers(np.isnan(pooled), "NaN")
        by_position, positive = (
            checks.one_minus_mean(checks.aurocs(scores, present, known)),
            pooled > 0,
        )
        misses, alarms = (
            checks.mean(1.0 - positive[truth]).value,
            checks.mean(1.0 * positive[~truth]).value,
        )
        errors = (
            checks.one_minus_mean(checks.aurocs(pooled[:, None], truth[:, None])).value,
            None if misses is None or alarms is None else (misses + alarms) / 2,
            checks.mean(1.0 - (pooled > self._logit)[truth]).value,
            by_position.value,
        )
        others = dict(zip(self._names.values(), errors, strict=True))
        value = others.pop(self.name)
        if self._report == "pixel_auroc":
            return replace(by_position, others=others)
        n = 0 if value is None else len(pooled)
        return Score(value, n, known.size - n, others)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return logits [1, H, W]: how much more often than overall each pixel is positive in the training set.

        They rank pixels as their frequencies do, and are above 0 where that lowers the balanced error. For `fnr`, which
        counts no false alarm, they are high everywhere. Frequencies take half a sample more of each value than there
        are, so that none is 0 or 1.
        """
        if self._report == "fnr":
            return np.full(train_targets.shape[1:], _CERTAIN, np.float32)
        positives, counts = np.zeros((2, *train_targets.shape[1:]))
        for (
            target
        ) in train_targets:  # one image at a time: the targets may be all of a large mapped file
            positives += target > 0.5
            counts += 1.0 if self._count_ignored else ~np.isnan(target)
        overall = (positives.sum() + 0.5) / (counts.sum() + 1)
        frequency = (positives + 0.5) / (counts + 1)
        return (np.log(frequency / (1 - frequency)) - math.log(overall / (1 - overall))).astype(
            np.float32
        )


class NatsPerFrame:
    """Negative log-likelihood of a frame in nats: binary cross-entropy, summed over the K labels, averaged over frames.

    The average is over all frames of the split, so long pieces count for more; frames whose targets are all NaN are
    padding. It is the usual figure for polyphonic music (Boulanger-Lewandowski et al. 2012).

    Args:
        count_padding: average over the K labels as well, and over padding as if it were silence: the scale of the code
            of the paper's numbers, on which an error is smaller by about 360 for the same predictions of JSB Chorales.
    """

    percent = False

    def __init__(self, count_padding: bool = False) -> None:
        self._count_padding = count_padding
        self.name = _MEAN if count_padding else _FRAMES

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of logits [n, K, L] against 0 and 1; `n` and `skipped` count frames."""
        checks.check_same(outputs, targets, "(n, K, L)")
        known = ~np.isnan(targets)
        frames = int(known.any(axis=1).sum())
        padding = known.shape[0] * known.shape[2] - frames
        checks.check_numbers(~np.isfinite(outputs) & (known | self._count_padding))
        logits, truth = outputs.astype(np.float64), np.where(known, targets, 0.0)
        with np.errstate(invalid="ignore"):  # outputs at padding may be of any kind
            nats = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
        per_frame = float(nats[known].sum()) / frames if frames else None
        mean = float(nats.mean()) if nats.size and np.isfinite(nats).all() else None
        if self._count_padding:
            return Score(mean, frames + padding, 0, {_FRAMES: per_frame})
        return Score(per_frame, frames, padding, {_MEAN: mean})

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return logits [K, L]: how often each label is present in a frame of the training set, at every position alike.

        Frequencies take half a frame more of each value than there are, so that a label that training never shows costs
        little, and is possible. With count_padding they are multiplied by how often a position is not padding.
        """
        known = ~np.isnan(train_targets)
        present = (train_targets > 0.5).sum(axis=(0, 2))
        frequency = np.repeat(
            ((present + 0.5) / (known.sum(axis=(0, 2)) + 1))[:, None], known.shape[2], axis=1
        )
        if self._count_padding:
            frequency *= (known.any(axis=1).sum(axis=0) + 0.5) / (len(train_targets) + 1)
        return np.log(frequency / (1 - frequency)).astype(np.float32)


class LongRangeMAE:
    """Mean over proteins of the mean absolute error, in Angstrom, over residues far apart in sequence and near in space.

    The pairs i < j with j - i >= separation whose true distance is known and at most `threshold` count: "MAE8, long
    range" of PDNET (Adhikari 2020) at the defaults. The prediction of a pair is the mean of its two entries, and at
    least 0.01. Proteins without such a pair are skipped.

    Args:
        separation: least distance along the sequence, in residues.
        threshold: largest true distance in Angstrom.
        symmetrize_twice: the released code averaged a map with its own transpose in place and then once more, which
            leaves 3/4 of the entry below the diagonal and 1/4 of the one above.
    """

    percent = False

    def __init__(
        self, separation: Count = 24, threshold: Positive = 8.0, symmetrize_twice: bool = False
    ) -> None:
        self._separation, self._threshold = separation, threshold
        self._below = 0.75 if symmetrize_twice else 0.5
        self.name = f"long-range MAE{threshold:g}"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of maps [n, 1, W, W] in Angstrom; `n` and `skipped` count proteins.

        Targets are NaN outside a protein's own L x L block and where unknown.
        """
        fits = (
            outputs.ndim == 4
            and outputs.shape == targets.shape
            and outputs.shape[1::2] == (1, outputs.shape[2])
        )
        checks.check_fit(fits, outputs, targets, "distance maps (n, 1, W, W)")
        errors = np.full(len(outputs), np.nan)
        for index, rows, columns in self._pairs(targets):
            predictions = outputs[index, 0].astype(np.float64)
            above, below = predictions[rows, columns], predictions[columns, rows]
            checks.check_numbers(
                ~(np.isfinite(above) & np.isfinite(below)), f"NaN or infinite in protein {index}"
            )
            predicted = np.maximum(self._below * below + (1 - self._below) * above, _LEAST)
            errors[index] = np.abs(predicted - targets[index, 0, rows, columns]).mean()
        return checks.mean(errors)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [1, W, W], the one distance whose error over the training proteins is least.

        It is the median over their pairs, each weighted by one over its protein's number of pairs; half the threshold
        where no protein has any.
        """
        pairs = [
            train_targets[index, 0, rows, columns]
            for index, rows, columns in self._pairs(train_targets)
        ]
        pairs = pairs or [np.array([self._threshold / 2])]
        distances = np.concatenate(pairs)
        order = np.argsort(distances, kind="stable")
        mass = np.concatenate([np.full(len(one), 1 / len(one)) for one in pairs])[order].cumsum()
        value = distances[order][np.searchsorted(mass, mass[-1] / 2)]
        return np.full(train_targets.shape[1:], value, np.float32)

    def _pairs(self, targets: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each protein that has pairs, with their rows and columns; memory is that of one map."""
        for index, target in enumerate(targets):
            rows, columns = np.triu(
                target[0] <= self._threshold, self._separation
            ).nonzero()  # NaN compares as False
            if len(rows):
                yield index, rows, columns
