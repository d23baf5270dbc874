"""What the training arrays say about the inputs and targets of all splits, and of new data.

Sequences may have different lengths. Where each ends is given by an array of lengths, by steps of NaN after it, or by sequences
that are arrays of their own. Inputs are brought to one length, that of the longest training sequence unless another is given:
longer ones lose their end, and what comes after an end is neither read nor learned from.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs; W steps in a file, l of a sequence alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from orca_cli.data.arrays.layout import StoredRows, locate_new, open_folder
from orca_cli.data.blocks import Ragged, blocks, channels_first
from orca_cli.data.gaps import Gaps, remarks, with_indicators
from orca_cli.data.own_data import counted, described
from orca_cli.data.samples import ChannelScale, read_inputs
from orca_cli.data.targets import TargetForm, check_finite
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import IGNORED_CLASS, NewData

LENGTHS = "lengths"  # the array that is looked for
Marks = Literal["lengths", "nan", "none"]
NOT_PADDED = "task.padding=none reads them as they are"
# Inputs as in the files, [n, ...], or sequences that are arrays of their own; possibly with their lengths [n].
Values = np.ndarray | Sequence[np.ndarray]
Raw = Values | tuple[Values, np.ndarray | None]
_PART = 4096  # samples of which lengths are read at once


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
        valid = (np.arange(size) < ends[:, None]).reshape(len(y), *(1,) * (axis - 1), size, *(1,) * (y.ndim - axis - 1))
        kept = y[(*inside, slice(size))]
        if not is_class and not self.missing_targets:
            check_finite(np.where(valid, kept, 0), where)
        result[(*inside, slice(size))] = np.where(valid, kept, result[(*inside, slice(size))])
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

    def check(self, x: StoredArray | StoredRows | np.ndarray, where: str) -> None:
        """Check shape and dtype of inputs, which may be in a file still."""
        check_dtype(x.dtype, where)
        shape = tuple(x.shape[1:])
        expected: tuple[int | str, ...] = self.stored_shape
        actual: tuple[int | str, ...] = shape
        if self.padding is not None:
            steps = time_axis(self.stored_shape, self.channels_last)
            expected = (*expected[:steps], "any", *expected[steps + 1 :])
            actual = (*shape[:steps], "any", *shape[steps + 1 :]) if len(shape) == len(expected) else shape
        if actual != expected:
            what = f"samples have shape {shape}, those of the training set {_shown(expected)}"
            hint = f"the model takes {described(self.file_shape)} a sample"
            if self.padding is not None:
                hint = f"the model takes {counted(self.file_shape[0], 'channel')} and any number of steps"
            raise DataError(what, where=where, hint=hint)

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
            raw: an array [B, ...] as in the files. With padding also B arrays of different lengths, and either of them with
                lengths [B], which an array has to have where NaN does not mark the ends.
            where: their origin, for messages.
        """
        x = self.oriented(raw, where)
        return read_inputs(x, np.arange(len(x)), self.scale, self.gaps)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz file, with targets where it has them, or of an .npy file or folder of inputs."""
        if path.is_dir():
            if part:
                raise ConfigError("applies to .npz files", where="--part", hint="give a folder of these sequences")
            stored, names = open_folder(path)
            self.check(stored, stored.where)
            return NewData(len(stored), lambda start, stop: stored[start:stop], lambda: None, stored.where, names)
        lengths = self.padding.array if self.padding is not None and self.padding.marked_by == "lengths" else None
        x, y, stored_ends, rows = locate_new(path, where, (*self.names, lengths), part)
        self.check(x, x.where)
        read, count, chosen = x.rows(), x.shape[0] if rows is None else len(rows), slice(None) if rows is None else rows
        ends = None if stored_ends is None else stored_ends.read()[chosen]

        def values(start: int, stop: int) -> np.ndarray:
            if rows is None:
                return read(start, stop)
            part_rows = rows[start:stop]
            return read(int(part_rows[0]), int(part_rows[-1]) + 1)[part_rows - part_rows[0]]

        def inputs(start: int, stop: int) -> Raw:
            return values(start, stop) if ends is None else (values(start, stop), ends[start:stop])

        def targets() -> np.ndarray | None:
            if y is None:
                return None
            target_ends = ends
            if target_ends is None and self.padding is not None and self._is_dense:
                parts = (values(start, min(start + _PART, count)) for start in range(0, count, _PART))
                target_ends = np.concatenate([self._ends(one, None, x.where) for one in parts])
            return self.encoded_targets(y.read()[chosen], y.where, target_ends)

        return NewData(count, inputs, targets, x.where, None if rows is None else [str(row) for row in rows])

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] as in the files.

        Of a model for different lengths: a list of arrays, a sequence each; or a mapping with the array and the lengths
        [n] by their names in .npz files; or an array where NaN marks the ends.
        """
        ends = None
        if self.padding is not None and isinstance(x, Mapping):
            needed = (self.names[0], self.padding.array)
            if absent := [name for name in needed if name not in x]:
                hint = f"give {' and '.join(needed)}, or a list of arrays"
                raise DataError(f"holds no '{absent[0]}'", where=where, hint=hint)
            x, ends = x[needed[0]], np.asarray(x[needed[1]])
            if ends.shape != (len(x),):
                raise DataError(f"has shape {ends.shape}, expected {(len(x),)}", where=f"{where}[{needed[1]}]")
        # What converts itself, as tensors do, is one array, padded if its sequences have several lengths.
        x = np.asarray(x) if hasattr(x, "__array__") else x
        if self.padding is not None and not (isinstance(x, np.ndarray) and x.dtype.kind != "O"):
            values: Values = [np.asarray(row) for row in x]
        else:
            try:
                values = np.asarray(x)
            except ValueError as error:
                what = f"samples of different shapes: {error}"
                raise DataError(what, where=where, hint="give one array") from error
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
        if self.padding is None:
            if ends is not None or not isinstance(x, np.ndarray):
                what = "samples have lengths of their own, those of the training set one length"
                raise DataError(what, where=where, hint=f"give one array (n, {_shown(self.stored_shape)[1:]}")
            self.check(x, where)
            return channels_first(x, self.channels_last)
        if isinstance(x, np.ndarray):
            self.check(x, where)
            first = channels_first(x, self.channels_last)
            ends = self._ends(x, ends, where)
            return Ragged(lambda row: first[row], ends, first.shape[1], self.padding.length, x.dtype, storage=first)
        for number, row in enumerate(x):
            place = row.filename if isinstance(row, np.memmap) else f"{where}, sample {number}"
            self.check(row[None], str(place))
            if not row.size:
                raise DataError("holds no steps", where=str(place), hint="remove this sample")
        dtype = np.result_type(*{row.dtype for row in x})
        ends = self._ends(x, ends, where)
        length, channels = self.padding.length, self.file_shape[0]
        return Ragged(lambda row: channels_first(x[row][None], self.channels_last)[0], ends, channels, length, dtype)

    def _ends(self, x: Values, stated_lengths: np.ndarray | None, where: str) -> np.ndarray:
        """Return the lengths [n] of sequences as in the files."""
        assert self.padding is not None
        if isinstance(x, np.ndarray) and stated_lengths is None and self.padding.marked_by == "lengths":
            hint = (
                f"give {self.names[0]} and {self.padding.array}, by name or in an .npz file; "
                "or each sequence by itself, in a list or a folder of .npy files"
            )
            raise DataError("has no lengths, and the model was trained with them", where=where, hint=hint)
        lengths = None if stated_lengths is None else np.asarray(stated_lengths)
        return sequence_ends(x, lengths, self.padding.marked_by, self.channels_last, where)


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


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def sequence_ends(x: Values, lengths: np.ndarray | None, marked_by: str, channels_last: bool, where: str) -> np.ndarray:
    """Return the lengths [n] int64 of sequences as in the files: as given, up to a tail of NaN in all channels, or by shape.

    Raises:
        DataError: given lengths are not whole numbers, of at most a sequence's steps, or a sequence is all NaN.
    """
    first: Values
    if isinstance(x, np.ndarray):
        first = channels_first(x, channels_last)
        steps = np.full(len(x), first.shape[2])
    else:
        first = [channels_first(row[None], channels_last)[0] for row in x]
        steps = np.array([row.shape[1] for row in first])
    if lengths is not None:
        if lengths.shape != (len(x),) or lengths.dtype.kind not in "iuf":
            what = f"lengths have shape {lengths.shape} and dtype {lengths.dtype}, expected {len(x)} integers"
            raise DataError(what, where=where, hint=f"the number of steps of each sample; or {NOT_PADDED}")
        wrong = ~((lengths >= 1) & (lengths <= steps) & (lengths == np.floor(lengths)))
        if wrong.any():
            at = int(wrong.argmax())
            what = f"{int(wrong.sum())} lengths are not in 1..{steps[at]}, the first is {lengths[at]} at index {at}"
            raise DataError(what, where=where, hint="count the steps of each sample")
        return lengths.astype(np.int64)
    if marked_by != "nan":
        return steps
    parts = blocks(first, np.arange(len(x))) if isinstance(first, np.ndarray) else (row[None] for row in first)
    present = (~np.isnan(part).all(axis=1) for part in parts)  # [B, W]
    ends = np.concatenate([np.where(one.any(1), one.shape[1] - one[:, ::-1].argmax(1), 0) for one in present])
    if not ends.all():
        empty = ends == 0
        what = f"{int(empty.sum())} samples hold nothing but NaN, the first at index {int(empty.argmax())}"
        raise DataError(what, where=where, hint="remove these samples")
    return ends.astype(np.int64)
