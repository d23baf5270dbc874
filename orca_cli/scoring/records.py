"""Records: what several samples of a split are cut from, such as the windows of one electrocardiogram."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from orca_cli.exceptions import DataError

Unit = Literal["samples", "records"]


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


def means(values: Tensor, place: Tensor, count: int) -> Tensor:
    """Return the mean of values [n, K] over the samples of each record, [R, K] float64; NaN where one of them is."""
    sums = torch.zeros(count, values.shape[1], dtype=torch.float64).index_add_(0, place, values.double())
    return sums / torch.bincount(place, minlength=count)[:, None]


def shared(values: Tensor, place: Tensor, count: int) -> Tensor | None:
    """Return the value [R, ...] that all samples of each record have; None where samples of one record differ.

    NaN equals NaN here.
    """
    first = torch.full((count,), len(place)).scatter_reduce_(0, place, torch.arange(len(place)), "amin")
    of_record = values[first]
    same = of_record[place] == values
    if values.is_floating_point():
        same |= of_record[place].isnan() & values.isnan()
    return of_record if bool(same.all()) else None
