"""Missing values (NaN) in inputs: what takes their place, and channels that say where they were.

Shapes: B samples of a batch, C channels, I channels with an indicator, *E the extent (L, or H x W).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.data.blocks import Ragged, blocks
from orca_cli.data.own_data import listed
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.terminal import counted

How = Literal["mean", "linear"]


@dataclass(frozen=True)
class Gaps:
    """How NaN becomes numbers; padding is no gap.

    Linear is, along a sequence, between the known values beside the gap, and the nearest one at either end; a sample without a
    value of the channel gets the mean.
    """

    how: How
    fill: np.ndarray  # [C] float64, each channel's mean over the training set
    flagged: tuple[int, ...] = ()  # the I channels that get an indicator, 1 where a value was missing, else 0

    def filled(self, x: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [B, C, *E] without NaN, and the indicator channels [B, I, *E]; `valid` [B, *E] is False at padding."""
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
    read: Callable[[], np.ndarray | Ragged] | None = None,
) -> dict[str, int]:
    """Return what is done to make new samples fit, each with the number of samples.

    Steps [n] are of sequences that are cut at L, or None; `read` returns the samples [n, C, *E] whose gaps are filled.
    """
    counts = {f"longer than {length} steps and cut at the end": 0 if steps is None else int((steps > length).sum())}
    if gaps is not None and read is not None:
        counts[f"with missing values, filled by task.gaps={gaps.how}"] = count_missing(read())
    return {what: count for what, count in counts.items() if count}


def fit_gaps(
    missing: np.ndarray, extent: tuple[int, ...], how: How, indicator: bool, means: np.ndarray, where: str
) -> tuple[Gaps, list[str]]:
    """Return what takes the place of missing values, from those of the training rows, and notes on them.

    `missing` [C] counts those of training rows, `means` [C] are over the known ones, NaN where there are none, and `indicator`
    says whether channels with missing values in training get an indicator channel. *E is the extent of inputs.
    """
    if how == "linear" and len(extent) != 1:
        what = f"applies to sequences, and inputs have the extent {' x '.join(map(str, extent))}"
        raise ConfigError(what, where="task.gaps", hint="use task.gaps=mean")
    if len(empty := np.flatnonzero(np.isnan(means))):
        what = f"channel {listed(empty)} has no known value in the training set, all are NaN"
        raise DataError(what, where=where, hint="remove it")
    flagged = tuple(np.flatnonzero(missing).tolist()) if indicator else ()
    gaps, number = Gaps(how, means, flagged), int(missing.sum())
    becomes = "become the channel's training mean" if how == "mean" else "are interpolated in time"
    added = f", flagged by {counted(len(flagged), 'more channel')}" if flagged else ""
    where = f"in {np.count_nonzero(missing)} of {counted(len(missing), 'channel')}"
    return gaps, [f"{number} missing values {where} {becomes}{added} (task.gaps={how})"] if number else []
