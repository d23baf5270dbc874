"""A part of a series, stretched to the whole length (window slicing; Le Guennec et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from orca_cli.config.ranges import Fraction
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, positions, with_inputs


@dataclass(frozen=True)
class WindowSlice:
    """Cuts a window out of each series and resizes it to the series' own length; an Augmentation (interfaces).

    All channels are cut alike. Values between two steps are interpolated linearly, so it is for measurements and not for
    symbols. Of padded series only the data are cut and stretched.

    Args:
        least: smallest window, as a part of the series; each is drawn from there to the whole.
    """

    least: Fraction = 0.8
    dimensions: ClassVar[tuple[int, ...]] = (1,)
    refused: ClassVar[Mapping[str, str]] = {"dense": "targets at positions would not move with the inputs"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with a window of each series in its place."""
        x = as_array(batch)
        drawn = generator.random((len(x), 2))
        for sample, (size, start) in enumerate(drawn):
            places = positions(batch, sample)
            last = len(places) - 1
            if last < 1:
                continue
            span = last * (self.least + (1 - self.least) * size)
            sampled = (last - span) * start + np.linspace(0, span, len(places))
            below = np.minimum(sampled.astype(np.int64), last - 1)
            part = (sampled - below).astype(np.float32)
            series = x[sample][:, places]
            x[sample][:, places] = series[:, below] * (1 - part) + series[:, below + 1] * part
        return with_inputs(batch, x)
