"""Samples of several splits as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from orca_cli.interfaces import Batch, Samples


class Joined:
    """Samples (see interfaces) of several splits one after the other, none of which is copied.

    Args:
        parts: of one task, so that their inputs and targets have one shape, and their records one numbering.
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
        found = [self._parts[part].batch(indices[owner == part] - starts[part], augment) for part in np.unique(owner)]
        if len(found) == 1:
            return found[0]
        order = torch.from_numpy(np.argsort(np.argsort(owner, kind="stable")))
        x, y = (torch.cat([getattr(batch, name) for batch in found])[order] for name in ("x", "y"))
        if all(batch.valid is None for batch in found):
            return Batch(x, y)
        known = [
            torch.ones((len(batch.x), *batch.x.shape[2:]), dtype=torch.bool) if batch.valid is None else batch.valid
            for batch in found
        ]
        return Batch(x, y, torch.cat(known)[order])

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return np.concatenate([part.targets() for part in self._parts])

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64; None where a part has none."""
        found = [groups for part in self._parts if (groups := part.groups()) is not None]
        return np.concatenate(found) if len(found) == len(self._parts) else None

    def digest(self) -> str:
        """Return a SHA-256 over the parts' own."""
        return hashlib.sha256(" ".join(["joined", *(part.digest() for part in self._parts)]).encode()).hexdigest()
