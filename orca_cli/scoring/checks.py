"""What several errors share: checks of outputs, targets and records, which samples are cut from; areas under ranking curves.

Ranked scores are [n] or, by columns, [n, P], higher for "present", which is bool of the same shape; a score of NaN ranks last.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from orca_cli.exceptions import DataError, NonFiniteError
from orca_cli.interfaces import Score

Unit = Literal["samples", "records"]
_BLOCK = 2**22  # entries that are ranked at once


def check_fit(fits: bool, outputs: np.ndarray, targets: np.ndarray, takes: str) -> None:
    """Raise DataError unless outputs and targets fit together; `takes` says in words which shapes are expected."""
    if not fits:
        what = f"outputs {outputs.shape} do not fit {targets.dtype} targets {targets.shape}"
        raise DataError(what, where="task.error", hint=f"this error takes {takes}")


def check_same(outputs: np.ndarray, targets: np.ndarray, shape: str) -> None:
    """Raise DataError unless both have one shape with as many axes as this, such as (n, K, L), or more for (n, 1, *E)."""
    axes = shape.count(",") + 1
    fits = outputs.ndim == axes or ("*" in shape and outputs.ndim > axes)
    check_fit(fits and outputs.shape == targets.shape, outputs, targets, f"outputs and targets of one shape {shape}")


def check_numbers(broken: np.ndarray, what: str = "NaN or infinite") -> None:
    """Raise NonFiniteError where outputs that count are not numbers: an error of NaN cannot be compared with others."""
    if count := int(broken.sum()):
        raise NonFiniteError(f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr")


def differences(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return output - target in float64, zero where the target is NaN, and where it is not; raises as the checks above."""
    fits = outputs.shape == targets.shape and targets.dtype.kind == "f" and targets.ndim > 1
    check_fit(fits, outputs, targets, "outputs and real-valued targets of one shape (n, K) or (n, K, *E)")
    known = ~np.isnan(targets)
    difference = np.where(known, outputs.astype(np.float64) - targets.astype(np.float64), 0.0)
    check_numbers(~np.isfinite(difference))
    return difference, known


def missing(groups: np.ndarray | None) -> DataError:
    """Return the error of an average over records where samples have none, or those of one record differ in target."""
    what = "are not cut from records" if groups is None else "of one record have different targets"
    return DataError(f"samples of this task {what}", where="task.error.by", hint="use task.error.by=samples")


def records(
    groups: np.ndarray | None, targets: np.ndarray, counted: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the record of each counted sample, [m] in 0..R-1, and the target [R, ...] that all samples of each record share.

    NaN counts as a value. None without records, or where samples of one differ in target.
    """
    if groups is None:
        return None
    if groups.shape != targets.shape[:1]:
        raise DataError(f"records {groups.shape} do not fit {len(targets)} samples", where="task.error")
    values = targets[counted]
    _, first, record = np.unique(groups[counted], return_index=True, return_inverse=True)
    shared, record = values[first], record.reshape(len(values))
    same = (shared[record] == values) | (np.isnan(shared[record]) & np.isnan(values))
    return (record, shared) if same.all() else None


def one_minus_mean(values: Sequence[float | None]) -> Score:
    """Return one minus the mean of the values that are defined; `n` counts these, `skipped` the others."""
    defined = [value for value in values if value is not None]
    error = 1.0 - sum(defined) / len(defined) if defined else None
    return Score(error, len(defined), len(values) - len(defined))


def sums_by_record(values: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    """Return the sums [R, K] float64 of values [n, K] over the samples of each record."""
    columns = [np.bincount(record, column, count) for column in values.T]
    return np.stack(columns, 1) if columns else np.zeros((count, 0))


def mean_constant(error: object, targets: np.ndarray, num_outputs: int) -> np.ndarray:
    """Return the mean [K, *E] float32 of the known targets at every position; the overall mean where none is known.

    It is the `constant` of several errors: of labels their frequencies, though any constant has the same error.
    """
    known = ~np.isnan(targets)
    sums = np.where(known, targets, 0.0).sum(0, dtype=np.float64)
    count = known.sum(0)
    overall = sums.sum() / max(1, count.sum())
    return np.where(count > 0, sums / np.maximum(count, 1), overall).astype(np.float32)


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
    from scipy import stats

    step, areas = max(1, _BLOCK // max(1, len(scores))), [np.zeros(0)]
    for start in range(0, scores.shape[1], step):
        values, is_present, is_known = (table[:, start : start + step] for table in (scores, present, known))
        ranks = stats.rankdata(np.where(is_known, _comparable(values), np.nan), axis=0, nan_policy="omit")
        positives = (is_present & is_known).sum(0)
        negatives = is_known.sum(0) - positives
        sums = np.where(is_present & is_known, ranks, 0.0).sum(0)
        with np.errstate(invalid="ignore"):
            # What the positive entries win against the negative ones alone.
            areas.append((sums - positives * (positives + 1) / 2) / (positives * negatives.astype(np.float64)))
    return np.concatenate(areas)


def _comparable(scores: np.ndarray) -> np.ndarray:
    # NaN would sort as the highest score and so could win; an output that is not a number ranks last.
    return np.ascontiguousarray(np.where(np.isnan(scores), -np.inf, scores))
