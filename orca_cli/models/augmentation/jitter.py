"""Noise on every value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, per_channel, with_inputs


@dataclass(frozen=True)
class Jitter:
    """Adds independent Gaussian noise to every value; an Augmentation (interfaces).

    Args:
        strength: deviation of the noise, in units of each channel's own.
    """

    strength: Positive = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with noise on its inputs."""
        x = as_array(batch)
        noise = generator.standard_normal(x.shape, dtype=np.float32)
        return with_inputs(batch, x + noise * per_channel(self.strength * facts.deviation, x))
