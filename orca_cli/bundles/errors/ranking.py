"""Areas under ranking curves, exact with ties. Scores [n], higher for "present", bool [n]; a score of NaN ranks last."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, present: np.ndarray) -> float | None:
    """Return the sum over distinct thresholds of (recall step) x precision; None without a positive entry."""
    if not present.any():
        return None
    positives, total = _cumulative(scores, present)
    steps = np.diff(positives, prepend=0.0) / positives[-1]
    return float((steps * positives / total).sum())


def auroc(scores: np.ndarray, present: np.ndarray) -> float | None:
    """Return the fraction of pairs of a positive and a negative entry in the right order, ties counting a half.

    None without such a pair. By ranks (Mann-Whitney): of tied entries each has the mean of their ranks.
    """
    positives = int(present.sum())
    negatives = len(present) - positives
    if not positives or not negatives:
        return None
    ordered = _ordered(scores)
    ranked = np.sort(ordered)
    low, high = (np.searchsorted(ranked, ordered[present], side=side) for side in ("left", "right"))
    ranks = (low + high + 1) / 2
    return float((ranks.sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _cumulative(scores: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of positives and of all entries at or above each distinct score, from the highest down."""
    ordered = _ordered(scores)
    order = np.argsort(-ordered, kind="stable")
    ranked = ordered[order]
    last_of_ties = np.append(ranked[:-1] != ranked[1:], True)
    positives = np.cumsum(present[order])[last_of_ties].astype(np.float64)
    return positives, (np.flatnonzero(last_of_ties) + 1).astype(np.float64)


def _ordered(scores: np.ndarray) -> np.ndarray:
    return np.nan_to_num(scores.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
