"""How arrays in files become inputs and targets: layout and scale of the channels, form of the targets.

Inputs of another shape or dtype than the training inputs', NaN and infinity raise DataError.

Shapes: n samples, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared.own_data import counted
from orca_cli.tasks.shared.samples import ChannelScale, as_inputs, blocks
from orca_cli.tasks.shared.targets import TargetForm, check_finite
from orca_cli.untrusted.arrays import StoredArray


@dataclass(frozen=True)
class ArrayPreprocessing:
    """What the training arrays say about the inputs and targets of all splits.

    Args:
        stored_shape: of one sample in the files: (L), (C, L) or (C, H, W), or (L, C) or (H, W, C).
        channels_last: whether channels are the last axis.
        targets: form of the targets.
        scale: of the channels; None leaves inputs as they are.
    """

    stored_shape: tuple[int, ...]
    channels_last: bool
    targets: TargetForm
    scale: ChannelScale | None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *E)."""
        return _oriented_shape(self.stored_shape, self.channels_last)

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Check shape and dtype of inputs, which may be in a file still."""
        _check_dtype(x.dtype, where)
        if x.shape[1:] != self.stored_shape:
            what = f"samples have shape {x.shape[1:]}, those of the training set {self.stored_shape}"
            raise DataError(what, where=where)

    def oriented(self, x: np.ndarray, where: str) -> np.ndarray:
        """Return inputs as [n, C, *E], without copying."""
        self.check(x, where)
        if x.ndim == 2:
            x = x[:, None]
        elif self.channels_last:
            x = np.moveaxis(x, -1, 1)
        done = 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, offset=done)
            done += len(block)
        return x

    def inputs(self, raw: np.ndarray, where: str = "inputs") -> tuple[Tensor, None]:
        """Return inputs as Batch.x, from an array [B, ...] as in the files."""
        return as_inputs(self.oriented(raw, where), self.scale), None


def _check_dtype(dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "fiub":
        raise DataError(f"inputs have dtype {dtype}", where=where, hint="allowed: real numbers, such as float32")


def _oriented_shape(sample: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    if len(sample) == 1:
        return (1, *sample)
    return (sample[-1], *sample[:-1]) if channels_last else sample


def input_shape(x: StoredArray, channels_last: bool) -> tuple[tuple[int, ...], str]:
    """Return the shape (C, *E) of training inputs in a file, and a note on it; DataError for other shapes and dtypes."""
    _check_dtype(x.dtype, x.where)
    shape = x.shape
    if not 2 <= len(shape) <= 4 or 0 in shape:
        hint = "allowed: (n, L), (n, C, L) and (n, C, H, W); with task.channels_last=true (n, L, C) and (n, H, W, C)"
        raise DataError(f"inputs have shape {shape}", where=x.where, hint=hint)
    sample = _oriented_shape(shape[1:], channels_last)
    note = f"inputs {shape} read as {counted(sample[0], 'channel')} of {' x '.join(map(str, sample[1:]))}"
    if len(shape) == 3 and not channels_last and sample[0] > 4 and abs(sample[0] - sample[1]) <= sample[1] // 2:
        note += " (images of one channel are n x 1 x H x W)"
    return sample, note
