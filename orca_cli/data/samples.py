"""One split of a task that lies in arrays, in memory or mapped from a file: its scale, its missing values (NaN), its batches.

Shapes: N rows of the arrays, n samples of the split, B of a batch, C channels, I channels with an indicator, *E the extent (L,
or H x W), K outputs.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from orca_cli.data.blocks import Ragged, blocks, parts, read
from orca_cli.data.own_data import check_rules, listed, refuse_if
from orca_cli.interfaces import Batch, Scale
from orca_cli.terminal import counted

How = Literal["mean", "linear"]
_FARTHEST = 2.0**4  # deviations between zero and a mean: float32 has 24 bits, of which 20 are left


@dataclass(frozen=True)
class Gaps:
    """What takes the place of missing values (NaN) in inputs; learned by `fit_inputs`, and kept with the run.

    "mean" puts the channel's training mean there. "linear" interpolates along a sequence between the nearest known values on
    both sides, repeats the nearest one before the first and after the last, and puts the mean where all of a sample's channel
    is missing. Padding is never missing.
    """

    how: How
    fill: np.ndarray  # [C] float64, each channel's mean over the training set
    flagged: tuple[
        int, ...
    ] = ()  # the I channels that get an indicator, 1 where a value was missing, else 0

    def filled(
        self, x: np.ndarray, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [B, C, *E] without NaN, and the indicator channels [B, I, *E] bool.

        Inputs in which nothing is missing are returned as they are, others as float64. NaN stays at padding, where `valid`
        [B, *E] is False; None where nothing is padding.
        """
        missing = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, dtype=bool)
        if valid is not None:
            missing &= valid[:, None]
        flags = missing[:, list(self.flagged)]
        if not missing.any():
            return x, flags
        # In float64: a mean in float32 would not be the one that the scale subtracts.
        means = self.fill.reshape(-1, *(1,) * (x.ndim - 2))
        result = np.where(missing, means, x.astype(np.float64))
        if self.how == "linear":
            for sample, channel in np.argwhere(missing.any(axis=-1)):
                gap, series = missing[sample, channel], result[sample, channel]
                known = np.flatnonzero(~gap if valid is None else ~gap & valid[sample])
                if len(known):
                    series[gap] = np.interp(np.flatnonzero(gap), known, series[known])
        return result, flags


def with_indicators(shape: tuple[int, ...], gaps: Gaps | None) -> tuple[int, ...]:
    """Return the shape (C, *E) of inputs with the indicator channels of gaps."""
    return (shape[0] + (0 if gaps is None else len(gaps.flagged)), *shape[1:])


def count_missing(x: np.ndarray | Ragged) -> int:
    """Return how many inputs [n, C, *E] have a value that is NaN."""
    some = blocks(x, np.arange(len(x))) if x.dtype.kind == "f" else ()
    return sum(int(np.isnan(block).reshape(len(block), -1).any(axis=1).sum()) for block in some)


def remarks(
    steps: np.ndarray | None,
    length: int,
    gaps: Gaps | None = None,
    x: np.ndarray | Ragged | None = None,
) -> dict[str, int]:
    """Return what is done to samples so that they fit the model, each with the number of samples; nothing where that is 0.

    `steps` [n] are those of sequences, which are cut after L, or None where all samples have one shape; x [n, C, *E] are the
    samples whose missing values `gaps` fills, or None.
    """
    counts = {
        f"longer than {length} steps and cut at the end": 0
        if steps is None
        else int((steps > length).sum())
    }
    if gaps is not None and x is not None:
        counts[f"with missing values, filled by task.gaps={gaps.how}"] = count_missing(x)
    return {what: count for what, count in counts.items() if count}


@dataclass(frozen=True)
class ChannelScale:
    """Subtracts each channel's mean over the training set and divides by its deviation; `fit_inputs` makes it, [C] float64."""

    mean: np.ndarray
    std: np.ndarray  # 1 for constant channels


class ArraySamples:
    """Samples (see interfaces) over arrays; inputs become float32 batch by batch, and are never copied as a whole.

    Args:
        x: inputs [N, C, *E] of any real dtype, which may be a memory map; or sequences that know their lengths.
        y: targets [N, ...], as Batch.y.
        valid: [N, *E] bool, False where the input is padding; None where nothing is, or where sequences know their lengths.
        rows: [n], those of this split; None takes all.
        scale, gaps: how inputs are scaled and their missing values filled; without both, inputs keep their values.
        groups: [N] int64, the record that each row is cut from; None where rows stand alone.
    """

    def __init__(
        self,
        x: np.ndarray | Ragged,
        y: np.ndarray,
        valid: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        scale: ChannelScale | None = None,
        groups: np.ndarray | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        if len(x) != len(y) or (valid is not None and len(valid) != len(x)):
            raise ValueError(f"{len(x)} inputs, {len(y)} targets")
        self._x, self._y, self._valid = x, y, valid
        self._rows = np.arange(len(x)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._scale, self._groups, self._gaps = scale, groups, gaps

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; nothing is augmented."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        x, valid = read(self._x, rows)
        if self._valid is not None:
            valid = np.ascontiguousarray(self._valid[rows], dtype=bool)
        inputs, mask = as_inputs(x, valid, self._scale, self._gaps)
        return Batch(inputs, torch.from_numpy(self._y[rows].copy()), mask)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._rows]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self._groups is None else self._groups[self._rows]

    def digest(self) -> str:
        """Return a SHA-256 over shape, dtype and bytes of inputs, targets, mask, records and normalisation."""
        digest = hashlib.sha256()
        lengths = self._x.lengths if isinstance(self._x, Ragged) else None
        arrays = {
            "x": self._x,
            "y": self._y,
            "valid": self._valid,
            "groups": self._groups,
            "lengths": lengths,
        }
        scale = {} if self._scale is None else {"mean": self._scale.mean, "std": self._scale.std}
        for name, array in (arrays | scale).items():
            if array is not None:
                rows = np.arange(len(array)) if name in scale else self._rows
                digest.update(f"{name} {array.dtype.str} {(len(rows), *array.shape[1:])}".encode())
                for block in blocks(array, rows):
                    digest.update(block.tobytes())
        if self._gaps is not None:
            digest.update(
                f"gaps {self._gaps.how} {self._gaps.flagged}".encode() + self._gaps.fill.tobytes()
            )
        return digest.hexdigest()


def as_inputs(
    x: np.ndarray,
    valid: np.ndarray | None,
    scale: ChannelScale | None = None,
    gaps: Gaps | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return inputs [B, C, *E] of any real dtype as Batch.x and Batch.valid; `valid` [B, *E] is False at padding, None without.

    Missing values are filled first, then inputs are scaled, then padding becomes 0; the indicator channels of gaps come last
    and are not scaled. Without scale or gaps that step is left out.
    """
    flags = None
    if gaps is not None:
        x, flags = gaps.filled(x, valid)
    if scale is not None:  # in float64: float32 would lose a small signal on a large offset
        shape = (-1,) + (1,) * (x.ndim - 2)
        x = (x - scale.mean.reshape(shape)) / scale.std.reshape(shape)
    if valid is not None:
        x = np.where(valid[:, None], x, 0)
    if flags is not None and flags.shape[1]:
        x = np.concatenate([x, flags], axis=1)
    inputs = torch.from_numpy(np.ascontiguousarray(x.astype(np.float32)))
    return inputs, None if valid is None else torch.from_numpy(valid)


def fit_inputs(
    x: np.ndarray | Ragged,
    rows: np.ndarray,
    has_gaps: bool,
    how: How,
    indicator: bool,
    where: str,
) -> tuple[ChannelScale, Gaps, list[str], list[str]]:
    """Return the scale of inputs [N, C, *E], what takes the place of missing values, and notes on both.

    Learned from the training rows alone, without padding and missing values. The scale has deviation 1 for constant channels.
    The first list has warnings about these, the second what was filled; either may be empty. ConfigError for linear filling of
    inputs that are not sequences, DataError for a channel of which the training rows know no value.

    Args:
        rows: [n], those for training.
        has_gaps: whether any input of any row is NaN.
        indicator: whether channels with missing values in the training rows get an indicator channel.
    """
    what = f"applies to sequences, and inputs have the extent {' x '.join(map(str, x.shape[2:]))}"
    check_rules((how == "linear" and x.ndim != 3, "gaps", what, "use task.gaps=mean"))
    if isinstance(x, Ragged) or has_gaps:
        mean, variance, missing = _moments_of_known(x, rows)
    else:
        mean, variance, missing = *_moments(x, rows), np.zeros(x.shape[1], dtype=np.int64)
    empty = np.flatnonzero(np.isnan(mean))
    what = f"channel {listed(empty)} has no known value in the training set, all are NaN"
    refuse_if(len(empty), what, where, "remove it")
    std = np.sqrt(variance)
    # Sums of many equal numbers are off by rounding; a deviation as small as that is not variation in the data.
    constant = std <= 1e-12 * np.abs(mean)
    note = f"warning: channel {listed(np.flatnonzero(constant))} is constant in the training set"
    gaps = Gaps(how, mean, tuple(np.flatnonzero(missing).tolist()) if indicator else ())
    becomes = "become the channel's training mean" if how == "mean" else "are interpolated in time"
    added = f", flagged by {counted(len(gaps.flagged), 'more channel')}" if gaps.flagged else ""
    place = f"in {np.count_nonzero(missing)} of {counted(len(missing), 'channel')}"
    filled = f"{missing.sum()} missing values {place} {becomes}{added} (task.gaps={how})"
    scale = ChannelScale(mean, np.where(constant, 1.0, std))
    return scale, gaps, [note] if constant.any() else [], [filled] if missing.any() else []


def _moments(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance [C] of inputs without padding and gaps."""
    axes, count = (0, *range(2, x.ndim)), len(rows) * int(np.prod(x.shape[2:], dtype=np.int64))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in blocks(x, rows):
        mean += block.sum(axis=axes, dtype=np.float64) / count
    centre = mean.reshape(-1, *(1,) * (x.ndim - 2))
    for block in blocks(x, rows):
        squares += ((block - centre) ** 2).sum(axis=axes)
    return mean, squares / count


def _moments_of_known(
    x: np.ndarray | Ragged, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and variance [C] of inputs that are read once, and the number of missing values [C].

    Padding and gaps do not count. The mean of a channel of which nothing is known is NaN.
    """
    axes, count, mean, squares = (0, *range(2, x.ndim)), np.zeros(1), np.zeros(1), np.zeros(1)
    missing = np.zeros(1, dtype=np.int64)
    for part, valid in parts(x, rows):
        # Means and squares of parts are merged about their own means, so that no large offset is squared.
        unknown = np.isnan(part) if part.dtype.kind == "f" else np.zeros(part.shape, dtype=bool)
        known = ~unknown if valid is None else ~unknown & valid[:, None]
        size = known.sum(axis=axes).astype(np.float64)
        part_mean = np.where(known, part, 0).sum(axis=axes, dtype=np.float64) / np.maximum(size, 1)
        around = np.where(known, part - part_mean.reshape(-1, *(1,) * (x.ndim - 2)), 0).astype(
            np.float64
        )
        total = np.maximum(count + size, 1)
        squares = (
            squares + (around**2).sum(axis=axes) + (part_mean - mean) ** 2 * count * size / total
        )
        mean = mean + (part_mean - mean) * size / total
        count = count + size
        missing = missing + unknown.sum(axis=axes)
    return np.where(count > 0, mean, np.nan), squares / np.maximum(count, 1), missing


def target_scale(y: np.ndarray) -> Scale:
    """Return each output channel's mean and deviation [K, 1, ...], in the dtype of the targets [n, K, *E].

    Missing targets (NaN) do not count. The deviation is 1 for channels that are constant up to rounding. Every channel needs a
    known target.
    """
    shape = (-1, *(1,) * (y.ndim - 2))
    mean, std = (moment.reshape(shape).astype(y.dtype) for moment in _target_moments(y))
    return Scale(torch.from_numpy(mean), torch.from_numpy(std))


def target_dtype(y: np.ndarray) -> type[np.floating[Any]]:
    """Return float32 for targets [n, K, *E], or float64 where a channel lies so far from zero that float32 is too coarse.

    That is where float32 rounds the channel's mean by more than 2^-20 of its deviation.
    """
    mean, std = _target_moments(y)
    return np.float64 if (np.abs(mean) > _FARTHEST * std).any() else np.float32


def _target_moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [K] float64 of the known targets of every channel; the deviation of constant ones is 1."""
    columns = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    # One channel at a time in float64: squares of float32 leave its range for targets beyond 1e19 or below 1e-22.
    wide = (column.astype(np.float64) for column in columns)
    mean, std = np.transpose([(np.nanmean(column), np.nanstd(column)) for column in wide])
    return mean, np.where(std <= rounding(y.dtype) * np.abs(mean), 1.0, std)


def rounding(dtype: np.dtype) -> float:
    """Return the share of numbers of a dtype, or of their mean, below which their differences are rounding."""
    return 1e-7 if dtype == np.float32 else 1e-12
