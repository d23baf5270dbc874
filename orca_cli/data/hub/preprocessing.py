"""Rows of a `datasets` data set as inputs and targets: those of a split, decoded batch by batch, and new ones.

Shapes: n rows of the split, N rows that it is drawn from, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import signals
from orca_cli.config import configuration
from orca_cli.data.gaps import Gaps, remarks, with_indicators
from orca_cli.data.hub.columns import ColumnLayout, open_column, raw_targets
from orca_cli.data.hub.opening import open_dataset
from orca_cli.data.own_data import check_column
from orca_cli.data.samples import ChannelScale, as_inputs
from orca_cli.data.splits import PART_NAMES
from orca_cli.data.targets import TargetForm, check_finite
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, NewData

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK = 256  # rows that are decoded at once


@dataclass(frozen=True)
class HubPreprocessing:
    """What the training rows say about the inputs and targets of all rows; without scale, inputs stay as they are."""

    layout: ColumnLayout
    targets: TargetForm
    scale: ChannelScale | None
    columns: tuple[str, str] = ("", "")  # of inputs and targets
    config: str | None = None  # of the data sets that are opened
    gaps: Gaps | None = None  # None refuses missing numbers

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *E), with the indicator channels of gaps."""
        return with_indicators(self.layout.shape, self.gaps)

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.layout.padded

    def inputs(
        self, raw: Sequence[Any] | np.ndarray, where: str = "inputs", rows: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return values of a column as Batch.x and Batch.valid; arguments as those of `ColumnLayout.decode`."""
        x, valid = self.layout.decode(raw, where, rows)
        if self.gaps is None:
            check_finite(x, where)
        return as_inputs(x, self.scale, valid, self.gaps), None if valid is None else torch.from_numpy(valid)

    def remarks(self, raw: Sequence[Any] | np.ndarray, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new rows fit, each with the number of rows."""
        if self.layout.image_mode:
            return {}
        steps = self.layout.steps(raw) if self.layout.padded else None
        return remarks(steps, self.layout.shape[-1], self.gaps, lambda: self.layout.decode(raw, where)[0])

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of one split of a folder or hub id, with targets where it has that column.

        Raises:
            DataError: no such split or column, or several splits and no part.
        """
        folders = configuration.default_folders()
        splits, origin = open_dataset(str(path), self.config, None, folders["data"], folders["cache"])
        name = _split(splits, part, origin)
        rows, place, (x, y) = splits[name], f"{origin}[{name}]", self.columns
        check_column(x, rows.column_names, where, place)
        values = open_column(rows, x, bool(self.layout.image_mode))
        kind = self.targets.kind if self.targets.kind in ("classes", "labels") else "dense"

        def encoded() -> np.ndarray | None:
            if y not in rows.column_names:
                return None
            training_names = () if self.targets.classes else self.targets.names
            return self.targets.encode(raw_targets(kind, rows, y, f"{place}[{y}]", training_names), f"{place}[{y}]")

        return NewData(len(rows), lambda start, stop: values(np.arange(start, stop)), encoded, f"{place}[{x}]")

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return rows from the values of the input column: a list of lists or arrays, or one array."""
        if isinstance(x, np.ndarray) and x.dtype.kind in "iub":
            x = x.astype(np.float64)
        return NewData(len(x), lambda start, stop: x[start:stop], lambda: None, where)


def _split(splits: dict[str, Dataset], part: str, origin: str) -> str:
    """Return the name of the split that is asked for, or of the only one."""
    names = PART_NAMES[part] if part else splits if len(splits) == 1 else ()
    name = next((name for name in names if name in splits), None)
    if name is None or not len(splits[name]):
        what = f"has no rows in a split '{part}'" if part else f"holds {len(splits)} splits, or none with rows"
        raise DataError(what, where=origin, hint=f"it holds {', '.join(splits)}; name one by --part")
    return name


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
        for indices in row_blocks(np.arange(len(self))):
            batch = self.batch(indices)
            for part in (batch.x, batch.valid, batch.y):
                if part is not None:
                    digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                    digest.update(part.numpy().tobytes())
        groups = self.groups()
        if groups is not None:
            digest.update(groups.tobytes())
        return digest.hexdigest()


def row_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of rows that are decoded at once; signals are checked between."""
    for start in range(0, len(rows), _BLOCK):
        signals.check()
        yield rows[start : start + _BLOCK]
