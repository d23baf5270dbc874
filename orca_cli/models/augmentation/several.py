"""Several augmentations, one after the other."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config.ranges import Share
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Augmentation, Batch, InputFacts


class Several:
    """Applies its parts to each sample in their order, each with the same probability; an Augmentation (interfaces).

    A part that works on whole batches, such as mixup, is always applied. Each part draws for itself: leaving one out
    changes no other's draws.

    Args:
        probability: that a part is applied to a sample.
        parts: name -> augmentation; null leaves one out.
    """

    def __init__(self, probability: Share = 0.5, **parts: Augmentation | None) -> None:
        if wrong := [name for name, part in parts.items() if not (part is None or callable(part))]:
            hint = "give a `_target_` node, or null"
            raise ConfigError(f"{parts[wrong[0]]!r} is not an augmentation", where=f"augment.{wrong[0]}", hint=hint)
        mixing = [name for name, part in parts.items() if getattr(part, "whole_batch", False)]
        if len(mixing) > 1:
            what = f"{' and '.join(mixing)} would mix what is mixed already"
            raise ConfigError(what, where="augment", hint=f"leave one out: augment.{mixing[-1]}=null")
        self._probability = probability
        self._parts = {name: part for name, part in parts.items() if part is not None}

    @property
    def refused(self) -> Mapping[str, str]:
        """Return the kinds that a part is not for."""
        parts = self._parts.items()
        return {kind: f"{name}: {why}" for name, part in parts for kind, why in getattr(part, "refused", {}).items()}

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Return those that all parts are for."""
        each = [set(getattr(part, "dimensions", (1, 2, 3))) for part in self._parts.values()]
        return tuple(sorted(set.intersection({1, 2, 3}, *each)))

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with each part applied to some of its samples."""
        seed = int(generator.integers(2**62))
        for name, part in self._parts.items():
            part_generator = seeding.numpy_generator(seed, name)
            rows = torch.from_numpy(np.flatnonzero(part_generator.random(len(batch.x)) < self._probability))
            if getattr(part, "whole_batch", False):
                batch = part(batch, part_generator, facts)
            elif len(rows):
                changed = vars(part(batch.mapped(operator.itemgetter(rows)), part_generator, facts))
                tensors = {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
                joined: Any = {key: value.index_copy(0, rows, changed[key]) for key, value in tensors.items()}
                batch = replace(batch, **joined)
        return batch
