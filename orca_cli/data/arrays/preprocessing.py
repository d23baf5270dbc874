"""What the training arrays say about the inputs and targets of all splits, and of new data.

Sequences may have different lengths. Where each ends is given by an array of lengths, or by steps of NaN after it. Inputs are
brought to one length, that of the longest training sequence unless another is given: longer ones lose their end, and what
comes after an end is neither read nor learned from.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs; W steps in a file, l of a sequence alone.
"""

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
from orca_cli.data.targets import TargetForm, check_finite, refuse
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, NewData

LENGTHS = "lengths"  # the array that is looked for
NOT_PADDED = "task.padding=none reads them as they are"
# Inputs as in the files, [n, ...], possibly with their lengths [n]; or sequences of several lengths.
Raw = np.ndarray | tuple[np.ndarray, np.ndarray | None] | list[np.ndarray]
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
        """Return dense targets of L steps: NaN after each end, or -100 where they are classes."""
        if y.ndim not in (2, 3) or y.dtype.kind not in "fiub":
            return y  # of a form that is refused elsewhere
        axis = 1 if channels_last else y.ndim - 1
        steps, is_class = y.shape[axis], y.dtype.kind in "iub"
        if (ends > steps).any():
            what = f"targets have {steps} steps and sequences up to {ends.max()}"
            raise DataError(what, where=where, hint="dense targets have the extent of the inputs")
        kept = np.moveaxis(y.astype(np.int64) if is_class else y, axis, -1)[..., : self.length]
        after = np.expand_dims(np.arange(kept.shape[-1]) >= ends[:, None], tuple(range(1, y.ndim - 1)))
        if not is_class and not self.missing_targets:
            check_finite(np.where(after, 0, kept), where)
        missing = IGNORED_CLASS if is_class else np.nan
        room = [(0, 0)] * (y.ndim - 1) + [(0, self.length - kept.shape[-1])]
        return np.moveaxis(np.pad(np.where(after, missing, kept), room, constant_values=missing), -1, axis)


@dataclass(frozen=True)
class ArrayPreprocessing:
    """How arrays become the model's inputs and targets; without scale, inputs stay as they are.

    A sample has `stored_shape` in the files: (L), (C, L), (C, H, W) or (C, D, H, W); with channels last, the channels of all
    but (L) come last. With `padding` a sequence may have any number of steps there.
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
    def file_shape(self) -> tuple[int, ...]:
        """(C, *E) of a sample in the files."""
        return oriented_shape(self.stored_shape, self.channels_last)

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.padding is not None

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Check shape and dtype of inputs, which may be in a file still."""
        if x.dtype.kind not in "fiub":
            raise DataError(f"inputs have dtype {x.dtype}", where=where, hint="allowed: real numbers, such as float32")
        shape, expected, steps = tuple(x.shape[1:]), self.stored_shape, ""
        if self.padding is not None and shape:
            steps = ", with any number of steps"
            expected = with_steps(expected, shape[0 if self.channels_last else -1], self.channels_last)
        if shape != expected:
            what = f"samples have shape {shape}, those of the training set {self.stored_shape}"
            raise DataError(what, where=where, hint=f"the model takes {described(self.file_shape)} a sample{steps}")

    def oriented(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        """Return inputs as [n, C, *E], without copying; `raw` as that of `inputs`. Gaps are NaN still."""
        x, done = self._assembled(raw, where), 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, allow_nan=self.gaps is not None, offset=done)
            done += len(block)
        return x

    def inputs(self, raw: Raw, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return inputs as Batch.x and Batch.valid; with padding, and unless NaN marks the ends, `raw` has the lengths [B]."""
        x = self.oriented(raw, where)
        return read_inputs(x, np.arange(len(x)), self.scale, self.gaps)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz file, with targets where it has them, or of an .npy file of inputs."""
        lengths = self.padding.array if self.padding is not None and self.padding.marked_by == "lengths" else None
        names = dict(zip(("x", "y"), self.names, strict=True)) | ({} if lengths is None else {"lengths": lengths})
        arrays, rows = locate_new(path, where, names, part)
        x, y = arrays["x"], arrays.get("y")
        self.check(x, x.where)
        read, chosen = x.rows(), np.arange(x.shape[0]) if rows is None else rows
        ends = arrays["lengths"].read()[chosen] if "lengths" in arrays else None

        def inputs(start: int, stop: int) -> Raw:
            some = chosen[start:stop]
            values = read(int(some[0]), int(some[-1]) + 1)[some - some[0]]
            return values if ends is None else (values, ends[start:stop])

        def targets() -> np.ndarray | None:
            if y is None:
                return None
            starts = range(0, len(chosen), _PART) if self._is_dense else ()
            parts = [one for i in starts if (one := self.ends(inputs(i, i + _PART), x.where)) is not None]
            return self.encoded_targets(y.read()[chosen], y.where, np.concatenate(parts) if parts else None)

        return NewData(len(chosen), inputs, targets, x.where, None if rows is None else [str(row) for row in rows])

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] as in the files; of a model for lengths also a list of sequences."""
        try:
            # What converts itself, as tensors do, is one array, padded if its sequences have several lengths.
            x = np.asarray(x) if self.padding is None or hasattr(x, "__array__") else x
            is_array = self.padding is None or (isinstance(x, np.ndarray) and x.dtype.kind != "O")
            values = x if is_array else [np.asarray(row) for row in x]
        except (TypeError, ValueError) as error:
            raise DataError(f"samples of different shapes: {error}", where=where, hint="give one array") from error
        for i, one in enumerate([values] if is_array else values):
            self.check(one if is_array else one[None], where if is_array else f"{where}, sample {i}")
        return NewData(len(values), lambda start, stop: values[start:stop], lambda: None, where)

    def remarks(self, raw: Raw, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new inputs fit, each with the number of samples."""
        length = 0 if self.padding is None else self.padding.length
        return remarks(self.ends(raw, where), length, self.gaps, lambda: self._assembled(raw, where))

    def encoded_targets(self, y: np.ndarray, where: str, ends: np.ndarray | None = None) -> np.ndarray:
        """Return targets as Batch.y; dense ones of sequences [n, ...] with the sequences' lengths [n]."""
        if self.padding is not None and ends is not None and self._is_dense:
            y = self.padding.targets(y, ends, self.channels_last, where)
        return self.targets.encode(y, where)

    def ends(self, raw: Raw, where: str) -> np.ndarray | None:
        """Return the lengths [n] of sequences; None where all samples have one shape."""
        if self.padding is None:
            return None
        if isinstance(raw, list):
            axis, by_nan = 0 if self.channels_last else -1, self.padding.marked_by == "nan"
            pairs = ((row[None], None if by_nan else np.array([row.shape[axis]])) for row in raw)
            return np.concatenate([sequence_ends(*pair, self.channels_last, where) for pair in pairs])
        x, lengths = raw if isinstance(raw, tuple) else (raw, None)
        if lengths is None and self.padding.marked_by == "lengths":
            hint = f"give a list of sequences, or an .npz file with {self.names[0]} and {self.padding.array}"
            raise DataError("has no lengths, and the model was trained with them", where=where, hint=hint)
        return sequence_ends(x, lengths, self.channels_last, where)

    @property
    def _is_dense(self) -> bool:
        return self.targets.kind in ("maps", "class_maps")

    def _assembled(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        rows: list[np.ndarray] | np.ndarray
        if isinstance(raw, list):
            rows, dtype = [channels_first(row[None], self.channels_last)[0] for row in raw], np.dtype(np.float64)
        else:
            x = raw[0] if isinstance(raw, tuple) else raw
            self.check(x, where)
            rows, dtype = channels_first(x, self.channels_last), x.dtype
        ends = self.ends(raw, where)
        if self.padding is None or ends is None:
            return np.asarray(rows)
        return Ragged(lambda row: rows[row], ends, self.file_shape[0], self.padding.length, dtype, storage=rows)


def oriented_shape(sample: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Return (C, *E) for the shape of a sample in a file."""
    return channels_first(np.empty((0, *sample), bool), channels_last).shape[1:]


def with_steps(sample: tuple[int, ...], steps: int, channels_last: bool) -> tuple[int, ...]:
    """Return the shape of a sequence in a file with another number of steps."""
    return (steps, *sample[1:]) if channels_last else (*sample[:-1], steps)


def sequence_ends(x: np.ndarray, lengths: np.ndarray | None, channels_last: bool, where: str) -> np.ndarray:
    """Return the lengths [n] int64 of sequences as in the files: as given, or up to a tail of NaN in all channels."""
    first = channels_first(x, channels_last)
    if lengths is None:
        present = (~np.isnan(part).all(axis=1) for part in blocks(first, np.arange(len(x))))  # [B, W]
        ends = np.concatenate([np.where(one.any(1), one.shape[1] - one[:, ::-1].argmax(1), 0) for one in present])
        refuse(ends == 0, ends, "lengths are 0, where all is NaN", where, "remove these samples")
        return ends.astype(np.int64)
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iuf":
        what = f"lengths have shape {lengths.shape} and dtype {lengths.dtype}, expected {len(x)} integers"
        raise DataError(what, where=where, hint=f"the number of steps of each sample; or {NOT_PADDED}")
    wrong = ~((lengths >= 1) & (lengths <= first.shape[2]) & (lengths == np.floor(lengths)))
    refuse(wrong, lengths, f"lengths are not in 1..{first.shape[2]}", where, "count the steps of each sample")
    return lengths.astype(np.int64)
