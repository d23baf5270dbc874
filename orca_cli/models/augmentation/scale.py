"""Larger or smaller swings of every channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, per_channel, with_inputs


@dataclass(frozen=True)
class Scale:
    """Multiplies each channel of each sample by a factor of its own, about the channel's mean; an Augmentation (interfaces).

    Args:
        strength: deviation of the factor's logarithm: 0.1 makes most factors 0.8 to 1.2.
    """

    strength: Positive = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with its channels scaled."""
        x = as_array(batch)
        drawn = generator.standard_normal(x.shape[:2])
        factors = np.exp(self.strength * np.clip(drawn, -3, 3)).astype(np.float32)
        mean = per_channel(facts.mean, x)
        return with_inputs(batch, mean + (x - mean) * factors.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)))
