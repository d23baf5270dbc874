"""Areas under ranking curves, exact with ties.

Scores are [n] or, by columns, [n, P], higher for "present", which is bool of the same shape; a score of NaN ranks last.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**22  # entries that are ranked at once


def average_precision(scores: Tensor, present: Tensor) -> float | None:
    """Return the sum over distinct thresholds of (recall step) x precision; None without a positive entry."""
    if not present.any():
        return None
    positives, total = _cumulative(scores, present)
    steps = torch.diff(positives, prepend=positives.new_zeros(1)) / positives[-1]
    return float((steps * positives / total).sum())


def auroc(scores: Tensor, present: Tensor) -> float | None:
    """Return the fraction of pairs of a positive and a negative entry that are ordered rightly, ties counting a half.

    None without such a pair. Takes time n log n and about 50 bytes of memory per entry.
    """
    if not present.any() or present.all():
        return None
    positives, total = _cumulative(scores, present)
    zero = positives.new_zeros(1)
    recall = torch.cat([zero, positives / positives[-1]])
    fallout = torch.cat([zero, total - positives])
    return float(torch.trapezoid(recall, fallout / fallout[-1]))


def column_aurocs(scores: Tensor, present: Tensor, known: Tensor) -> Tensor:
    """Return the area under the ROC curve of the known entries of every column, [P] float64; NaN where it lacks a class."""
    step = max(1, _BLOCK // max(1, len(scores)))
    parts = zip(*(table.split(step, dim=1) for table in (scores, present, known)), strict=True)
    return torch.cat([_column_aurocs(*part) for part in parts])


def _column_aurocs(scores: Tensor, present: Tensor, known: Tensor) -> Tensor:
    ranked, order = _ordered(scores.T).sort(dim=1)
    positive = (present & known).T.gather(1, order).double()
    negative = (~present & known).T.gather(1, order).double()
    below = torch.cat([negative.new_zeros(len(negative), 1), negative.cumsum(1)], dim=1)
    # Negatives below a score, and negatives below or at it: half of each is what a positive with this score wins.
    lower = below.gather(1, torch.searchsorted(ranked, ranked, side="left"))
    upper = below.gather(1, torch.searchsorted(ranked, ranked, side="right"))
    return (positive * (lower + upper)).sum(1) / 2 / (positive.sum(1) * negative.sum(1))


def _cumulative(scores: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and of all entries at or above each distinct score, from the highest down."""
    ranked, order = _ordered(scores).sort(descending=True)
    last_of_ties = torch.ones_like(ranked, dtype=torch.bool)
    last_of_ties[:-1] = ranked[:-1] != ranked[1:]
    positives = present[order].cumsum(0)[last_of_ties].double()
    total = (torch.nonzero(last_of_ties)[:, 0] + 1).double()
    return positives, total


def _ordered(scores: Tensor) -> Tensor:
    # NaN would sort as the highest score and so could win; an output that is not a number ranks last.
    return scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).contiguous()
