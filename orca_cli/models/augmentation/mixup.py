"""Mixtures of two samples and of their targets (mixup; Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Batch, InputFacts
from orca_cli.models.augmentation.samples import as_array, per_channel, with_inputs


@dataclass(frozen=True)
class Mixup:
    """Mixes each sample with another one of its batch; an Augmentation (interfaces).

    One share is drawn for a batch, from a Beta distribution; a sample's own part is the larger one. Numbers are mixed as the
    inputs are. For classes and labels the loss is the mean of both targets' losses by the same shares, which serves every
    loss. A sample keeps its length: beyond the end of the other one, the channels' means are mixed in.

    Args:
        alpha: both parameters of the distribution; small ones make most mixtures nearly pure.
    """

    alpha: Positive = 0.2
    whole_batch: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"dense": "the map of a mixture is not the mixture of maps"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch mixed, with the partners' targets unless the targets are mixed too."""
        share = float(generator.beta(self.alpha, self.alpha))
        share = max(share, 1 - share)
        order = torch.from_numpy(generator.permutation(len(batch.x)))
        x = as_array(batch)
        partner = batch.x[order].numpy()
        if batch.valid is not None:
            partner = np.where(batch.valid[order].numpy()[:, None], partner, per_channel(facts.mean, x))
        mixed = with_inputs(batch, np.float32(share) * x + np.float32(1 - share) * partner)
        if facts.kind == "values":
            return replace(mixed, y=share * batch.y + (1 - share) * batch.y[order])
        return replace(mixed, partner=batch.y[order], share=share)
