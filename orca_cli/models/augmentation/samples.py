"""Samples whose batches are augmented in the optimizer steps of stage 3, and in no other place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.interfaces import Augmentation, Batch, InputFacts, Kind, Samples

_MEASURED = 512  # samples that means and deviations are taken over
_AT_ONCE = 32
_CONSTANT = 1e-6  # deviation, as a part of the mean, below which a channel is constant


@dataclass(frozen=True)
class Augmented:
    """A split whose batches are augmented, after its own augmentation, when they are requested with a generator.

    Only optimizer steps give one, so validation, test, alignment and folds that are held out see the samples as they are.
    """

    whole: Samples
    part: Augmentation
    facts: InputFacts

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, augmented where there is a generator."""
        batch = self.whole.batch(indices, augment)
        return batch if augment is None else self.part(batch, augment, self.facts)

    def targets(self) -> np.ndarray:
        """Return those of the split."""
        return self.whole.targets()

    def groups(self) -> np.ndarray | None:
        """Return those of the split."""
        return self.whole.groups()

    def digest(self) -> str:
        """Return that of the split."""
        return self.whole.digest()


def measure(samples: Samples, kind: Kind, seed: int) -> InputFacts:
    """Return the mean and deviation of each input channel, over at most 512 training samples drawn by the seed."""
    generator = seeding.numpy_generator(seed, "augment", "facts")
    rows = np.sort(generator.permutation(len(samples))[:_MEASURED])

    def mean_of(power: int, centre: np.ndarray) -> np.ndarray:
        total, count = np.zeros(1), 0.0
        for start in range(0, len(rows), _AT_ONCE):
            batch = samples.batch(rows[start : start + _AT_ONCE])
            x = batch.x.flatten(2).double().numpy()
            valid = np.ones(x[:, 0].shape, bool) if batch.valid is None else batch.valid.flatten(1).numpy()
            total = total + (np.where(valid[:, None], x - centre[:, None], 0) ** power).sum(axis=(0, 2))
            count += float(valid.sum())
        return total / max(count, 1)

    mean = mean_of(1, np.zeros(1))
    deviation = np.sqrt(mean_of(2, mean))
    return InputFacts(kind, mean, np.where(deviation <= _CONSTANT * np.abs(mean), 0.0, deviation))


def as_array(batch: Batch) -> np.ndarray:
    """Return the inputs [B, C, *E] float32 as a copy."""
    return batch.x.numpy().copy()


def with_inputs(batch: Batch, x: np.ndarray) -> Batch:
    """Return a batch with other inputs of the same shape; where the input is padding, the old ones stay."""
    if batch.valid is not None:
        x = np.where(batch.valid.numpy()[:, None], x, batch.x.numpy())
    return replace(batch, x=torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))


def per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return one float32 number for each channel, [C], so that it broadcasts against inputs [B, C, *E]."""
    return values.astype(np.float32).reshape(-1, *(1,) * (x.ndim - 2))


def positions(batch: Batch, sample: int) -> np.ndarray:
    """Return the positions of a series (n, C, L) that are data, ascending."""
    if batch.valid is None:
        return np.arange(batch.x.shape[2])
    return np.flatnonzero(batch.valid[sample].numpy())
