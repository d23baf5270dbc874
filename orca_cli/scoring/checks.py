"""Checks of outputs, targets and records; samples are cut from records, such as windows from an electrocardiogram."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from orca_cli.exceptions import DataError, NonFiniteError

Unit = Literal["samples", "records"]


def check_fit(fits: bool, outputs: Tensor, targets: Tensor, takes: str) -> None:
    """Raise DataError unless outputs and targets fit together; `takes` says in words which shapes are expected."""
    if not fits:
        what = f"outputs {tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}"
        raise DataError(what, where="task.error", hint=f"this error takes {takes}")


def check_numbers(broken: Tensor, what: str = "NaN or infinite") -> None:
    """Raise NonFiniteError where outputs that count are not numbers: an error of NaN cannot be compared with others."""
    if count := int(broken.sum()):
        raise NonFiniteError(f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr")


def missing(groups: Tensor | None) -> DataError:
    """Return the error of an average over records where samples have none, or those of one record differ in target."""
    what = "are not cut from records" if groups is None else "of one record have different targets"
    return DataError(f"samples of this task {what}", where="task.error.by", hint="use task.error.by=samples")


def numbered(groups: Tensor, n: int) -> tuple[Tensor, int]:
    """Return the place of each sample's record among the distinct records, [n] in 0..R-1, and R."""
    if groups.shape != (n,):
        raise DataError(f"records {tuple(groups.shape)} do not fit {n} samples", where="task.error")
    distinct, place = torch.unique(groups, return_inverse=True)
    return place, len(distinct)


def shared(values: Tensor, place: Tensor, count: int) -> Tensor | None:
    """Return the value [R, ...] that all samples of each record share, NaN included; None where samples of one differ."""
    first = torch.full((count,), len(place)).scatter_reduce_(0, place, torch.arange(len(place)), "amin")
    record_values = values[first]
    same = record_values[place] == values
    if values.is_floating_point():
        same |= record_values[place].isnan() & values.isnan()
    return record_values if bool(same.all()) else None
