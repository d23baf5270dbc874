"""A stretch of a series that is not seen (as in SpecAugment; Park et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from orca_cli.config.ranges import Fraction
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, positions, with_inputs


@dataclass(frozen=True)
class TimeMask:
    """Replaces a stretch of each series by its channels' means; an Augmentation (interfaces).

    Args:
        longest: of a stretch, as a part of the series; each is drawn from 0 to there.
    """

    longest: Fraction = 0.2
    dimensions: ClassVar[tuple[int, ...]] = (1,)

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with a stretch of each series hidden."""
        x = as_array(batch)
        mean = facts.mean.astype(np.float32)[:, None]
        for sample, (size, start) in enumerate(generator.random((len(x), 2))):
            places = positions(batch, sample)
            length = round(self.longest * size * len(places))
            first = int(start * (len(places) - length + 1))
            x[sample][:, places[first : first + length]] = mean
        return with_inputs(batch, x)
