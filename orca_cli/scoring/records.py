"""Records: what several samples of a split are cut from, such as the windows of one electrocardiogram."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import ConfigError, DataError, suggest

UNITS = ("samples", "records")


def check_unit(by: str) -> None:
    """Check what an error averages over.

    Raises:
        ConfigError: neither samples nor records.
    """
    if by not in UNITS:
        raise ConfigError(f"{by!r} is not allowed", where="task.error.by", hint=suggest(str(by), UNITS))


def required(groups: Tensor | None) -> Tensor:
    """Return the records.

    Raises:
        DataError: the samples have none.
    """
    if groups is None:
        raise DataError(
            "the samples of this task are not cut from records", where="task.error.by", hint="use task.error.by=samples"
        )
    return groups


def numbered(groups: Tensor, n: int) -> tuple[Tensor, int]:
    """Return the place of each sample's record among the distinct records, [n] in 0..R-1, and R.

    Raises:
        DataError: there is not one record per sample.
    """
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


def differing() -> DataError:
    """Return the error of records whose samples do not share one target."""
    return DataError(
        "samples of one record have different targets", where="task.error.by", hint="use task.error.by=samples"
    )
