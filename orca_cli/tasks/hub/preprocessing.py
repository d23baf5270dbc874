"""Inputs of rows of a `datasets` data set: laid out, gaps filled, scaled.

Shapes: C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from orca_cli.interfaces import NewData
from orca_cli.tasks.hub.layout import ColumnLayout
from orca_cli.tasks.hub.new_data import new_rows
from orca_cli.tasks.shared.gaps import Gaps, samples_with_gaps
from orca_cli.tasks.shared.samples import ChannelScale, as_inputs
from orca_cli.tasks.shared.target_encoding import check_finite
from orca_cli.tasks.shared.targets import TargetForm

if TYPE_CHECKING:
    pass


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
        channels, *extent = self.layout.shape
        return (channels + (0 if self.gaps is None else len(self.gaps.flagged)), *extent)

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
        found, length = {}, self.layout.shape[-1]
        if self.layout.padded:
            found[f"longer than {length} steps and cut at the end"] = int((self.layout.steps(raw) > length).sum())
        if self.gaps is not None:
            x = self.layout.decode(raw, where)[0]
            found[f"with missing values, filled by task.gaps={self.gaps.how}"] = samples_with_gaps(x)
        return {what: count for what, count in found.items() if count}

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.layout.padded

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of a folder or hub id, from one of its splits, with targets where it has that column."""
        return new_rows(path, where, part, self.columns, self.config, self.layout, self.targets)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return rows from the values of the input column: a list of lists or arrays, or one array."""
        if isinstance(x, np.ndarray) and x.dtype.kind in "iub":
            x = x.astype(np.float64)
        return NewData(len(x), lambda start, stop: x[start:stop], lambda: None, where)
