"""What an error over a whole split is, and what its outputs and targets have to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

MOST_OUTPUTS = 1_000_000  # of one sample, where each has an error of its own


class CannotComputeError(Exception):
    """Outputs, targets or records do not suffice for an error; the message says why."""


@dataclass(frozen=True)
class Score:
    """An error; fields as those of `orca_cli.interfaces.Score`, and how the error is called and shown."""

    name: str
    percent: bool
    value: float | None
    n: int
    skipped: int
    others: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """What a run saved of its test split: outputs [n, K, ...], targets [n, ...], and the record of each sample [n], or None."""

    outputs: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None

    @property
    def integer_targets(self) -> bool:
        """Return whether the targets are classes."""
        return self.targets.dtype.kind in "iu"

    def part(self, chosen: slice) -> Saved:
        """Return some of the samples."""
        groups = None if self.groups is None else self.groups[chosen]
        return Saved(self.outputs[chosen], self.targets[chosen], groups)


def require(fits: bool, what: str) -> None:
    """Raise CannotComputeError unless a condition holds."""
    if not fits:
        raise CannotComputeError(what)


def require_numbers(wrong: np.ndarray) -> None:
    """Raise CannotComputeError where outputs that count are not numbers."""
    require(not wrong.any(), "outputs that count are NaN or infinite")


def mean_of(values: list[float | None]) -> tuple[float | None, int, int]:
    """Return the mean of the values that are defined, how many these are, and how many are not."""
    defined = [value for value in values if value is not None]
    return (sum(defined) / len(defined) if defined else None), len(defined), len(values) - len(defined)


def less_one(value: float | None) -> float | None:
    """Return one minus a value."""
    return None if value is None else 1.0 - value


def record_places(groups: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """Return the place of each sample's record among the distinct records, [n], and their number."""
    require(groups.shape == (n,), f"records {groups.shape} do not fit {n} samples")
    distinct, place = np.unique(groups, return_inverse=True)
    return place.reshape(n), len(distinct)


def shared(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray | None:
    """Return the value [R, ...] that all samples of each record share, NaN included; None where samples of one differ."""
    first = np.full(count, len(place))
    np.minimum.at(first, place, np.arange(len(place)))
    of_record = values[first]
    same = of_record[place] == values
    if values.dtype.kind == "f":
        same |= np.isnan(of_record[place]) & np.isnan(values)
    return of_record if bool(same.all()) else None
