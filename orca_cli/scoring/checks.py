"""What several errors share: checks of outputs, targets and records, which samples are cut from; means; areas under curves.

A value that is undefined, such as that of a class without samples, is NaN in arrays and None in a Score.
"""

from typing import Any, Literal

import numpy as np

from orca_cli.exceptions import DataError, NonFiniteError
from orca_cli.interfaces import Score

Array = Any  # of NumPy or torch
Unit = Literal["samples", "records"]
_BLOCK = 2**22  # entries that are ranked at once


def check_fit(
    fits: bool, outputs: Array, targets: Array, takes: str, where: str = "task.error"
) -> None:
    """Raise DataError unless outputs and targets fit together; `takes` says in words which shapes are expected."""
    if not fits:
        what = f"outputs {tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}"
        raise DataError(what, where=where, hint=f"it takes {takes}")


def check_same(outputs: np.ndarray, targets: np.ndarray, shape: str) -> None:
    """Raise DataError unless both have one shape with as many axes as this, such as (n, K, L), or more for (n, 1, *E)."""
    axes = shape.count(",") + 1
    fits = outputs.ndim == axes or ("*" in shape and outputs.ndim > axes)
    check_fit(
        fits and outputs.shape == targets.shape,
        outputs,
        targets,
        f"outputs and targets of one shape {shape}",
    )


def check_numbers(broken: np.ndarray, what: str = "NaN or infinite") -> None:
    """Raise NonFiniteError where outputs that count are not numbers: an error of NaN cannot be compared with others."""
    if count := int(broken.sum()):
        raise NonFiniteError(
            f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr"
        )


def differences(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return output - target in float64, zero where the target is NaN, and where it is not; raises as the checks above."""
    fits = outputs.shape == targets.shape and targets.dtype.kind == "f" and targets.ndim > 1
    check_fit(
        fits, outputs, targets, "outputs and real-valued targets of one shape (n, K) or (n, K, *E)"
    )
    known = ~np.isnan(targets)
    difference = np.where(known, outputs.astype(np.float64) - targets.astype(np.float64), 0.0)
    check_numbers(~np.isfinite(difference))
    return difference, known


def records(
    groups: np.ndarray | None,
    targets: np.ndarray,
    counted: np.ndarray | slice = slice(None),
    *,
    required: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the record of each counted sample, [m] in 0..R-1, and the target [R, ...] that all samples of each record share.

    NaN counts as a value. Without records, or where samples of one differ in target, None, or DataError where `required`.
    """
    what = "are not cut from records"
    if groups is not None:
        values = targets[counted]
        _, first, record = np.unique(groups[counted], return_index=True, return_inverse=True)
        shared, record = values[first], record.reshape(len(values))
        if ((shared[record] == values) | (np.isnan(shared[record]) & np.isnan(values))).all():
            return record, shared
        what = "of one record have different targets"
    if required:
        raise DataError(
            f"samples of this task {what}", where="task.error.by", hint="use task.error.by=samples"
        )
    return None


def mean(values: np.ndarray) -> Score:
    """Return the mean of the values that are not NaN; `n` counts these, `skipped` the others."""
    defined = values[~np.isnan(values)]
    return Score(
        float(defined.mean()) if len(defined) else None, len(defined), len(values) - len(defined)
    )


def one_minus_mean(values: np.ndarray) -> Score:
    """Return one minus the mean of the values that are not NaN, as `mean` does."""
    score = mean(values)
    return Score(None if score.value is None else 1.0 - score.value, score.n, score.skipped)


def sums_by_record(values: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    """Return the sums [R, K] float64 of values [n, K] over the samples of each record."""
    return np.stack([np.bincount(record, column, count) for column in values.T], 1)


def mean_constant(error: object, targets: np.ndarray, num_outputs: int) -> np.ndarray:
    """Return the mean [K, *E] of the known targets at every position; the overall mean where none is known.

    It has the dtype of the targets. It is the `constant` of several errors: of labels their frequencies, though any constant
    has the same error.
    """
    known = ~np.isnan(targets)
    sums = np.where(known, targets, 0.0).sum(0, dtype=np.float64)
    count = known.sum(0)
    overall = sums.sum() / max(1, count.sum())
    return np.where(count > 0, sums / np.maximum(count, 1), overall).astype(targets.dtype)


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Return the sum over distinct thresholds of (recall step) x precision, of [n] scores; NaN without a positive entry.

    Scores are higher for "present"; one of NaN ranks last.
    """
    if not present.any():
        return np.nan
    scores = _comparable(scores)
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    last_of_ties = np.append(ranked[:-1] != ranked[1:], True)
    positives = present[order].cumsum()[last_of_ties]
    total = np.flatnonzero(last_of_ties) + 1
    return float((np.diff(positives, prepend=0) / positives[-1] * positives / total).sum())


def aurocs(scores: np.ndarray, present: np.ndarray, known: np.ndarray | bool = True) -> np.ndarray:
    """Return the area under the ROC curve of the known entries of every column of scores [n, P], [P] float64.

    It is the fraction of pairs of a positive and a negative entry that are ordered rightly, ties counting a half; NaN without
    such a pair. A score of NaN ranks last. Takes time n log n, and memory of some 50 bytes an entry for 4 million at once.
    """
    from scipy import stats

    known = np.broadcast_to(known, scores.shape)
    step, areas = max(1, _BLOCK // max(1, len(scores))), [np.zeros(0)]
    for start in range(0, scores.shape[1], step):
        values, is_present, is_known = (
            table[:, start : start + step] for table in (scores, present, known)
        )
        ranks = stats.rankdata(
            np.where(is_known, _comparable(values), np.nan), axis=0, nan_policy="omit"
        )
        positives = (is_present & is_known).sum(0)
        negatives = is_known.sum(0) - positives
        sums = np.where(is_present & is_known, ranks, 0.0).sum(0)
        with np.errstate(invalid="ignore"):
            # What the positive entries win against the negative ones alone.
            areas.append(
                (sums - positives * (positives + 1) / 2)
                / (positives * negatives.astype(np.float64))
            )
    return np.concatenate(areas)


def _comparable(scores: np.ndarray) -> np.ndarray:
    # NaN would sort as the highest score and so could win; an output that is not a number ranks last.
    return np.ascontiguousarray(np.where(np.isnan(scores), -np.inf, scores))
