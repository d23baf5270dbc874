"""What augmentations have in common: inputs as arrays, a batch with other inputs, what is known of a channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from orca_cli.interfaces import Batch


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
