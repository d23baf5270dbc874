"""Splits made of others: a part of a split, for learning curves (paper, Figure 5), and several."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from orca_cli import seeding
from orca_cli.data.splits import split
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Samples, TaskData

if TYPE_CHECKING:  # takes seconds to import
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Samples (see interfaces) of the `whole` with the indices `rows` [n], which ascend."""

    whole: Samples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices."""
        return self.whole.batch(self.rows[indices], augment)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self.whole.targets()[self.rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        groups = self.whole.groups()
        if groups is None:
            return None
        return groups[self.rows]

    def digest(self) -> str:
        """Return a SHA-256 over the digest of the whole and the chosen rows."""
        header = f"{self.whole.digest()} {self.rows.dtype.str}"
        content = header.encode() + self.rows.tobytes()
        return hashlib.sha256(content).hexdigest()


def with_fraction(task: TaskData, fraction: float | None, seed: int) -> TaskData:
    """Return a task that trains on a part of its training split, with a note on it.

    The task itself where `fraction` is None. The part is drawn by the seed, every class in
    proportion, and a smaller one lies within a larger one. Validation and test stay as they are,
    and so do means and deviations, which are those of the whole. DataError where fewer than two
    samples would be left.
    """
    if fraction is None:
        return task
    num_samples = len(task.train)
    num_used = max(1, round(fraction * num_samples))
    if num_used < 2:
        raise DataError(
            f"{fraction:g} leaves {num_used} of {num_samples} training samples",
            where="task.train_fraction",
            hint="at least 2 are needed",
        )
    # Only samples of a single class can be drawn in proportion.
    classes = None
    if task.kind == "classes":
        classes = task.train.targets()
    # Derived, so that this draw is independent of the draw of splits by the same seed.
    draw_seed = seeding.derive(seed, "train_fraction")
    # `split` takes train from the end of one order, so a smaller part lies within a larger one.
    drawn = split(
        num_samples, validation=0, test=0, train=num_used, seed=draw_seed, classes=classes
    )
    manner = f"task.train_fraction={fraction:g}"
    consequence = ""
    if classes is not None:
        manner += ", every class in proportion"
        # A part with fewer samples than classes cannot hold every class.
        drawn_classes = np.unique(classes[drawn.train])
        num_lost = len(np.unique(classes)) - len(drawn_classes)
        if num_lost > 0:
            consequence = f", which leaves {num_lost} classes without any"
    note = f"{num_used} of {num_samples} training samples are used ({manner}){consequence}"
    if task.note:
        note = f"{task.note}; {note}"
    return replace(task, train=Part(whole=task.train, rows=drawn.train), note=note)


class Joined:
    """Samples (see interfaces) of splits of a task, one after the other; none is copied.

    Equal numbers in the splits' groups are one record: the reader has to number records over all of
    its splits. Samples of splits without a mask are all input where another split has one.
    """

    def __init__(self, splits: Sequence[Samples]) -> None:
        self._splits = splits
        # Where each split begins and ends among all samples, [number of splits].
        sizes = list(map(len, splits))
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, in this order.

        The splits draw from `augment` one after the other.
        """
        import torch

        owners = np.searchsorted(self._ends, indices, side="right")  # the split of each sample
        batches = []
        # One read for each split; the requested order is restored below.
        for owner in np.unique(owners):
            rows = indices[owners == owner] - self._starts[owner]
            samples = self._splits[owner]
            batches.append(samples.batch(rows, augment))
        # `order` has the position of each requested sample among those of all batches.
        order = torch.from_numpy(np.argsort(np.argsort(owners, kind="stable")))
        inputs = torch.cat([batch.x for batch in batches])[order]
        targets = torch.cat([batch.y for batch in batches])[order]
        if all(batch.valid is None for batch in batches):
            return Batch(inputs, targets)
        # Splits without padding get a mask that is True everywhere.
        valid = torch.cat(list(map(_mask, batches)))[order]
        return Batch(inputs, targets, valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return np.concatenate([samples.targets() for samples in self._splits])

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64; None where a split has none."""
        records = []
        for samples in self._splits:
            groups = samples.groups()
            if groups is None:
                return None
            records.append(groups)
        return np.concatenate(records)

    def digest(self) -> str:
        """Return a SHA-256 over the splits' own."""
        digests = [samples.digest() for samples in self._splits]
        text = " ".join(["joined", *digests])
        return hashlib.sha256(text.encode()).hexdigest()


def _mask(batch: Batch) -> Tensor:
    """Return the mask of a batch; without one, all of it is input."""
    import torch

    if batch.valid is None:
        return torch.ones_like(batch.x[:, 0], dtype=torch.bool)
    return batch.valid
