"""Sequences of different lengths in arrays: where each ends, and what that means for inputs and targets.

An end is given by an array of lengths, by steps of NaN after it, or by sequences that are arrays of their own. Inputs are
brought to one length, that of the longest training sequence unless another is given: longer ones lose their end, and what
comes after an end is neither read nor learned from.

Shapes: n samples, C channels, W steps in a file, L steps of the model's input, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.tasks.shared.blocks import blocks
from orca_cli.tasks.shared.targets import check_finite

LENGTHS = "lengths"  # the array that is looked for
Marks = Literal["lengths", "nan", "none"]
NOT_PADDED = "task.padding=none reads them as they are"


@dataclass(frozen=True)
class Padding:
    """How the ends of sequences are given, and what all are brought to.

    Args:
        marked_by: lengths: beside the inputs, or by each one's own shape; nan: by steps of NaN.
        length: L; longer sequences are cut at their end.
        missing_targets: whether dense targets may be NaN before an end too.
        array: name of the lengths in .npz files.
    """

    marked_by: Literal["lengths", "nan"]
    length: int
    missing_targets: bool = False
    array: str = LENGTHS

    def targets(self, y: np.ndarray, ends: np.ndarray, channels_last: bool, where: str) -> np.ndarray:
        """Return dense targets of L steps: NaN after each end, or -100 where they are classes.

        Raises:
            DataError: they have fewer steps than a sequence has, or NaN before an end where targets may not be missing.
        """
        if y.ndim not in (2, 3):
            return y  # of a form that is refused elsewhere
        axis = 2 if y.ndim == 3 and not channels_last else 1
        steps = y.shape[axis]
        if (ends > steps).any():
            first = int((ends > steps).argmax())
            what = f"targets have {steps} steps and sample {first} has {ends[first]}"
            raise DataError(what, where=where, hint="dense targets have the extent of the inputs")
        is_class = y.dtype.kind in "iub"
        size = min(steps, self.length)
        shape = (*y.shape[:axis], self.length, *y.shape[axis + 1 :])
        dtype = np.int64 if is_class else y.dtype
        result = np.full(shape, IGNORED_CLASS if is_class else np.nan, dtype)
        inside = (slice(None),) * axis
        known = (np.arange(size) < ends[:, None]).reshape(len(y), *(1,) * (axis - 1), size, *(1,) * (y.ndim - axis - 1))
        given = y[(*inside, slice(size))]
        if not is_class and not self.missing_targets:
            check_finite(np.where(known, given, 0), where)
        result[(*inside, slice(size))] = np.where(known, given, result[(*inside, slice(size))])
        return result


def checked_ends(lengths: np.ndarray, n: int, steps: int | np.ndarray, where: str) -> np.ndarray:
    """Return the lengths of n samples, of at most W `steps`, all or each [n], as int64.

    Raises:
        DataError: they have another shape, or some are not whole numbers in 1..W.
    """
    if lengths.shape != (n,) or lengths.dtype.kind not in "iuf":
        what = f"lengths have shape {lengths.shape} and dtype {lengths.dtype}, expected {n} integers"
        raise DataError(what, where=where, hint=f"the number of steps of each sample; or {NOT_PADDED}")
    wrong = ~((lengths >= 1) & (lengths <= steps) & (lengths == np.floor(lengths)))
    if wrong.any():
        first = int(wrong.argmax())
        most = np.broadcast_to(steps, n)[first]
        what = f"{int(wrong.sum())} lengths are not in 1..{most}, the first is {lengths[first]} at index {first}"
        raise DataError(what, where=where, hint="count the steps of each sample")
    return lengths.astype(np.int64)


def ends_before_nan(x: np.ndarray | Sequence[np.ndarray], where: str) -> np.ndarray:
    """Return how many steps each of inputs [n, C, W], or of sequences [C, l], has before a tail that is NaN in all channels.

    The result is [n] int64.
    """
    parts = blocks(x, np.arange(len(x))) if isinstance(x, np.ndarray) else (row[None] for row in x)
    known = (~np.isnan(part).all(axis=1) for part in parts)  # [B, W]
    ends = np.concatenate([np.where(one.any(1), one.shape[1] - one[:, ::-1].argmax(1), 0) for one in known])
    if not ends.all():
        empty = ends == 0
        what = f"{int(empty.sum())} samples hold nothing but NaN, the first at index {int(empty.argmax())}"
        raise DataError(what, where=where, hint="remove these samples")
    return ends.astype(np.int64)
