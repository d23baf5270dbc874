"""Errors of sequences of frames with several labels each, such as the keys of a piano, over a whole split."""

from __future__ import annotations

import numpy as np

from orca_cli.interfaces import Score
from orca_cli.scoring.checks import check_numbers, check_same

_FRAMES, _MEAN = "nats per frame", "mean cross-entropy with padding"


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

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the error of logits [n, K, L] against 0 and 1; `n` and `skipped` count frames."""
        check_same(outputs, targets, "(n, K, L)")
        known = ~np.isnan(targets)
        frames = int(known.any(axis=1).sum())
        padding = known.shape[0] * known.shape[2] - frames
        check_numbers(~np.isfinite(outputs) & (known | self._count_padding))
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
        frequency = np.repeat(((present + 0.5) / (known.sum(axis=(0, 2)) + 1))[:, None], known.shape[2], axis=1)
        if self._count_padding:
            frequency *= (known.any(axis=1).sum(axis=0) + 0.5) / (len(train_targets) + 1)
        return np.log(frequency / (1 - frequency)).astype(np.float32)
