"""What several errors share: checks of outputs, targets and records, which samples are cut from; and the mean as a constant."""

from __future__ import annotations

from typing import Literal

import numpy as np

from orca_cli.exceptions import DataError, NonFiniteError

Unit = Literal["samples", "records"]


def check_fit(fits: bool, outputs: np.ndarray, targets: np.ndarray, takes: str) -> None:
    """Raise DataError unless outputs and targets fit together; `takes` says in words which shapes are expected."""
    if not fits:
        what = f"outputs {outputs.shape} do not fit {targets.dtype} targets {targets.shape}"
        raise DataError(what, where="task.error", hint=f"this error takes {takes}")


def check_numbers(broken: np.ndarray, what: str = "NaN or infinite") -> None:
    """Raise NonFiniteError where outputs that count are not numbers: an error of NaN cannot be compared with others."""
    if count := int(broken.sum()):
        raise NonFiniteError(f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr")


def missing(groups: np.ndarray | None) -> DataError:
    """Return the error of an average over records where samples have none, or those of one record differ in target."""
    what = "are not cut from records" if groups is None else "of one record have different targets"
    return DataError(f"samples of this task {what}", where="task.error.by", hint="use task.error.by=samples")


def numbered(groups: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first sample of each of the R distinct records, [R], and the record of each sample, [n] in 0..R-1."""
    if groups.shape != (n,):
        raise DataError(f"records {groups.shape} do not fit {n} samples", where="task.error")
    _, first, record = np.unique(groups, return_index=True, return_inverse=True)
    return first, record.reshape(n)


def shared(values: np.ndarray, first: np.ndarray, record: np.ndarray) -> np.ndarray | None:
    """Return the value [R, ...] that all samples of each record share, NaN included; None where samples of one differ."""
    record_values = values[first]
    expected = record_values[record]
    same = (expected == values) | (np.isnan(expected) & np.isnan(values))
    return record_values if same.all() else None


def sums_by_record(values: np.ndarray, record: np.ndarray, count: int) -> np.ndarray:
    """Return the sums [R, K] float64 of values [n, K] over the samples of each record."""
    columns = [np.bincount(record, column, count) for column in values.T]
    return np.stack(columns, 1) if columns else np.zeros((count, 0))


def mean_by_position(targets: np.ndarray) -> np.ndarray:
    """Return the mean [K, *E] float32 of the known targets at every position; the overall mean where none is known."""
    known = ~np.isnan(targets)
    sums = np.where(known, targets, 0.0).sum(0, dtype=np.float64)
    count = known.sum(0)
    overall = sums.sum() / max(1, count.sum())
    return np.where(count > 0, sums / np.maximum(count, 1), overall).astype(np.float32)
