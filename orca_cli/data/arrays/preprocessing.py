"""What the training arrays say about the inputs and targets of all splits, and of new data.

Sequences may have different lengths. Where each ends is given by an array of lengths, or by steps of NaN after it. Inputs are
brought to one length, that of the longest training sequence unless another is given: longer ones lose their end, and what
comes after an end is neither read nor learned from.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs; W steps in a file, l of a sequence alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from orca_cli.data.arrays.layout import locate_new
from orca_cli.data.blocks import Ragged, blocks, channels_first
from orca_cli.data.gaps import Gaps, remarks, with_indicators
from orca_cli.data.own_data import described
from orca_cli.data.samples import ChannelScale, read_inputs
from orca_cli.data.targets import TargetForm, check_finite
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, NewData

LENGTHS = "lengths"  # the array that is looked for
NOT_PADDED = "task.padding=none reads them as they are"
# Inputs as in the files, [n, ...], possibly with their lengths [n].
Raw = np.ndarray | tuple[np.ndarray, np.ndarray | None]
_PART = 4096  # samples of which lengths are read at once


@dataclass(frozen=True)
class Padding:
    """How the ends of sequences are given, by lengths or by steps of NaN, and the L steps that all are brought to.

    `missing_targets`: dense targets may be NaN before an end too. `array` is the name of the lengths in .npz files.
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
        if y.ndim not in (2, 3) or y.dtype.kind not in "fiub":
            return y  # of a form that is refused elsewhere
        axis = 2 if y.ndim == 3 and not channels_last else 1
        steps = y.shape[axis]
        if (ends > steps).any():
            what = f"targets have {steps} steps and sequences up to {ends.max()}"
            raise DataError(what, where=where, hint="dense targets have the extent of the inputs")
        is_class = y.dtype.kind in "iub"
        size = min(steps, self.length)
        shape = (*y.shape[:axis], self.length, *y.shape[axis + 1 :])
        result = np.full(shape, IGNORED_CLASS if is_class else np.nan, np.int64 if is_class else y.dtype)
        steps_kept = (*(slice(None),) * axis, slice(size))
        valid = (np.arange(size) < ends[:, None]).reshape(len(y), *(1,) * (axis - 1), size, *(1,) * (y.ndim - axis - 1))
        kept = y[steps_kept]
        if not is_class and not self.missing_targets:
            check_finite(np.where(valid, kept, 0), where)
        result[steps_kept] = np.where(valid, kept, result[steps_kept])
        return result


@dataclass(frozen=True)
class ArrayPreprocessing:
    """How arrays become the model's inputs and targets; without scale, inputs stay as they are.

    A sample has `stored_shape` in the files: (L), (C, L), (C, H, W) or (C, D, H, W); with channels last, the
    channels of all but (L) come last.
    With `padding` a sequence may have any number of steps there.
    """

    stored_shape: tuple[int, ...]
    channels_last: bool
    targets: TargetForm
    scale: ChannelScale | None
    names: tuple[str, str] = ("x", "y")  # of inputs and targets in .npz files
    padding: Padding | None = None
    gaps: Gaps | None = None  # None refuses NaN

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample of `inputs`: (C, *E), with the indicator channels of gaps."""
        return with_indicators(self.file_shape, self.gaps)

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.padding is not None

    @property
    def file_shape(self) -> tuple[int, ...]:
        """(C, *E) of a sample in the files."""
        return oriented_shape(self.stored_shape, self.channels_last)

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Check shape and dtype of inputs, which may be in a file still."""
        check_dtype(x.dtype, where)
        shape, expected = tuple(x.shape[1:]), self.stored_shape
        if self.padding is not None and len(shape) == len(expected):
            axis = time_axis(expected, self.channels_last)
            expected = (*expected[:axis], shape[axis], *expected[axis + 1 :])
        if shape != expected:
            what = f"samples have shape {shape}, those of the training set {self.stored_shape}"
            steps = "" if self.padding is None else ", with any number of steps"
            raise DataError(what, where=where, hint=f"the model takes {described(self.file_shape)} a sample{steps}")

    def oriented(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        """Return inputs as [n, C, *E], without copying; `raw` as that of `inputs`. Gaps are NaN still."""
        x = self._assembled(raw, where)
        done = 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, allow_nan=self.gaps is not None, offset=done)
            done += len(block)
        return x

    def inputs(self, raw: Raw, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return inputs as Batch.x and Batch.valid.

        Args:
            raw: an array [B, ...] as in the files; with padding and unless NaN marks the ends, with the lengths [B].
            where: their origin, for messages.
        """
        x = self.oriented(raw, where)
        return read_inputs(x, np.arange(len(x)), self.scale, self.gaps)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz file, with targets where it has them, or of an .npy file of inputs."""
        lengths = self.padding.array if self.padding is not None and self.padding.marked_by == "lengths" else None
        x, y, stored_ends, rows = locate_new(path, where, (*self.names, lengths), part)
        self.check(x, x.where)
        read, chosen = x.rows(), np.arange(x.shape[0]) if rows is None else rows
        ends = None if stored_ends is None else stored_ends.read()[chosen]

        def values(start: int, stop: int) -> np.ndarray:
            part_rows = chosen[start:stop]
            return read(int(part_rows[0]), int(part_rows[-1]) + 1)[part_rows - part_rows[0]]

        def inputs(start: int, stop: int) -> Raw:
            return values(start, stop) if ends is None else (values(start, stop), ends[start:stop])

        def targets() -> np.ndarray | None:
            if y is None:
                return None
            target_ends = ends
            if target_ends is None and self.padding is not None and self._is_dense:
                starts = range(0, len(chosen), _PART)
                target_ends = np.concatenate([self._ends(values(i, i + _PART), None, x.where) for i in starts])
            return self.encoded_targets(y.read()[chosen], y.where, target_ends)

        return NewData(len(chosen), inputs, targets, x.where, None if rows is None else [str(row) for row in rows])

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] as in the files.

        Of a model for different lengths: a list of arrays, a sequence each; or a mapping with the array and the lengths
        [n] by their names in .npz files; or an array where NaN marks the ends.
        """
        ends = None
        if self.padding is not None and isinstance(x, Mapping):
            needed = (self.names[0], self.padding.array)
            if absent := [name for name in needed if name not in x]:
                raise DataError(f"holds no '{absent[0]}'", where=where, hint=f"give {' and '.join(needed)}, or a list")
            x, ends = np.asarray(x[needed[0]]), np.asarray(x[needed[1]])
            if ends.shape != x.shape[:1]:
                raise DataError(f"has shape {ends.shape}, expected {x.shape[:1]}", where=f"{where}[{needed[1]}]")
        # What converts itself, as tensors do, is one array, padded if its sequences have several lengths.
        x = np.asarray(x) if hasattr(x, "__array__") else x
        try:
            if self.padding is None or (isinstance(x, np.ndarray) and x.dtype.kind != "O"):
                values = np.asarray(x)
            else:
                values, ends = self._padded([np.asarray(row) for row in x], where)
        except (TypeError, ValueError) as error:
            raise DataError(f"samples of different shapes: {error}", where=where, hint="give one array") from error
        self.check(values, where)

        def inputs(start: int, stop: int) -> Raw:
            return values[start:stop] if ends is None else (values[start:stop], ends[start:stop])

        return NewData(len(values), inputs, lambda: None, where)

    def remarks(self, raw: Raw, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new inputs fit, each with the number of samples."""
        x, stated = raw if isinstance(raw, tuple) else (raw, None)
        ends = None if self.padding is None else self._ends(x, stated, where)
        length = 0 if self.padding is None else self.padding.length
        return remarks(ends, length, self.gaps, lambda: self._assembled(raw, where))

    def encoded_targets(self, y: np.ndarray, where: str, ends: np.ndarray | None = None) -> np.ndarray:
        """Return targets as Batch.y; dense ones of sequences [n, ...] with the sequences' lengths [n]."""
        if self.padding is not None and ends is not None and self._is_dense:
            y = self.padding.targets(y, ends, self.channels_last, where)
        return self.targets.encode(y, where)

    @property
    def _is_dense(self) -> bool:
        return self.targets.kind in ("maps", "class_maps")

    def _assembled(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        x, ends = raw if isinstance(raw, tuple) else (raw, None)
        self.check(x, where)
        first = channels_first(x, self.channels_last)
        if self.padding is None:
            return first
        ends = self._ends(x, ends, where)
        return Ragged(lambda row: first[row], ends, first.shape[1], self.padding.length, x.dtype, storage=first)

    def _padded(self, rows: list[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return sequences as one array, and their lengths; where NaN marks the ends, as one with NaN after each."""
        for number, row in enumerate(rows):
            self.check(row[None], f"{where}, sample {number}")
        axis = time_axis(self.stored_shape, self.channels_last)
        steps = np.array([row.shape[axis] for row in rows])
        is_marked = self.padding is not None and self.padding.marked_by == "nan"
        dtype = np.result_type(*(row.dtype for row in rows), *([np.float32] if is_marked else []))
        shape = (len(rows), *self.stored_shape[:axis], steps.max(initial=0), *self.stored_shape[axis + 1 :])
        x = np.full(shape, np.nan if is_marked else 0, dtype)
        for one, row in zip(x, rows, strict=True):
            one[(*(slice(None),) * axis, slice(row.shape[axis]))] = row
        return x, None if is_marked else steps

    def _ends(self, x: np.ndarray, lengths: np.ndarray | None, where: str) -> np.ndarray:
        """Return the lengths [n] of sequences as in the files."""
        assert self.padding is not None
        if lengths is None and self.padding.marked_by == "lengths":
            hint = f"give {self.names[0]} and {self.padding.array}, by name or in an .npz file; or a list of sequences"
            raise DataError("has no lengths, and the model was trained with them", where=where, hint=hint)
        return sequence_ends(x, lengths, self.channels_last, where)


def oriented_shape(sample: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Return (C, *E) for the shape of a sample in a file."""
    if len(sample) == 1:
        return (1, *sample)
    return (sample[-1], *sample[:-1]) if channels_last else sample


def time_axis(sample: tuple[int, ...], channels_last: bool) -> int:
    """Return the axis of the steps of a sequence, a sample of this shape in a file."""
    return 0 if len(sample) == 1 or channels_last else 1


def check_dtype(dtype: np.dtype, where: str) -> None:
    """Raise DataError for inputs that are not real numbers."""
    if dtype.kind not in "fiub":
        raise DataError(f"inputs have dtype {dtype}", where=where, hint="allowed: real numbers, such as float32")


def sequence_ends(x: np.ndarray, lengths: np.ndarray | None, channels_last: bool, where: str) -> np.ndarray:
    """Return the lengths [n] int64 of sequences as in the files: as given, or up to a tail of NaN in all channels.

    Raises:
        DataError: given lengths are not whole numbers, of at most a sequence's steps, or a sequence is all NaN.
    """
    first = channels_first(x, channels_last)
    if lengths is not None:
        if lengths.shape != (len(x),) or lengths.dtype.kind not in "iuf":
            what = f"lengths have shape {lengths.shape} and dtype {lengths.dtype}, expected {len(x)} integers"
            raise DataError(what, where=where, hint=f"the number of steps of each sample; or {NOT_PADDED}")
        wrong = ~((lengths >= 1) & (lengths <= first.shape[2]) & (lengths == np.floor(lengths)))
        if wrong.any():
            at = int(wrong.argmax())
            what = (
                f"{int(wrong.sum())} lengths are not in 1..{first.shape[2]}, the first is {lengths[at]} at index {at}"
            )
            raise DataError(what, where=where, hint="count the steps of each sample")
        return lengths.astype(np.int64)
    present = (~np.isnan(part).all(axis=1) for part in blocks(first, np.arange(len(x))))  # [B, W]
    ends = np.concatenate([np.where(one.any(1), one.shape[1] - one[:, ::-1].argmax(1), 0) for one in present])
    if not ends.all():
        what = f"{int((ends == 0).sum())} samples hold nothing but NaN, the first at index {int((ends == 0).argmax())}"
        raise DataError(what, where=where, hint="remove these samples")
    return ends.astype(np.int64)
