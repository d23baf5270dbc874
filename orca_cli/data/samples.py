"""A split in arrays, in memory or mapped from a file: its scale, missing values (NaN) and batches.

Shapes: N rows of the arrays, n samples of the split, B samples of a batch, C channels, I channels
that have an indicator, *E the extent (L, or H x W), K outputs.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.data.blocks import AnyArray, Ragged, blocks, masked_blocks, read
from orca_cli.data.own_data import described_extent, listed
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Batch, Scale
from orca_cli.terminal import counted

How = Literal["mean", "linear"]
# Largest distance of a mean from zero, in standard deviations, for float32 targets: 20 of the 24
# bits of float32 still resolve the deviations.
_FARTHEST = 2.0**4


@dataclass(frozen=True)
class Gaps:
    """The values that replace missing values (NaN) in inputs.

    `fit_inputs` learns them, and they are saved with the run. "mean" uses the channel's training
    mean. "linear" interpolates along a sequence between the nearest known values on both sides; it
    repeats the first known value before it and the last known value after it, and uses the mean if
    a channel of a sample has no known value. Padding never counts as missing.
    """

    how: How
    fill: np.ndarray  # [C] float64, mean of each channel over the training split
    # The I channels that get an indicator, which is 1 where a value was missing, else 0.
    flagged: tuple[int, ...] = ()

    def filled(
        self, x: np.ndarray, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [B, C, *E] without NaN, and the indicator channels [B, I, *E] bool.

        Inputs without missing values are returned unchanged, others as float64. `valid` [B, *E] is
        False at padding, where NaN stays; None means that the inputs have no padding.
        """
        is_missing = np.isnan(x)
        if valid is not None:
            is_missing &= valid[:, None]
        indicators = is_missing[:, list(self.flagged)]  # [B, I, *E]
        if not is_missing.any():
            return x, indicators
        # In float64, because a mean in float32 would differ from the mean that the scale subtracts.
        means = _per_channel(self.fill, x.ndim)
        filled = np.where(is_missing, means, x.astype(np.float64))
        if self.how == "linear":
            # Each channel of a sample, a series [L], that has a gap.
            for sample, channel in np.argwhere(is_missing.any(axis=-1)):
                is_gap = is_missing[sample, channel]
                is_known = ~is_gap
                if valid is not None:
                    is_known &= valid[sample]
                known_steps = np.flatnonzero(is_known)
                # If no step is known, the mean stays.
                if len(known_steps) > 0:
                    series = filled[sample, channel]
                    gap_steps = np.flatnonzero(is_gap)
                    series[is_gap] = np.interp(gap_steps, known_steps, series[known_steps])
        return filled, indicators


def _per_channel(numbers: np.ndarray, ndim: int) -> np.ndarray:
    """Return numbers [C] in a shape that broadcasts over arrays [n, C, *E] of `ndim` axes."""
    single_axes = (1,) * (ndim - 2)
    return numbers.reshape(-1, *single_axes)


def count_missing(x: AnyArray) -> int:
    """Return the number of inputs [n, C, *E] that contain NaN."""
    if x.dtype.kind != "f":
        return 0
    count = 0
    for block in blocks(x, np.arange(len(x))):
        # A sample counts once, however many values are missing.
        is_missing = np.isnan(block).reshape(len(block), -1)
        count += int(np.count_nonzero(is_missing.any(axis=1)))
    return count


def remarks(steps: np.ndarray, length: int) -> dict[str, int]:
    """Return a remark on sequences that are longer than `length`, with their number.

    `steps` [n] are the lengths of the sequences. Empty if all sequences fit.
    """
    num_longer = int((steps > length).sum())
    if num_longer == 0:
        return {}
    return {f"with more than {length} steps (the rest is cut off)": num_longer}


@dataclass(frozen=True)
class ChannelScale:
    """The mean of each channel, which is subtracted, and its standard deviation, the divisor.

    `fit_inputs` computes both over the training split.
    """

    mean: np.ndarray  # [C] float64
    std: np.ndarray  # [C] float64; 1 for constant channels


class ArraySamples:
    """Samples (see interfaces) over arrays.

    Inputs become float32 batch by batch, and are never copied as a whole.

    Args:
        x: inputs [N, C, *E] of any real dtype, which may be a memory map; or `Ragged` sequences.
        y: targets [N, ...], shaped as Batch.y.
        valid: [N, *E] bool, False where the input is padding; None if the inputs have no padding or
            are `Ragged`.
        rows: [n] rows of this split; None takes all rows.
        scale: the scale of the inputs; None keeps them unscaled.
        groups: [N] int64, the record that each row is cut from; None if rows are independent.
        gaps: the values that replace missing inputs; None leaves inputs as they are.
    """

    def __init__(
        self,
        x: AnyArray,
        y: np.ndarray,
        valid: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        scale: ChannelScale | None = None,
        groups: np.ndarray | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} inputs, {len(y)} targets")
        if rows is None:
            rows = np.arange(len(x))
        self._x = x
        self._y = y
        self._valid = valid
        self._rows = rows
        self._scale = scale
        self._groups = groups
        self._gaps = gaps

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; `augment` is not used."""
        rows = self._rows[indices]
        x, valid = read(self._x, rows)
        # `Ragged` sequences make their own mask.
        if self._valid is not None:
            valid = self._valid[rows]
        inputs, mask = as_inputs(x, valid, self._scale, self._gaps)
        targets = self._y[rows].copy()
        return Batch.from_arrays(inputs, targets, mask)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        if self._groups is None:
            return None
        return self._groups[self._rows]

    def digest(self) -> str:
        """Return a SHA-256 over shape, dtype and bytes of all arrays, including the scale."""
        digest = hashlib.sha256()

        # Order, names and headers are part of the digests that runs have recorded.
        def add(name: str, array: AnyArray, rows: np.ndarray) -> None:
            shape = (len(rows), *array.shape[1:])
            header = f"{name} {array.dtype.str} {shape}"
            digest.update(header.encode())
            for block in blocks(array, rows):
                digest.update(block.tobytes())

        arrays: dict[str, AnyArray | None] = {
            "x": self._x,
            "y": self._y,
            "valid": self._valid,
            "groups": self._groups,
        }
        if isinstance(self._x, Ragged):
            arrays["lengths"] = self._x.lengths
        for name, array in arrays.items():
            if array is not None:
                add(name, array, self._rows)
        if self._scale is not None:
            channels = np.arange(len(self._scale.mean))
            add("mean", self._scale.mean, channels)
            add("std", self._scale.std, channels)
        gaps = self._gaps
        if gaps is not None:
            header = f"gaps {gaps.how} {gaps.flagged}"
            digest.update(header.encode())
            digest.update(gaps.fill.tobytes())
        return digest.hexdigest()


def as_inputs(
    x: np.ndarray,
    valid: np.ndarray | None,
    scale: ChannelScale | None = None,
    gaps: Gaps | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return inputs [B, C, *E] of any real dtype as Batch.x and Batch.valid.

    `valid` [B, *E] is False at padding, or None if the inputs have no padding. Missing values are
    filled first, then inputs are scaled, then padding becomes 0. The indicator channels of `gaps`
    are appended last and are not scaled. Without `gaps` or `scale`, that step is skipped.
    """
    indicators = None
    if gaps is not None:
        x, indicators = gaps.filled(x, valid)
    if scale is not None:
        # In float64, because float32 would lose a small signal on a large offset.
        mean = _per_channel(scale.mean, x.ndim)
        std = _per_channel(scale.std, x.ndim)
        x = (x - mean) / std
    if valid is not None:
        # Values after the end of a sequence may be anything, including NaN.
        x = np.where(valid[:, None], x, 0)
    if indicators is not None:
        x = np.concatenate([x, indicators], axis=1)  # [B, C + I, *E]
    # Rounded to float32 only after all arithmetic.
    return np.ascontiguousarray(x.astype(np.float32)), valid


@dataclass(frozen=True)
class FittedInputs:
    """The scale and fill values of inputs that `fit_inputs` learned from the training rows."""

    scale: ChannelScale
    gaps: Gaps
    notes: list[str]  # notes on filled values; may be empty
    warnings: list[str]  # warnings about constant channels; may be empty


@dataclass(frozen=True)
class _Moments:
    """Mean and variance [C] float64 of inputs, and the number of missing values [C]."""

    mean: np.ndarray  # NaN for a channel that has no known value
    variance: np.ndarray
    num_missing: np.ndarray


def fit_inputs(
    x: AnyArray,
    rows: np.ndarray,
    has_gaps: bool,
    how: How,
    indicator: bool,
    where: str,
) -> FittedInputs:
    """Return the scale of inputs [N, C, *E], the values that replace gaps, and notes on both.

    They are learned from the training rows alone, without padding and missing values. Constant
    channels get the standard deviation 1. ConfigError for linear filling of inputs that are not
    sequences, DataError for a channel that has no known value in the training rows.

    Args:
        x: inputs of all rows.
        rows: [n] training rows.
        has_gaps: whether any input of any row is NaN.
        how: the way in which missing values are filled.
        indicator: whether channels with missing values in the training rows get an indicator
            channel.
        where: origin of the inputs, for messages.
    """
    if how == "linear" and x.ndim != 3:
        extent = described_extent(x.shape[2:])
        raise ConfigError(
            f"'linear' applies only to sequences, but each channel of the inputs is {extent}",
            where="task.gaps",
            hint="use task.gaps=mean",
        )
    if isinstance(x, Ragged) or has_gaps:
        moments = _moments_of_known(x, rows)
    else:
        moments = _moments(x, rows)
    # The mean of a channel that has no known value is NaN.
    unknown_channels = np.flatnonzero(np.isnan(moments.mean))
    if len(unknown_channels) > 0:
        raise DataError(
            f"has channels with only NaN in the training split: {listed(unknown_channels)}",
            where=where,
            hint="remove these channels",
        )
    deviations = np.sqrt(moments.variance)
    # Sums of many equal numbers have rounding errors; such a small deviation is not variation in
    # the data.
    is_constant = deviations <= 1e-12 * np.abs(moments.mean)
    warnings = []
    if is_constant.any():
        channels = listed(np.flatnonzero(is_constant))
        warnings.append(f"warning: channels that are constant in the training split: {channels}")
    flagged: tuple[int, ...] = ()
    if indicator:
        channels_with_gaps = np.flatnonzero(moments.num_missing)
        flagged = tuple(channels_with_gaps.tolist())
    gaps = Gaps(how=how, fill=moments.mean, flagged=flagged)
    notes = []
    if moments.num_missing.any():
        notes.append(_note_on_filling(gaps, moments.num_missing))
    # Standard deviation 1 prevents a division by 0 for a constant channel.
    scale = ChannelScale(mean=moments.mean, std=np.where(is_constant, 1.0, deviations))
    return FittedInputs(scale=scale, gaps=gaps, notes=notes, warnings=warnings)


def _note_on_filling(gaps: Gaps, num_missing: np.ndarray) -> str:
    """Return a note on the filling of missing values.

    `num_missing` [C] is the number of missing values in the training rows.
    """
    filling = "are interpolated in time"
    if gaps.how == "mean":
        filling = "are replaced by the training mean of their channel"
    if gaps.flagged:
        indicators = counted(len(gaps.flagged), "indicator channel")
        filling += f" and flagged in {indicators}"
    channels = f"{np.count_nonzero(num_missing)} of {counted(len(num_missing), 'channel')}"
    return f"{num_missing.sum()} missing values in {channels} {filling} (task.gaps={gaps.how})"


def _moments(x: np.ndarray, rows: np.ndarray) -> _Moments:
    """Return the moments of inputs that have neither padding nor gaps, in two passes."""
    num_channels = x.shape[1]
    other_axes = (0, *range(2, x.ndim))
    num_values = len(rows) * math.prod(x.shape[2:])  # values of each channel
    mean = np.zeros(num_channels)
    for block in blocks(x, rows):
        mean += block.sum(axis=other_axes, dtype=np.float64) / num_values
    squares = np.zeros(num_channels)
    for block in blocks(x, rows):
        deviations = block - _per_channel(mean, x.ndim)
        squares += (deviations**2).sum(axis=other_axes)
    num_missing = np.zeros(num_channels, dtype=np.int64)
    return _Moments(mean=mean, variance=squares / num_values, num_missing=num_missing)


def _moments_of_known(x: AnyArray, rows: np.ndarray) -> _Moments:
    """Return the moments of the known values of inputs, without padding and gaps, in one pass."""
    other_axes = (0, *range(2, x.ndim))
    num_missing = np.zeros(x.shape[1], dtype=np.int64)  # [C], as all sums below
    num_known = np.zeros(x.shape[1])
    mean = np.zeros_like(num_known)
    squares = np.zeros_like(num_known)
    for block, valid in masked_blocks(x, rows):
        is_missing = np.isnan(block)  # [B, C, *E]
        is_known = ~is_missing
        if valid is not None:
            is_known &= valid[:, None]
        block_known = is_known.sum(axis=other_axes).astype(np.float64)  # [C]
        total_known = np.maximum(num_known + block_known, 1)
        known_sums = np.where(is_known, block, 0).sum(axis=other_axes, dtype=np.float64)
        block_mean = known_sums / np.maximum(block_known, 1)
        # Deviations are from the mean of the block, so that no large offset is squared.
        deviations = np.where(is_known, block - _per_channel(block_mean, x.ndim), 0)
        deviations = deviations.astype(np.float64)
        squares += (deviations**2).sum(axis=other_axes)
        shift = block_mean - mean
        squares += shift**2 * num_known * block_known / total_known
        mean += shift * block_known / total_known
        num_known += block_known
        num_missing += is_missing.sum(axis=other_axes)
    return _Moments(
        mean=np.where(num_known > 0, mean, np.nan),
        variance=squares / np.maximum(num_known, 1),
        num_missing=num_missing,
    )


def target_scale(y: np.ndarray) -> Scale:
    """Return the mean and standard deviation [K, 1, ...] of each output of targets [n, K, *E].

    They are float32, or float64 if float32 is too coarse for an output whose mean is far from zero:
    if rounding changes the mean by more than 2^-20 of the deviation. Missing targets (NaN) do not
    count. The deviation is 1 for outputs that are constant up to rounding. Every output needs a
    known target.
    """
    means, deviations = _target_moments(y)
    # A single far output makes all outputs float64, because an array has one dtype.
    is_far = np.abs(means) > _FARTHEST * deviations
    dtype = np.dtype("float64" if is_far.any() else "float32")
    # Computed again from targets of this dtype, because the model sees these.
    means, deviations = _target_moments(y.astype(dtype))
    mean = _per_channel(means, y.ndim).astype(dtype)
    std = _per_channel(deviations, y.ndim).astype(dtype)
    return Scale(mean=mean, std=std)


def _target_moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation [K] float64 of the known targets of each output.

    A constant output has the deviation 1.
    """
    num_outputs = y.shape[1]
    means = np.empty(num_outputs)
    deviations = np.empty(num_outputs)
    for output in range(num_outputs):
        # In float64, because squares of targets above 1e19 or below 1e-22 are outside the range of
        # float32. One output at a time, to save memory.
        targets = y[:, output].reshape(-1)
        targets = targets.astype(np.float64)
        means[output] = np.nanmean(targets)
        deviations[output] = np.nanstd(targets)
    is_constant = deviations <= rounding(y.dtype) * np.abs(means)
    return means, np.where(is_constant, 1.0, deviations)


def rounding(dtype: np.dtype) -> float:
    """Return the relative difference below which two numbers of a dtype differ by rounding only."""
    # The relative rounding error of float32 is 6e-8. That of float64 is 1e-16, but sums of many
    # numbers lose a few more digits.
    return 1e-7 if dtype == np.float32 else 1e-12
