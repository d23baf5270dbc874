"""Splits made of others: a part of one, for learning curves (paper, Figure 5), and several in a row."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.data.own_data import refuse_if
from orca_cli.data.splits import split
from orca_cli.interfaces import Batch, Samples, TaskData


@dataclass(frozen=True)
class Part:
    """Some samples (see interfaces) of a split, by `rows`, ascending indices [n] into the `whole`."""

    whole: Samples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices."""
        return self.whole.batch(self.rows[np.asarray(indices, dtype=np.int64)], augment)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self.whole.targets()[self.rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        groups = self.whole.groups()
        return None if groups is None else groups[self.rows]

    def digest(self) -> str:
        """Return a SHA-256 over the digest of the whole and the chosen rows."""
        return hashlib.sha256(
            f"{self.whole.digest()} {self.rows.dtype.str}".encode() + self.rows.tobytes()
        ).hexdigest()


def with_fraction(task: TaskData, fraction: float | None, seed: int) -> TaskData:
    """Return a task that trains on a part of its training split, with a note on it; the task itself where `fraction` is None.

    The part is drawn by the seed, every class in proportion, and a smaller one lies within a larger one. Validation and test
    stay as they are, and so do means and deviations, which are those of the whole. DataError where fewer than two samples
    would be left.
    """
    if fraction is None:
        return task
    total = len(task.train)
    classes = np.asarray(task.train.targets()) if task.kind == "classes" else None
    count = max(1, round(fraction * total))
    what = f"{fraction:g} leaves {count} of {total} training samples"
    refuse_if(count < 2, what, "task.train_fraction", "at least 2 are needed")
    seed = seeding.derive(seed, "train_fraction")
    drawn = split(total, validation=0, test=0, train=count, seed=seed, classes=classes)
    how = "" if classes is None else ", every class in proportion"
    note = f"{count} of {total} training samples are used (task.train_fraction={fraction:g}{how})"
    if classes is not None and (
        lost := len(np.unique(classes)) - len(np.unique(classes[drawn.train]))
    ):
        note += f", which leaves {lost} classes without any"
    return replace(
        task,
        train=Part(task.train, drawn.train),
        note=f"{task.note}; {note}" if task.note else note,
    )


class Joined:
    """Samples (see interfaces) of one or more splits of one task, one after the other, none of which is copied.

    Equal numbers in the parts' groups are one record: the reader has to number records over all of its splits. Samples of
    parts without a mask are all input where another part has one.
    """

    def __init__(self, parts: Sequence[Samples]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, in this order; the parts draw from `augment` one after the other."""
        indices = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._ends, indices, side="right")
        starts = self._ends - [len(part) for part in self._parts]
        batches = [
            self._parts[part].batch(indices[owner == part] - starts[part], augment)
            for part in np.unique(owner)
        ]
        order = torch.from_numpy(np.argsort(np.argsort(owner, kind="stable")))
        x, y = (
            torch.cat([getattr(batch, name) for batch in batches])[order] for name in ("x", "y")
        )
        if all(batch.valid is None for batch in batches):
            return Batch(x, y)
        masks = [
            torch.ones_like(one.x[:, 0], dtype=torch.bool) if one.valid is None else one.valid
            for one in batches
        ]
        return Batch(x, y, torch.cat(masks)[order])

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return np.concatenate([part.targets() for part in self._parts])

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64; None where a part has none."""
        records = [groups for part in self._parts if (groups := part.groups()) is not None]
        return np.concatenate(records) if len(records) == len(self._parts) else None

    def digest(self) -> str:
        """Return a SHA-256 over the parts' own."""
        return hashlib.sha256(
            " ".join(["joined", *(part.digest() for part in self._parts)]).encode()
        ).hexdigest()
