"""Functions that several errors share: checks of outputs, targets and records; means; AUROCs.

Samples may be cut from records, such as long electrocardiograms. An undefined error, such as the
error of a class without samples, is NaN in arrays and None in a Score.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from orca_cli.exceptions import DataError, NonFiniteError
from orca_cli.interfaces import Score

Array = Any  # an array of NumPy or a tensor of torch
Unit = Literal["samples", "records"]
# Number of entries that are ranked at once.
_BLOCK = 2**22


def check_fit(
    fits: bool, outputs: Array, targets: Array, takes: str, where: str = "task.error"
) -> None:
    """Raise DataError unless outputs and targets fit together.

    `takes` describes the expected shapes, for the hint.
    """
    if fits:
        return
    shapes = f"{tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}"
    raise DataError(f"outputs {shapes}", where=where, hint=f"expected {takes}")


def check_same(outputs: np.ndarray, targets: np.ndarray, shape: str) -> None:
    """Raise DataError unless both arrays have the same shape, with as many axes as `shape`.

    `shape` is a text such as (n, K, L); in (n, 1, *E), the last part means one or more axes.
    """
    axes = shape.count(",") + 1
    has_axes = outputs.ndim == axes or ("*" in shape and outputs.ndim > axes)
    fits = has_axes and outputs.shape == targets.shape
    check_fit(fits, outputs, targets, f"outputs and targets of the same shape {shape}")


def check_numbers(broken: np.ndarray, fault: str = "NaN or infinite values") -> None:
    """Raise NonFiniteError if a mask marks any output as broken.

    An error that is NaN could not be compared with other errors.
    """
    count = int(broken.sum())
    if count:
        raise NonFiniteError(
            f"outputs contain {fault} ({count:,} of {broken.size:,})",
            where="task.error",
            hint="try a smaller train.lr",
        )


def differences(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return output - target in float64, 0 where the target is NaN, and a mask of known targets.

    Raises:
        DataError: shapes or types do not fit.
        NonFiniteError: an output whose target is known is NaN or infinite.
    """
    fits = outputs.shape == targets.shape and targets.dtype.kind == "f" and targets.ndim > 1
    takes = "outputs and real-valued targets of the same shape, (n, K) or (n, K, *E)"
    check_fit(fits, outputs, targets, takes)
    is_known = ~np.isnan(targets)
    # An output may be anything where its target is unknown: the difference there is 0.
    difference = np.where(is_known, outputs.astype(np.float64) - targets.astype(np.float64), 0.0)
    check_numbers(~np.isfinite(difference))
    return difference, is_known


def records(
    groups: np.ndarray | None,
    targets: np.ndarray,
    counted: np.ndarray | slice = slice(None),
    *,
    required: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the record of each counted sample, and the target that all samples of a record share.

    The records are [m] in 0..R-1, the targets [R, ...]; two targets of NaN are equal.

    None without `groups`, or if samples of one record have different targets; a DataError in these
    cases if `required`.
    """
    fault = "samples of this task are not cut from records"
    if groups is not None:
        of_samples = targets[counted]  # [m, ...]
        _, first_sample, record = np.unique(groups[counted], return_index=True, return_inverse=True)
        # Some releases of NumPy return the shape of the groups.
        record = record.reshape(len(of_samples))
        of_records = of_samples[first_sample]  # [R, ...]
        expected = of_records[record]
        # NaN does not equal itself, but two unknown targets agree.
        is_equal = (expected == of_samples) | (np.isnan(expected) & np.isnan(of_samples))
        if is_equal.all():
            return record, of_records
        fault = "samples of one record have different targets"
    if required:
        raise DataError(fault, where="task.error.by", hint="use task.error.by=samples")
    return None


def mean(errors: np.ndarray) -> Score:
    """Return the mean of the errors that are not NaN; `n` counts these, `skipped` the others."""
    defined = errors[~np.isnan(errors)]
    average = float(defined.mean()) if len(defined) else None
    return Score(value=average, n=len(defined), skipped=len(errors) - len(defined))


def one_minus_mean(goodness: np.ndarray) -> Score:
    """Return one minus the `mean` of the entries, with its counts."""
    score = mean(goodness)
    if score.value is None:
        return score
    return replace(score, value=1.0 - score.value)


def sums_by_record(entries: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    """Return the sums [R, K] float64 of entries [n, K] over the samples of each record."""
    return np.stack([np.bincount(record, column, count) for column in entries.T], 1)


def mean_constant(error: object, targets: np.ndarray, num_outputs: int) -> np.ndarray:
    """Return the mean [K, *E] of the known targets at every position, in their dtype.

    A position without a known target gets the overall mean. This is the `constant` of several
    errors. For labels it is their frequencies, although any constant has the same error for labels.
    """
    is_known = ~np.isnan(targets)
    # Summed in float64, since sums over many float32 targets would lose their last digits.
    sums = np.where(is_known, targets, 0.0).sum(0, dtype=np.float64)
    count = is_known.sum(0)
    # 0 where no target is known at all.
    overall = sums.sum() / max(1, count.sum())
    known_mean = sums / np.maximum(count, 1)
    return np.where(count > 0, known_mean, overall).astype(targets.dtype)


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Return the sum over distinct thresholds of (recall step) x precision.

    Scores [n] are higher for "present"; a score of NaN ranks last. The sum is NaN without a
    positive entry.
    """
    if not present.any():
        return np.nan
    scores = _comparable(scores)
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    # A threshold can only lie between different scores.
    is_above_next = ranked[:-1] != ranked[1:]
    is_threshold = np.append(is_above_next, True)
    positives = present[order].cumsum()[is_threshold]
    # The entries at or above each threshold, of which `positives` are positive: [thresholds].
    total = np.flatnonzero(is_threshold) + 1
    recall_steps = np.diff(positives, prepend=0) / positives[-1]
    # Precision is positives over total.
    areas = recall_steps * positives / total
    return float(areas.sum())


def aurocs(
    scores: np.ndarray, present: np.ndarray, is_known: np.ndarray | bool = True
) -> np.ndarray:
    """Return the area under the ROC curve of the known entries of every column of scores.

    The area is the fraction of pairs of a positive and a negative entry that are ordered correctly;
    ties count a half. A score of NaN ranks last. The time grows as n log n. The memory is some 50
    bytes per entry, for at most some 4 million entries at a time.

    Args:
        scores: [n, P], higher for "present".
        present: [n, P] bool.
        is_known: [n, P] bool; the other entries are left out.

    Returns:
        [P] float64, NaN for a column without such a pair.
    """
    from scipy import stats

    is_known = np.broadcast_to(is_known, scores.shape)
    # Some columns at a time, which bounds the memory of ranks.
    columns_at_once = max(1, _BLOCK // max(1, len(scores)))
    # So that `concatenate` also takes scores without columns.
    areas = [np.zeros(0)]
    for start in range(0, scores.shape[1], columns_at_once):
        columns = slice(start, start + columns_at_once)
        is_counted = is_known[:, columns]
        is_positive = present[:, columns] & is_counted
        # An entry of NaN gets no rank, and the others are ranked without it.
        ranked = np.where(is_counted, _comparable(scores[:, columns]), np.nan)
        # [n, columns], from 1. Tied entries share their mean rank, so a tied pair counts a half.
        ranks = stats.rankdata(ranked, axis=0, nan_policy="omit")
        positives = is_positive.sum(0)
        negatives = is_counted.sum(0) - positives
        sums = np.where(is_positive, ranks, 0.0).sum(0)
        # The sum of ranks counts wins over the other positive entries as well.
        wins = sums - positives * (positives + 1) / 2
        pairs = positives * negatives.astype(np.float64)
        # A column without a pair is 0 / 0, and so NaN.
        with np.errstate(invalid="ignore"):
            areas.append(wins / pairs)
    return np.concatenate(areas)


def _comparable(scores: np.ndarray) -> np.ndarray:
    """Return scores in which NaN, which would sort as the highest, ranks last."""
    return np.ascontiguousarray(np.where(np.isnan(scores), -np.inf, scores))
