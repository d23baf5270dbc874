"""Missing values (NaN) in inputs: what takes their place, and channels that say where they were.

Shapes: B samples of a batch, C channels, I channels with an indicator, *E the extent (L, or H x W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.tasks.shared.own_data import counted, listed
from orca_cli.tasks.shared.ragged import Ragged
from orca_cli.tasks.shared.samples import blocks

How = Literal["mean", "linear"]


@dataclass(frozen=True)
class Gaps:
    """How NaN becomes numbers; padding is no gap.

    Args:
        how: mean: the channel's mean over the training set. linear: along a sequence, between the known values beside the gap;
            before the first and after the last one that value; the mean where a sample has no value of the channel.
        fill: [C] float64, those means.
        flagged: the I channels of which each gets an indicator channel, 1 where a value was missing, else 0.
    """

    how: How
    fill: np.ndarray
    flagged: tuple[int, ...] = ()

    def filled(self, x: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [B, C, *E] without NaN, and the indicator channels [B, I, *E].

        Args:
            x: any real dtype.
            valid: [B, *E] bool, False at padding; None where nothing is.
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
                gap = missing[sample, channel]
                known = ~gap if valid is None else ~gap & valid[sample]
                if known.any():
                    places = np.flatnonzero(known)
                    between = np.interp(np.flatnonzero(gap), places, result[sample, channel, places])
                    result[sample, channel, gap] = between
        return result, flags

    def note(self, x: np.ndarray | Ragged, rows: np.ndarray, missing: np.ndarray) -> str:
        """Return a note on the missing values [C] of some rows of [N, C, *E]; empty where there are none."""
        if not missing.any():
            return ""
        becomes = "become the channel's training mean" if self.how == "mean" else "are interpolated in time"
        flagged = f", flagged by {counted(len(self.flagged), 'more channel')}" if self.flagged else ""
        steps = int(x.lengths[rows].sum()) if isinstance(x, Ragged) else len(rows) * int(np.prod(x.shape[2:]))
        share = 100 * missing.sum() / (steps * x.shape[1])
        where = f"{np.count_nonzero(missing)} of {counted(len(missing), 'channel')}"
        return f"{missing.sum()} missing values ({share:.2g} %) in {where} {becomes}{flagged} (task.gaps={self.how})"


def count_missing(x: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray:
    """Return how many values of each channel are NaN in some rows of [N, C, *E], padding left out, as [C] int64."""
    found = np.zeros(x.shape[1], dtype=np.int64)
    if x.dtype.kind != "f":
        return found
    for block in blocks(x, rows):  # sequences are 0 after their end
        found += np.isnan(block).sum(axis=(0, *range(2, block.ndim)))
    return found


def samples_with_gaps(x: np.ndarray | Ragged) -> int:
    """Return how many samples of [N, C, *E] have missing values."""
    if x.dtype.kind != "f":
        return 0
    return sum(int(np.isnan(block).reshape(len(block), -1).any(1).sum()) for block in blocks(x, np.arange(len(x))))


def _ending_in_gaps(x: np.ndarray | Ragged, rows: np.ndarray) -> int:
    """Return how many sequences of [N, C, L] end in a step that is missing in all channels, of arrays without lengths."""
    if isinstance(x, Ragged) or x.ndim != 3 or x.dtype.kind != "f":
        return 0
    return int(np.isnan(x[rows, :, -1]).all(axis=1).sum())


def fit_gaps(
    x: np.ndarray | Ragged, rows: np.ndarray, how: How, indicator: bool, means: np.ndarray, where: str
) -> tuple[Gaps, list[str]]:
    """Return what takes the place of missing values, from the training rows of [N, C, *E], and a note on them.

    Args:
        x, rows, where: the inputs, the training rows, and their origin.
        how: as in `Gaps`.
        indicator: whether channels with missing values in training get an indicator channel.
        means: [C], over the known training values; NaN where there are none.

    Raises:
        DataError: a channel has no known value in training.
        ConfigError: maps are to be interpolated in time.
    """
    if how == "linear" and len(x.shape) != 3:
        what = f"applies to sequences, and inputs have the extent {' x '.join(map(str, x.shape[2:]))}"
        raise ConfigError(what, where="task.gaps", hint="use task.gaps=mean")
    empty = np.flatnonzero(np.isnan(means))
    if len(empty):
        what = f"channel {listed(empty)} has no known value in the training set, all are NaN"
        raise DataError(what, where=where, hint="remove it")
    missing = count_missing(x, rows)
    gaps = Gaps(how, means, tuple(int(channel) for channel in np.flatnonzero(missing)) if indicator else ())
    notes = [note] if (note := gaps.note(x, rows, missing)) else []
    if ending := _ending_in_gaps(x, rows):
        what = f"warning: {ending} of {len(rows)} training sequences end in NaN"
        notes.append(f"{what}; if that is padding, set task.padding=nan")
    if indicator and not gaps.flagged:
        notes.append("warning: task.gap_indicator=true adds no channel: nothing is missing in training")
    return gaps, notes
