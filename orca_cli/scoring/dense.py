"""Errors of the dense outputs of some benchmarks: masks, frames of a piece, distance maps.

Targets of masks and frames are 0 and 1, and outputs are their logits. Targets of NaN are padding or
unknown, and are ignored.
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

# Logit of a constant that is positive whatever the threshold.
_CERTAIN = 20.0
_NATS_PER_FRAME = "nats per frame"
_MEAN_WITH_PADDING = "mean cross-entropy with padding"
# Angstrom; no two atoms are closer.
_SMALLEST_DISTANCE = 0.01


class MaskError:
    """Four errors of a mask, which cannot be compared with one another.

    One of them is reported, and the other three are in the score's `others`.

    - auroc: one minus the area under the ROC curve of all pixels of all images together, without a
      threshold.
    - balanced: mean of the false-positive and the false-negative rate at logit 0, which the
      released code of the paper computed as one minus the AUROC of a mask of 0 and 1.
    - fnr: false-negative rate at a probability above `threshold`, as in NAS-Bench-360, which took a
      logit above 0.5, a probability of 0.6225. It does not count false alarms, so a mask that is
      positive everywhere has an error of 0.
    - pixel_auroc: one minus the mean over pixel positions of the AUROC across images at that
      position, as in the code of the paper's numbers; positions without a positive or without a
      negative are skipped.

    Args:
        report: name of the error that is reported.
        count_ignored: whether ignored pixels count as negatives with logit 0, as in the released
            code.
        threshold: probability above which a pixel counts as positive for `fnr`.
    """

    percent = True

    def __init__(
        self, report: Report = "auroc", count_ignored: bool = False, threshold: Fraction = 0.5
    ) -> None:
        self._report = report
        self._count_ignored = count_ignored
        # Outputs are logits, so the threshold becomes a logit as well.
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
        """Return the error of logits [n, 1, H, W].

        `n` and `skipped` count pixels, or positions for pixel_auroc.
        """
        checks.check_same(outputs, targets, "(n, 1, *E)")
        pixels = math.prod(targets.shape[1:])
        # [n, pixels], like the masks below.
        scores = outputs.reshape(len(outputs), pixels)
        flat_targets = targets.reshape(len(targets), pixels)
        is_known = ~np.isnan(flat_targets)
        present = flat_targets > 0.5
        if self._count_ignored:
            scores = np.where(is_known, scores, 0.0)
            is_known = np.ones_like(is_known)
        pooled = scores[is_known]
        truth = present[is_known]
        checks.check_numbers(np.isnan(pooled), "NaN")
        by_position = checks.one_minus_mean(checks.aurocs(scores, present, is_known))
        # All pixels as one column of scores.
        pooled_area = checks.aurocs(pooled[:, None], truth[:, None])
        misses = 1.0 - (pooled > self._logit)[truth]
        errors = {
            "auroc": checks.one_minus_mean(pooled_area).value,
            "balanced": _balanced(pooled > 0, truth),
            "fnr": checks.mean(misses).value,
            "pixel_auroc": by_position.value,
        }
        further_errors = {self._names[report]: error for report, error in errors.items()}
        error = further_errors.pop(self.name)
        if self._report == "pixel_auroc":
            return replace(by_position, others=further_errors)
        # Pixels count only if they have an error; else all of them are skipped.
        counted = 0 if error is None else len(pooled)
        return Score(value=error, n=counted, skipped=is_known.size - counted, others=further_errors)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return logits [1, H, W]: how much more often than overall each pixel is positive.

        They rank pixels as their frequencies do, and are above 0 where that lowers the balanced
        error. For `fnr`, which does not count false alarms, they are high everywhere. Half a sample
        of each value is added to the counts, so that all frequencies are above 0 and below 1.
        """
        mask_shape = train_targets.shape[1:]  # (1, H, W)
        if self._report == "fnr":
            return np.full(mask_shape, _CERTAIN, np.float32)
        positives = np.zeros(mask_shape)
        counts = np.zeros(mask_shape)
        # Image by image, since the targets may be a large file that is mapped into memory.
        for target in train_targets:
            positives += target > 0.5
            counts += ~np.isnan(target) | self._count_ignored
        overall = (positives.sum() + 0.5) / (counts.sum() + 1)
        frequency = (positives + 0.5) / (counts + 1)
        # Differences of log-odds: 0 where a pixel is as often positive as all pixels together.
        logits = np.log(frequency / (1 - frequency)) - math.log(overall / (1 - overall))
        return logits.astype(np.float32)


def _balanced(positive: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the mean of the false-negative and the false-positive rate.

    None if one of them is undefined.
    """
    # A rate is None if no pixel could be missed, or if no pixel could be a false alarm.
    misses = checks.mean(1.0 - positive[truth]).value
    alarms = checks.mean(1.0 * positive[~truth]).value
    if misses is None or alarms is None:
        return None
    return (misses + alarms) / 2


class NatsPerFrame:
    """Negative log-likelihood of a frame in nats.

    It is binary cross-entropy, summed over the K labels and averaged over all frames of the split,
    so that long pieces count for more. Frames whose targets are all NaN are padding. It is the
    usual figure for polyphonic music (Boulanger-Lewandowski et al. 2012).

    Args:
        count_padding: whether to average over the K labels as well, and over padding as if it were
            silence. This is the scale of the code behind the paper's numbers. On it, the same
            predictions of JSB Chorales have an error smaller by a factor of about 360.
    """

    percent = False

    def __init__(self, count_padding: bool = False) -> None:
        self._count_padding = count_padding
        self.name = _MEAN_WITH_PADDING if count_padding else _NATS_PER_FRAME

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of logits [n, K, L] against 0 and 1; `n` and `skipped` count frames."""
        checks.check_same(outputs, targets, "(n, K, L)")
        is_known = ~np.isnan(targets)
        is_frame = is_known.any(axis=1)  # [n, L]
        frames = int(is_frame.sum())
        padding = is_frame.size - frames
        # Outputs at padding matter only where padding counts.
        is_counted = is_known | self._count_padding
        checks.check_numbers(~np.isfinite(outputs[is_counted]))
        logits = outputs.astype(np.float64)
        truth = np.where(is_known, targets, 0.0)
        # Outputs at padding may be NaN or infinite.
        with np.errstate(invalid="ignore"):
            # Binary cross-entropy of logits, in the form that does not overflow.
            decay = np.exp(-np.abs(logits))
            nats = np.maximum(logits, 0) - logits * truth + np.log1p(decay)
        per_frame = float(nats[is_known].sum()) / frames if frames else None
        mean = None
        # Where padding does not count, its outputs may leave this mean undefined.
        if nats.size and np.all(np.isfinite(nats)):
            mean = float(nats.mean())
        if self._count_padding:
            further_errors = {_NATS_PER_FRAME: per_frame}
            return Score(value=mean, n=is_frame.size, skipped=0, others=further_errors)
        further_errors = {_MEAN_WITH_PADDING: mean}
        return Score(value=per_frame, n=frames, skipped=padding, others=further_errors)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return logits [K, L]: how often each label is present in a training frame.

        They are the same at every position, unless count_padding multiplies the frequencies by how
        often a position is not padding. Half a frame of each value is added to the counts, so that
        a label without a training frame stays possible.
        """
        is_known = ~np.isnan(train_targets)
        # The frames with each label, [K]; NaN is not above 0.5.
        present = (train_targets > 0.5).sum(axis=(0, 2))
        label_frequency = (present + 0.5) / (is_known.sum(axis=(0, 2)) + 1)  # [K]
        frequency = np.repeat(label_frequency[:, None], is_known.shape[2], axis=1)  # [K, L]
        if self._count_padding:
            # Padding counts as silence, so a label is rarer where fewer pieces last so long.
            pieces = is_known.any(axis=1).sum(axis=0)  # [L]
            frequency *= (pieces + 0.5) / (len(train_targets) + 1)
        return np.log(frequency / (1 - frequency)).astype(np.float32)


class LongRangeMAE:
    """Mean over proteins of the mean absolute error of distances, in Angstrom.

    Only residues that are far apart in sequence and near in space count: the pairs i < j with
    j - i >= separation whose true distance is known and at most `threshold`. At the defaults this
    is "MAE8, long range" of PDNET (Adhikari 2020). The prediction of a pair is the mean of its two
    entries, and at least 0.01. Proteins without such a pair are skipped.

    Args:
        separation: smallest distance along the sequence, in residues.
        threshold: largest true distance in Angstrom.
        symmetrize_twice: whether the entry below the diagonal has weight 3/4 and the entry above it
            1/4, as in the released code, which averaged a map with its transpose twice, the first
            time in place.
    """

    percent = False

    def __init__(
        self, separation: Count = 24, threshold: Positive = 8.0, symmetrize_twice: bool = False
    ) -> None:
        self._separation = separation
        self._threshold = threshold
        self._weight_below = 0.75 if symmetrize_twice else 0.5
        self.name = f"long-range MAE{threshold:g}"

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of maps [n, 1, W, W] in Angstrom; `n` and `skipped` count proteins.

        Targets are NaN outside a protein's own L x L block and where unknown.
        """
        width = outputs.shape[-1]
        fits = outputs.shape == targets.shape == (len(outputs), 1, width, width)
        checks.check_fit(fits, outputs, targets, "distance maps (n, 1, W, W)")
        errors = np.full(len(outputs), np.nan)
        # Protein by protein: the maps of all of them in float64 would take much memory.
        for index, rows, columns in self._pairs(targets):
            predictions = outputs[index, 0].astype(np.float64)
            above = predictions[rows, columns]
            below = predictions[columns, rows]
            broken = ~(np.isfinite(above) & np.isfinite(below))
            checks.check_numbers(broken, f"NaN or infinite values for protein {index}")
            average = self._weight_below * below + (1 - self._weight_below) * above
            # A network may predict a distance of 0 or less.
            predicted = np.maximum(average, _SMALLEST_DISTANCE)
            truth = targets[index, 0, rows, columns]
            errors[index] = np.abs(predicted - truth).mean()
        return checks.mean(errors)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return [1, W, W]: everywhere the distance with the least error over training proteins.

        It is the median over their pairs, each weighted by one over its protein's number of pairs;
        half the threshold if no protein has a pair.
        """
        by_protein = []
        for index, rows, columns in self._pairs(train_targets):
            by_protein.append(train_targets[index, 0, rows, columns])
        if not by_protein:
            by_protein = [np.full(1, self._threshold / 2)]
        distances = np.concatenate(by_protein)
        pair_counts = np.array([len(pairs) for pairs in by_protein])
        weights = np.repeat(1 / pair_counts, pair_counts)
        # The weighted median: the first distance at which half of the weight is reached.
        order = np.argsort(distances, kind="stable")
        mass = weights[order].cumsum()
        middle = np.searchsorted(mass, mass[-1] / 2)
        median = distances[order][middle]
        return np.full(train_targets.shape[1:], median, np.float32)

    def _pairs(self, targets: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the number of each protein that has pairs, and the rows and columns of its pairs.

        This needs the memory of one map.
        """
        for index, target in enumerate(targets):
            is_near = target[0] <= self._threshold  # False where the distance is NaN
            # On or above this diagonal j - i >= separation, so each pair occurs once.
            rows, columns = np.triu(is_near, self._separation).nonzero()
            if len(rows):
                yield index, rows, columns
