"""One split of a `datasets` data set, its inputs decoded batch by batch from the mapped file.

Shapes: n rows of the split, N rows that it is drawn from, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from orca_cli import signals
from orca_cli.interfaces import Batch
from orca_cli.tasks.hub.columns import open_column
from orca_cli.tasks.hub.layout import ColumnLayout
from orca_cli.tasks.hub.preprocessing import HubPreprocessing

if TYPE_CHECKING:
    from datasets import Dataset


_BLOCK = 256  # rows that are decoded at once


@dataclass(frozen=True)
class HubSamples:
    """One split (see interfaces): targets in memory, inputs read from the mapped file on demand.

    Args:
        values: gives those of the input column (see `open_column`), of what the split is drawn from.
        preprocessing: how they become inputs.
        y: [N, ...] as Batch.y.
        chosen: [n] indices of this split's rows.
        where: split and column, for messages.
        records: [N] int64, the record of each row; None where rows stand alone.
    """

    values: Callable[[np.ndarray], np.ndarray | list]
    preprocessing: HubPreprocessing
    y: np.ndarray
    chosen: np.ndarray
    where: str
    records: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; nothing is augmented."""
        rows = self.chosen[np.asarray(indices, dtype=np.int64)]
        x, valid = self.preprocessing.inputs(self.values(rows), self.where, list(rows))
        return Batch(x, torch.from_numpy(self.y[rows].copy()), valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self.y[self.chosen]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self.records is None else self.records[self.chosen]

    def digest(self) -> str:
        """Return a SHA-256 over inputs as the model takes them, masks, targets and records."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK):
            signals.check()
            batch = self.batch(np.arange(start, min(start + _BLOCK, len(self))))
            for part in (batch.x, batch.valid, batch.y):
                if part is not None:
                    digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                    digest.update(part.numpy().tobytes())
        groups = self.groups()
        if groups is not None:
            digest.update(groups.tobytes())
        return digest.hexdigest()


def steps_of_rows(rows: Dataset, column: str, layout: ColumnLayout) -> np.ndarray | None:
    """Return how many steps each row has in the data, [n] int64; None where rows are not padded."""
    if not layout.padded:
        return None
    values, found = open_column(rows, column, layout), []
    for start in range(0, len(rows), _BLOCK):
        signals.check()
        found.append(layout.steps(values(np.arange(start, min(start + _BLOCK, len(rows))))))
    return np.concatenate(found)


def decoded_parts(
    rows: Dataset, column: str, layout: ColumnLayout, chosen: np.ndarray, where: str, advance: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the inputs of chosen rows in parts [B, C, *E], each with [B, C, *E] bool that is False at padding and gaps."""
    values = open_column(rows, column, layout)
    for start in range(0, len(chosen), _BLOCK):
        signals.check()
        indices = chosen[start : start + _BLOCK]
        x, valid = layout.decode(values(indices), where, list(indices))
        yield x, ~np.isnan(x) if valid is None else ~np.isnan(x) & valid[:, None]
        advance(len(indices))
