"""How arrays in files, or arrays of new data, become the model's inputs and targets.

Sequences may have different lengths. The end of each sequence is given by an array of lengths, or
by steps of NaN after it. All inputs get the same length, which is the length of the longest
training sequence unless it is set. Longer sequences are cut at the end. Values after the end of a
sequence are never read, and never used in training.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs; W steps in a file,
l steps of a single sequence.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.data.arrays.files import locate_new
from orca_cli.data.blocks import Ragged, blocks, channels_first, read
from orca_cli.data.own_data import described
from orca_cli.data.samples import ChannelScale, Gaps, as_inputs, count_missing, remarks
from orca_cli.data.targets import TargetForm, check_finite, first_of
from orca_cli.data.untrusted.arrays import StoredArray
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, NewData

LENGTHS = "lengths"  # name of the array of lengths, unless it is set
_NOT_PADDED = "use task.padding=none to read all steps as data"


@dataclass(frozen=True)
class RawInputs:
    """Inputs as in the files, [n, ...], and the lengths [n] of sequences if they are given."""

    x: np.ndarray
    lengths: np.ndarray | None = None


@dataclass(frozen=True)
class Padding:
    """The marking of the ends of sequences, and the number L of steps of every input.

    With `missing_targets`, dense targets may be NaN also before the end of a sequence. `array` is
    the name of the array of lengths in .npz files.
    """

    marked_by: Literal["lengths", "nan"]
    length: int
    missing_targets: bool = False
    array: str = LENGTHS

    def targets(
        self, y: np.ndarray, ends: np.ndarray, channels_last: bool, where: str
    ) -> np.ndarray:
        """Return dense targets of L steps: after the end of each sequence NaN, or -100 for classes.

        `y` are targets as in the files, [n, W] or [n, K, W], with channels last [n, W, K]; `ends`
        are the sequences' lengths [n]. DataError if a sequence is longer than its targets, or a
        target before the end is missing although targets may not be missing.
        """
        if y.ndim not in (2, 3) or y.dtype.kind not in "fiub":
            return y  # targets of this form are refused elsewhere
        step_axis = 1 if channels_last else y.ndim - 1
        num_steps = y.shape[step_axis]
        if (ends > num_steps).any():
            raise DataError(
                f"has targets of {num_steps} steps for sequences of up to {ends.max()} steps",
                where=where,
                hint="store a dense target for every step of the inputs",
            )
        # Losses and errors skip NaN among numbers, and -100 among classes.
        missing = np.nan
        if y.dtype.kind in "iub":
            missing = IGNORED_CLASS
            # Unsigned integers could not hold -100.
            y = y.astype(np.int64)
        # Cut to L steps, as the inputs are.
        steps_last = np.moveaxis(y, step_axis, -1)
        cut = steps_last[..., : self.length]  # [n, steps] or [n, K, steps], steps <= L
        *leading_axes, num_cut_steps = cut.shape
        # [n, steps]
        is_after_end = np.arange(num_cut_steps) >= ends[:, None]
        if y.ndim == 3:
            is_after_end = is_after_end[:, None]  # the same for all outputs
        if not self.missing_targets:
            # Any value may follow an end, so the check sees 0 instead.
            check_finite(np.where(is_after_end, 0, cut), where)
        # The file may have fewer steps than L; the targets of further steps are missing too.
        padded = np.full((*leading_axes, self.length), missing, y.dtype)
        padded[..., :num_cut_steps] = np.where(is_after_end, missing, cut)
        # Back to the layout of the file, which `TargetForm` reads.
        return np.moveaxis(padded, -1, step_axis)


@dataclass(frozen=True)
class ArrayPreprocessing:
    """The preprocessing that turns arrays into the model's inputs and targets.

    A sample has `stored_shape` in the files: (L), (C, L), (C, H, W) or (C, D, H, W). With
    `channels_last`, C comes last. With `padding`, sequences in the files may have any number of
    steps. Without `scale`, inputs are not scaled.
    """

    stored_shape: tuple[int, ...]
    channels_last: bool
    targets: TargetForm
    scale: ChannelScale | None
    names: tuple[str, str] = ("x", "y")  # names of inputs and targets in .npz files
    padding: Padding | None = None
    gaps: Gaps | None = None  # if None, NaN is refused

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, *E) of a sample that `inputs` returns; C includes the indicator channels."""
        if self.gaps is None:
            return self.file_shape
        channels, *extent = self.file_shape
        num_indicators = len(self.gaps.flagged)
        return (channels + num_indicators, *extent)

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Shape (C, *E) of a sample in the files, with channels first."""
        # An array without samples has a shape but needs no memory.
        no_samples = np.empty((0, *self.stored_shape), dtype=bool)
        return channels_first(no_samples, self.channels_last).shape[1:]

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.padding is not None

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Raise DataError for inputs [n, ...] whose shape or type differs from training.

        Only the header of inputs in a file is used.
        """
        described_sample = described(self.file_shape)
        if self.padding is not None and len(self.file_shape) != 2:
            raise DataError(
                f"inputs with {described_sample} are not sequences, so they cannot have lengths",
                where=where,
                hint=_NOT_PADDED,
            )
        shape = x.shape[1:]
        expected = self.stored_shape  # with L steps
        hint = f"provide samples of real numbers with {described_sample}"
        if self.padding is not None and shape:
            # Any number of steps is allowed; all other axes are compared.
            expected = with_steps(expected, self._steps(shape), self.channels_last)
            hint = f"{hint}; the number of steps may differ"
        if shape != expected or x.dtype.kind not in "fiub":
            raise DataError(
                f"has samples of shape {shape} and dtype {x.dtype},"
                f" expected the training samples' shape {self.stored_shape}",
                where=where,
                hint=hint,
            )

    def _steps(self, shape: tuple[int, ...]) -> int:
        """Return the number of steps of a sequence that has this shape in the files."""
        return shape[0] if self.channels_last else shape[-1]

    def oriented(self, raw_inputs: RawInputs, where: str) -> np.ndarray | Ragged:
        """Return the inputs that `assembled` returns, after checking that they are finite.

        Gaps are still NaN.
        """
        x = self.assembled(raw_inputs, where)
        # Checked block by block, so that a mapped file is never completely in memory.
        num_checked = 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, allow_nan=self.gaps is not None, offset=num_checked)
            num_checked += len(block)
        return x

    def inputs(
        self, raw: np.ndarray | RawInputs, where: str = "inputs"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs as Batch.x and Batch.valid.

        With `padding`, `raw` needs lengths unless NaN marks the ends.
        """
        if not isinstance(raw, RawInputs):
            raw = RawInputs(raw)
        x = self.oriented(raw, where)
        values, valid = read(x, np.arange(len(x)))
        return as_inputs(values, valid, self.scale, self.gaps)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz or .npy file, with targets if an .npz file has them."""
        array_names = {"x": self.names[0], "y": self.names[1]}
        if self.padding is not None and self.padding.marked_by == "lengths":
            # Lengths in the file are used only if the model was trained with lengths.
            array_names["lengths"] = self.padding.array
        arrays, part_rows = locate_new(path, where, array_names, part)
        stored_inputs = arrays["x"]
        origin = stored_inputs.where
        self.check(stored_inputs, origin)
        x = stored_inputs.read()
        lengths: np.ndarray | None = None
        if "lengths" in arrays:
            lengths = arrays["lengths"].read()
        rows = np.arange(len(x))
        row_names: list[str] | None = None
        if part_rows is not None:
            rows = part_rows
            # The samples of a part have their row numbers in the file as names.
            row_names = list(map(str, part_rows))

        def inputs(start: int, stop: int) -> RawInputs:
            chosen_rows = rows[start:stop]
            chosen_inputs, _ = read(x, chosen_rows)
            if lengths is None:
                return RawInputs(chosen_inputs)
            return RawInputs(chosen_inputs, lengths[chosen_rows])

        def targets() -> np.ndarray | None:
            if "y" not in arrays:
                return None
            stored_targets = arrays["y"]
            ends: np.ndarray | None = None
            # Dense targets end at the ends of their sequences.
            if self.targets.extent:
                ends = self.ends(inputs(0, len(rows)), origin)
            y = stored_targets.read()[rows]
            return self.encoded_targets(y, stored_targets.where, ends)

        return NewData(count=len(rows), inputs=inputs, targets=targets, where=origin, ids=row_names)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] that has the same form as in the files.

        A model for sequences of different lengths also accepts a list of sequences.
        """
        try:
            samples = self._array_or_sequences(x)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"has samples of different shapes: {error}", where=where, hint="pass one array"
            ) from error
        if isinstance(samples, np.ndarray):
            self.check(samples, where)
        else:
            for position, sequence in enumerate(samples):
                # `check` expects the axis of samples first.
                self.check(sequence[None], f"{where}, sample {position}")

        def inputs(start: int, stop: int) -> RawInputs:
            if isinstance(samples, np.ndarray):
                return RawInputs(samples[start:stop])
            # Sequences of a list are padded part by part, when they are read.
            return self._padded(samples[start:stop])

        return NewData(count=len(samples), inputs=inputs, targets=lambda: None, where=where)

    def _array_or_sequences(self, x: Any) -> np.ndarray | list[np.ndarray]:
        """Return samples in memory as an array, or as a list of sequences of different lengths."""
        if self.padding is None:
            return np.asarray(x)
        # An object that converts itself, such as a tensor, is one array; it contains padding if its
        # sequences have different lengths.
        if hasattr(x, "__array__"):
            x = np.asarray(x)
            if x.dtype.kind != "O":
                return x
        return [np.asarray(sequence) for sequence in x]

    def _padded(self, sequences: list[np.ndarray]) -> RawInputs:
        """Return sequences of different lengths as one array, with NaN after their ends.

        The lengths are included unless NaN marks the ends.
        """
        lengths = np.array([self._steps(sequence.shape) for sequence in sequences])
        # As long as the longest sequence of this part; the number of steps becomes L later.
        shape = with_steps(self.stored_shape, lengths.max(), self.channels_last)
        padded = np.full((len(sequences), *shape), np.nan)
        for padded_sequence, sequence in zip(padded, sequences, strict=True):
            # `check` ensures that sequences differ only in their number of steps, so each fills the
            # beginning of its row.
            given_steps = tuple(map(slice, sequence.shape))
            padded_sequence[given_steps] = sequence
        if self.padding is None or self.padding.marked_by == "nan":
            return RawInputs(padded)
        return RawInputs(padded, lengths)

    def remarks(self, raw: RawInputs, where: str = "inputs") -> dict[str, int]:
        """Return the changes with which `inputs` makes new inputs fit, with numbers of samples."""
        counts: dict[str, int] = {}
        ends = self.ends(raw, where)
        if self.padding is not None and ends is not None:
            counts |= remarks(ends, self.padding.length)
        num_missing = count_missing(self.assembled(raw, where))
        if self.gaps is not None and num_missing > 0:
            remark = f"with missing values, filled by task.gaps={self.gaps.how}"
            counts[remark] = num_missing
        return counts

    def encoded_targets(
        self, y: np.ndarray, where: str, ends: np.ndarray | None = None
    ) -> np.ndarray:
        """Return targets as Batch.y.

        For dense targets of sequences, `ends` must be the sequences' lengths [n].
        """
        if self.padding is not None and ends is not None and self.targets.extent:
            y = self.padding.targets(y, ends, self.channels_last, where)
        return self.targets.encode(y, where)

    def ends(self, raw_inputs: RawInputs, where: str) -> np.ndarray | None:
        """Return the lengths [n] int64 of sequences, as given or up to the NaN at their ends.

        None if all samples have one shape.
        """
        if self.padding is None:
            return None
        x = channels_first(raw_inputs.x, self.channels_last)  # [n, C, W]
        if raw_inputs.lengths is not None:
            return _checked_lengths(raw_inputs.lengths, len(x), x.shape[2], where)
        if self.padding.marked_by == "nan":
            return _ends_before_nan(x, where)
        input_name, _ = self.names
        raise DataError(
            "has no lengths, although the model was trained with lengths",
            where=where,
            hint=f"provide a list of sequences, or an .npz file with the arrays '{input_name}' and"
            f" '{self.padding.array}'",
        )

    def assembled(self, raw_inputs: RawInputs, where: str) -> np.ndarray | Ragged:
        """Return inputs as [n, C, *E], without copying them; sequences are cut to L steps."""
        self.check(raw_inputs.x, where)
        x = channels_first(raw_inputs.x, self.channels_last)
        ends = self.ends(raw_inputs, where)
        if self.padding is None or ends is None:
            return x
        sample = (self.file_shape[0], self.padding.length)
        return Ragged(lambda row: x[row], lengths=ends, sample=sample, dtype=x.dtype, storage=x)


def _checked_lengths(
    lengths: np.ndarray, num_samples: int, num_steps: int, where: str
) -> np.ndarray:
    """Return lengths as [n] int64; DataError if they are not integers in 1..num_steps."""
    hint = f"store the number of steps of each sample, or {_NOT_PADDED}"
    if lengths.shape != (num_samples,) or lengths.dtype.kind not in "iuf":
        raise DataError(
            f"has lengths of shape {lengths.shape} and dtype {lengths.dtype},"
            f" expected {num_samples} integers",
            where=where,
            hint=hint,
        )
    is_whole = lengths == np.floor(lengths)
    # NaN fails every comparison.
    is_wrong = ~((lengths >= 1) & (lengths <= num_steps) & is_whole)
    if is_wrong.any():
        first_wrong = first_of(is_wrong, lengths)
        raise DataError(
            f"contains lengths that are not integers in 1..{num_steps}:"
            f" {is_wrong.sum()} in total, {first_wrong}",
            where=where,
            hint=hint,
        )
    return lengths.astype(np.int64)


def _ends_before_nan(x: np.ndarray, where: str) -> np.ndarray:
    """Return the lengths [n] int64 of sequences [n, C, W] up to the NaN at their ends.

    DataError if a sequence contains only NaN.
    """
    ends_by_block = []
    step_numbers = np.arange(x.shape[2]) + 1  # [W]
    for block in blocks(x, np.arange(len(x))):
        # A step is present if any channel has a number.
        is_present = ~np.isnan(block).all(axis=1)  # [B, W]
        # The last step that is present; 0 if no step is.
        ends_by_block.append((is_present * step_numbers).max(axis=1))
    ends = np.concatenate(ends_by_block)
    is_empty = ends == 0
    if is_empty.any():
        first_empty = first_of(is_empty, ends)
        raise DataError(
            f"contains sequences of only NaN, which have length 0: {is_empty.sum()} in total,"
            f" {first_empty}",
            where=where,
            hint="remove these samples",
        )
    return ends


def with_steps(
    stored_shape: tuple[int, ...], num_steps: int, channels_last: bool
) -> tuple[int, ...]:
    """Return the shape of a sequence in a file, changed to another number of steps."""
    if channels_last:
        return (num_steps, *stored_shape[1:])
    channels = stored_shape[:-1]  # empty if samples in the file have the shape (L)
    return (*channels, num_steps)
