"""Areas under ranking curves, exact with ties.

Scores are [n] or, by columns, [n, P], higher for "present", which is bool of the same shape; a score of NaN ranks last.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 2**22  # entries that are ranked at once


def average_precision(scores: np.ndarray, present: np.ndarray) -> float | None:
    """Return the sum over distinct thresholds of (recall step) x precision; None without a positive entry."""
    if not present.any():
        return None
    scores = _comparable(scores)
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    last_of_ties = np.append(ranked[:-1] != ranked[1:], True)
    positives = present[order].cumsum()[last_of_ties]
    total = np.flatnonzero(last_of_ties) + 1
    return float((np.diff(positives, prepend=0) / positives[-1] * positives / total).sum())


def auroc(scores: np.ndarray, present: np.ndarray) -> float | None:
    """Return the fraction of pairs of a positive and a negative entry that are ordered rightly, ties counting a half.

    None without such a pair. Takes time n log n and about 50 bytes of memory per entry.
    """
    area = float(column_aurocs(scores[:, None], present[:, None], np.ones((len(scores), 1), bool))[0])
    return None if np.isnan(area) else area


def column_aurocs(scores: np.ndarray, present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of the known entries of every column, [P] float64; NaN where it lacks a class."""
    step = max(1, _BLOCK // max(1, len(scores)))
    areas = [np.zeros(0)]
    for start in range(0, scores.shape[1], step):
        areas.append(_column_aurocs(*(table[:, start : start + step].T for table in (scores, present, known))))
    return np.concatenate(areas)


def _column_aurocs(scores: np.ndarray, present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return areas [P] of rows [P, n]."""
    scores = _comparable(scores)
    order = np.argsort(scores, axis=1)
    ranked = np.take_along_axis(scores, order, 1)
    positive, negative = (np.take_along_axis(counted, order, 1) for counted in (present & known, ~present & known))
    upto = negative.cumsum(1)  # negatives at or below an entry's place
    before = upto - negative
    changes, end = ranked[:, 1:] != ranked[:, :-1], np.ones((len(ranked), 1), bool)
    first, last = np.hstack([end, changes]), np.hstack([changes, end])
    # Counts never fall along a row, so the running maximum over the first of ties is the count below the tie; likewise above.
    below = np.maximum.accumulate(np.where(first, before, 0), 1)
    at_or_below = np.minimum.accumulate(np.where(last, upto, ranked.shape[1])[:, ::-1], 1)[:, ::-1]
    # Half of each is what a positive entry wins.
    wins = np.where(positive, below + at_or_below, 0).sum(1) / 2
    with np.errstate(invalid="ignore"):
        return wins / (positive.sum(1) * negative.sum(1).astype(np.float64))


def _comparable(scores: np.ndarray) -> np.ndarray:
    # NaN would sort as the highest score and so could win; an output that is not a number ranks last.
    return np.ascontiguousarray(np.where(np.isnan(scores), -np.inf, scores))
