"""Channels that are not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_cli.config.ranges import Fraction
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, per_channel, with_inputs


@dataclass(frozen=True)
class ChannelDropout:
    """Replaces whole channels by their means; an Augmentation (interfaces).

    A sample keeps one channel at least, so inputs of one channel stay as they are.

    Args:
        probability: of each channel of each sample.
    """

    probability: Fraction = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with some channels hidden."""
        x = as_array(batch)
        drawn = generator.random(x.shape[:2])
        hidden = drawn < self.probability
        hidden[np.arange(len(x)), drawn.argmax(axis=1)] = False  # that which is the last to be hidden
        hidden = hidden.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return with_inputs(batch, np.where(hidden, per_channel(facts.mean, x), x))
