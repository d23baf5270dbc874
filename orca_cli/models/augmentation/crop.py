"""Images moved by a few pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from orca_cli.config.ranges import Fraction
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, per_channel


@dataclass(frozen=True)
class Crop:
    """Moves each image by a random offset: a crop of it after padding with its channels' means; an Augmentation (interfaces).

    Where inputs are padded, what is padding moves with the image.

    Args:
        padding: largest offset along each axis, as a part of its length; 0.125 are 4 of 32 pixels.
    """

    padding: Fraction = 0.125
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    refused: ClassVar[Mapping[str, str]] = {"dense": "there is no target for what the crop adds at the border"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with its images moved."""
        x = as_array(batch)
        extent = np.array(x.shape[2:])
        most = np.round(self.padding * extent).astype(np.int64)
        offsets = generator.integers(-most, most + 1, size=(len(x), len(extent)))
        moved = np.zeros_like(x)  # what is padding holds zeros
        valid = None if batch.valid is None else torch.zeros_like(batch.valid)
        if valid is None:
            moved[:] = per_channel(facts.mean, x)
        for sample, offset in enumerate(offsets):
            target = tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(offset, extent, strict=True))
            source = tuple(slice(max(0, -d), n + min(0, -d)) for d, n in zip(offset, extent, strict=True))
            moved[sample][(slice(None), *target)] = x[sample][(slice(None), *source)]
            if valid is not None and batch.valid is not None:
                valid[sample][target] = batch.valid[sample][source]
        return replace(batch, x=torch.from_numpy(moved), valid=valid)
