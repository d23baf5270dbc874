"""Splits made from other splits: a part of one split, or several splits joined.

Parts of the training split give learning curves (paper, Figure 5).
"""

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
    """Samples (see interfaces) of the split `whole` with the indices `rows` [n], which ascend."""

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
        """Return a SHA-256 over the digest of the whole split and the chosen rows."""
        header = f"{self.whole.digest()} {self.rows.dtype.str}"
        content = header.encode() + self.rows.tobytes()
        return hashlib.sha256(content).hexdigest()


def with_fraction(task: TaskData, fraction: float | None, seed: int) -> TaskData:
    """Return a task that trains on a part of its training split, and has a note on this part.

    The task is returned unchanged if `fraction` is None. The part is drawn with the seed, every
    class in proportion; with the same seed, a smaller part is contained in a larger part. The
    validation and test splits do not change, nor do means and standard deviations, which are those
    of the complete training split. DataError if fewer than two samples would remain.
    """
    if fraction is None:
        return task
    num_samples = len(task.train)
    num_used = max(1, round(fraction * num_samples))
    if num_used < 2:
        raise DataError(
            f"{fraction:g} leaves {num_used} of {num_samples} training samples, fewer than 2",
            where="task.train_fraction",
            hint="use a larger fraction",
        )
    # Proportions are defined only if each sample has a single class.
    classes = None
    if task.kind == "classes":
        classes = task.train.targets()
    # Derived, so that this draw is independent of the draw of splits with the same seed.
    draw_seed = seeding.derive(seed, "train_fraction")
    # `split` takes train from the end of one order, so a smaller part is contained in a larger one.
    drawn = split(
        num_samples, validation=0, test=0, train=num_used, seed=draw_seed, classes=classes
    )
    manner = f"task.train_fraction={fraction:g}"
    consequence = ""
    if classes is not None:
        manner += ", stratified by class"
        # A part with fewer samples than classes cannot contain every class.
        drawn_classes = np.unique(classes[drawn.train])
        num_lost = len(np.unique(classes)) - len(drawn_classes)
        if num_lost > 0:
            consequence = f", so {num_lost} classes have no training sample"
    note = f"{num_used} of {num_samples} training samples are used ({manner}){consequence}"
    if task.note:
        note = f"{task.note}; {note}"
    return replace(task, train=Part(whole=task.train, rows=drawn.train), note=note)


class Joined:
    """Samples (see interfaces) of several splits of a task in sequence; samples are not copied.

    Equal group numbers in different splits are the same record, so a reader has to number records
    over all of its splits. If only some splits have a mask, samples of the other splits get a mask
    that is True everywhere.
    """

    def __init__(self, splits: Sequence[Samples]) -> None:
        self._splits = splits
        # Index of the first sample of each split, and the index after its last, [number of splits].
        sizes = list(map(len, splits))
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, in this order.

        The splits draw from the generator `augment` in sequence.
        """
        import torch

        owners = np.searchsorted(self._ends, indices, side="right")  # the split of each sample
        batches = []
        # One read for each split; the requested order is restored below.
        for owner in np.unique(owners):
            rows = indices[owners == owner] - self._starts[owner]
            samples = self._splits[owner]
            batches.append(samples.batch(rows, augment))
        # For each requested sample, its position in the concatenated batches.
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
        """Return the record of each sample, [n] int64; None if a split has no records."""
        records = []
        for samples in self._splits:
            groups = samples.groups()
            if groups is None:
                return None
            records.append(groups)
        return np.concatenate(records)

    def digest(self) -> str:
        """Return a SHA-256 over the digests of the splits."""
        digests = [samples.digest() for samples in self._splits]
        text = " ".join(["joined", *digests])
        return hashlib.sha256(text.encode()).hexdigest()


def _mask(batch: Batch) -> Tensor:
    """Return the mask of a batch; True everywhere if the batch has no mask."""
    import torch

    if batch.valid is None:
        return torch.ones_like(batch.x[:, 0], dtype=torch.bool)
    return batch.valid
