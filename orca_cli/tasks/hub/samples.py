"""One split of a `datasets` data set, decoded batch by batch from the mapped file.

Shapes: n rows of the split, N rows that it is drawn from, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from orca_cli import signals
from orca_cli.interfaces import Batch
from orca_cli.tasks.hub.preprocessing import ColumnLayout, HubPreprocessing

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK = 256  # rows that are decoded at once


class HubSamples:
    """One split (see interfaces): targets in memory, inputs read from the mapped file on demand.

    Args:
        rows: the split, or what splits are drawn from.
        column: of the inputs.
        preprocessing: how it becomes inputs.
        targets: [N, ...] as Batch.y, of all of `rows`.
        chosen: [n] indices of this split's rows.
        where: split and column, for messages.
        groups: [N] int64, the record of each row; None where rows stand alone.
    """

    def __init__(
        self,
        rows: Dataset,
        column: str,
        preprocessing: HubPreprocessing,
        targets: np.ndarray,
        chosen: np.ndarray,
        where: str,
        groups: np.ndarray | None = None,
    ) -> None:
        self._values = open_column(rows, column, preprocessing.layout)
        self._preprocessing, self._where = preprocessing, where
        self._y, self._chosen, self._groups = targets, chosen, groups

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices (0..n-1), in this order; nothing is augmented."""
        rows = self._chosen[np.asarray(indices, dtype=np.int64)]
        x, valid = self._preprocessing.inputs(self._values(rows), self._where, list(rows))
        return Batch(x, torch.from_numpy(self._y[rows].copy()), valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._chosen]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self._groups is None else self._groups[self._chosen]

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


def open_column(rows: Dataset, column: str, layout: ColumnLayout) -> Callable[[np.ndarray], np.ndarray | list]:
    """Return what gives the values of rows by their numbers, in the form that `ColumnLayout.decode` takes."""
    view = rows.select_columns([column])
    if layout.image_mode:
        import datasets

        view = view.cast_column(column, datasets.Image(decode=False))
    else:
        # float64: float32, the default, would round away a small signal on a large offset.
        view = view.with_format("numpy", dtype=np.float64)
    return lambda indices: view[[int(i) for i in indices]][column]


def decoded_parts(
    rows: Dataset, column: str, layout: ColumnLayout, chosen: np.ndarray, where: str, advance: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the inputs of chosen rows in parts [B, C, *E], each with [B, C, *E] bool that is False at padding."""
    values = open_column(rows, column, layout)
    for start in range(0, len(chosen), _BLOCK):
        signals.check()
        indices = chosen[start : start + _BLOCK]
        x, valid = layout.decode(values(indices), where, list(indices))
        yield x, np.broadcast_to(True if valid is None else valid[:, None], x.shape)
        advance(len(indices))
