"""Mirrored images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from orca_cli.config.ranges import Share
from orca_cli.interfaces import Batch, InputFacts


@dataclass(frozen=True)
class Flip:
    """Mirrors images from left to right, and dense targets with them; an Augmentation (interfaces).

    It is for images whose mirror image is as good an example: not for text, digits, or maps with a direction.

    Args:
        probability: of each image.
    """

    probability: Share = 0.5
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with some images mirrored."""
        chosen = torch.from_numpy(generator.random(len(batch.x)) < self.probability)

        def mirrored(value: Tensor) -> Tensor:
            return torch.where(chosen.reshape(-1, *(1,) * (value.ndim - 1)), value.flip(-1), value)

        y = mirrored(batch.y) if facts.kind == "dense" else batch.y
        valid = None if batch.valid is None else mirrored(batch.valid)
        return replace(batch, x=mirrored(batch.x), y=y, valid=valid)
