"""Which arrays of which files make up the splits, or new data, and what those of training say about inputs and targets.

The arrays of a split, one row per sample and not yet read, are a mapping from their roles: x, y, lengths, group. `names` are
those of roles in .npz files; the one array of an .npy file takes the name of its role. Which of their rows a split takes, an
array `split` may say.

Sequences may have different lengths. Where each ends is given by an array of lengths, or by steps of NaN after it. Inputs are
brought to one length, that of the longest training sequence unless another is given: longer ones lose their end, and what
comes after an end is neither read nor learned from.

Shapes: n samples, C channels, *E the extent (L, H x W, or D x H x W), K outputs; W steps in a file, l of a sequence alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from orca_cli.data.blocks import Ragged, blocks, channels_first, read
from orca_cli.data.own_data import check_rules, described, file_paths, refuse_if
from orca_cli.data.samples import ChannelScale, Gaps, as_inputs, remarks, with_indicators
from orca_cli.data.splits import PART_NAMES, marked_rows
from orca_cli.data.targets import TargetForm, as_text, check_finite, refuse
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, NewData

Arrays = dict[str, StoredArray]
_OTHER_NAMES = (
    "task.x, task.y, task.lengths and task.group name others, --part one of several splits"
)
_LABELS = {"train": "labels", "validation": "validation_labels", "test": "test_labels"}
LENGTHS = "lengths"  # the array that is looked for
_NOT_PADDED = "task.padding=none reads them as they are"
# Inputs as in the files, [n, ...], possibly with their lengths [n].
Raw = np.ndarray | tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Padding:
    """How the ends of sequences are given, by lengths or by steps of NaN, and the L steps that all are brought to.

    `missing_targets`: dense targets may be NaN before an end too. `array` is the name of the lengths in .npz files.
    """

    marked_by: Literal["lengths", "nan"]
    length: int
    missing_targets: bool = False
    array: str = LENGTHS

    def targets(
        self, y: np.ndarray, ends: np.ndarray, channels_last: bool, where: str
    ) -> np.ndarray:
        """Return dense targets of L steps: NaN after each end, or -100 where they are classes.

        `y` are targets as in the files, [n, W] or [n, K, W], with channels last [n, W, K]; `ends` are the sequences' lengths
        [n]. DataError where a sequence is longer than its targets, or one before its end is missing and must not be.
        """
        if y.ndim not in (2, 3) or y.dtype.kind not in "fiub":
            return y  # of a form that is refused elsewhere
        axis = 1 if channels_last else y.ndim - 1
        steps, is_class = y.shape[axis], y.dtype.kind in "iub"
        what = f"targets have {steps} steps and sequences up to {ends.max()}"
        refuse_if((ends > steps).any(), what, where, "dense targets have the extent of the inputs")
        kept = np.moveaxis(y.astype(np.int64) if is_class else y, axis, -1)[..., : self.length]
        after = np.expand_dims(
            np.arange(kept.shape[-1]) >= ends[:, None], tuple(range(1, y.ndim - 1))
        )
        if not is_class and not self.missing_targets:
            check_finite(np.where(after, 0, kept), where)
        missing = IGNORED_CLASS if is_class else np.nan
        room = [(0, 0)] * (y.ndim - 1) + [(0, self.length - kept.shape[-1])]
        return np.moveaxis(
            np.pad(np.where(after, missing, kept), room, constant_values=missing), -1, axis
        )


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
        return channels_first(np.empty((0, *self.stored_shape), bool), self.channels_last).shape[1:]

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.padding is not None

    def check(self, x: StoredArray | np.ndarray, where: str) -> None:
        """Raise DataError for inputs [n, ...] of another shape or type than in training; those in a file are not read."""
        what = f"inputs with {described(self.file_shape)} are not sequences, so they cannot have lengths"
        refuse_if(self.padding is not None and len(self.file_shape) != 2, what, where, _NOT_PADDED)
        shape, expected, steps = tuple(x.shape[1:]), self.stored_shape, ""
        if self.padding is not None and shape:
            steps = ", with any number of steps"
            expected = with_steps(
                expected, shape[0 if self.channels_last else -1], self.channels_last
            )
        what = f"samples have shape {shape}, those of the training set {self.stored_shape}; inputs have dtype {x.dtype}"
        hint = f"the model takes real numbers, {described(self.file_shape)} a sample{steps}"
        refuse_if(shape != expected or x.dtype.kind not in "fiub", what, where, hint)

    def oriented(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        """Return what `assembled` returns, of finite numbers; gaps are NaN still."""
        x, done = self.assembled(raw, where), 0
        for block in blocks(x, np.arange(len(x))):
            check_finite(block, where, allow_nan=self.gaps is not None, offset=done)
            done += len(block)
        return x

    def inputs(self, raw: Raw, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return inputs as Batch.x and Batch.valid; with padding, and unless NaN marks the ends, `raw` has the lengths [B]."""
        x = self.oriented(raw, where)
        return as_inputs(*read(x, np.arange(len(x))), self.scale, self.gaps)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the samples of an .npz file, with targets where it has them, or of an .npy file of inputs."""
        lengths = (
            self.padding.array
            if self.padding is not None and self.padding.marked_by == "lengths"
            else None
        )
        names = dict(zip(("x", "y"), self.names, strict=True)) | (
            {} if lengths is None else {"lengths": lengths}
        )
        arrays, rows = locate_new(path, where, names, part)
        x, y = arrays["x"], arrays.get("y")
        self.check(x, x.where)
        stored, chosen = x.read(), np.arange(x.shape[0]) if rows is None else rows
        ends = arrays["lengths"].read() if "lengths" in arrays else None

        def inputs(start: int, stop: int) -> Raw:
            some = chosen[start:stop]
            values = stored[some]
            release_pages(stored)
            return values if ends is None else (values, ends[some])

        def targets() -> np.ndarray | None:
            if y is None:
                return None
            held = self.ends(inputs(0, len(chosen)), x.where) if self.targets.extent else None
            return self.encoded_targets(y.read()[chosen], y.where, held)

        return NewData(
            len(chosen),
            inputs,
            targets,
            x.where,
            None if rows is None else [str(row) for row in rows],
        )

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the samples of an array [n, ...] as in the files; of a model for lengths also a list of sequences."""
        try:
            # What converts itself, as tensors do, is one array, padded if its sequences have several lengths.
            x = np.asarray(x) if self.padding is None or hasattr(x, "__array__") else x
            is_array = self.padding is None or (isinstance(x, np.ndarray) and x.dtype.kind != "O")
            values = x if is_array else [np.asarray(row) for row in x]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"samples of different shapes: {error}", where=where, hint="give one array"
            ) from error
        for i, one in enumerate([values] if is_array else values):
            self.check(
                one if is_array else one[None], where if is_array else f"{where}, sample {i}"
            )
        raw = (lambda part: part) if is_array else self._padded
        return NewData(
            len(values), lambda start, stop: raw(values[start:stop]), lambda: None, where
        )

    def _padded(self, sequences: list[np.ndarray]) -> Raw:
        """Return sequences of several lengths as one array, NaN after their ends, with the lengths if these mark ends."""
        lengths = np.array([one.shape[0 if self.channels_last else -1] for one in sequences])
        x = np.full(
            (len(sequences), *with_steps(self.stored_shape, lengths.max(), self.channels_last)),
            np.nan,
        )
        for row, one in zip(x, sequences, strict=True):
            row[tuple(map(slice, one.shape))] = one
        return x if self.padding is None or self.padding.marked_by == "nan" else (x, lengths)

    def remarks(self, raw: Raw, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new inputs fit, each with the number of samples."""
        length = 0 if self.padding is None else self.padding.length
        return remarks(self.ends(raw, where), length, self.gaps, self.assembled(raw, where))

    def encoded_targets(
        self, y: np.ndarray, where: str, ends: np.ndarray | None = None
    ) -> np.ndarray:
        """Return targets as Batch.y; dense ones of sequences [n, ...] with the sequences' lengths [n]."""
        if self.padding is not None and ends is not None and self.targets.extent:
            y = self.padding.targets(y, ends, self.channels_last, where)
        return self.targets.encode(y, where)

    def ends(self, raw: Raw, where: str) -> np.ndarray | None:
        """Return the lengths [n] int64 of sequences, as given or up to a tail of NaN in all channels.

        None where all samples have one shape.
        """
        x, lengths = raw if isinstance(raw, tuple) else (raw, None)
        first, hint = (
            channels_first(x, self.channels_last),
            f"the number of steps of each sample; or {_NOT_PADDED}",
        )
        if self.padding is None:
            return None
        if lengths is None and self.padding.marked_by == "nan":
            present = (
                ~np.isnan(part).all(axis=1) for part in blocks(first, np.arange(len(x)))
            )  # [B, W]
            ends = np.concatenate(
                [np.where(one.any(1), one.shape[1] - one[:, ::-1].argmax(1), 0) for one in present]
            )
            refuse(
                ends == 0, ends, "lengths are 0, where all is NaN", where, "remove these samples"
            )
            return ends.astype(np.int64)
        if lengths is None:
            hint = f"give a list of sequences, or an .npz file with {self.names[0]} and {self.padding.array}"
            raise DataError(
                "has no lengths, and the model was trained with them", where=where, hint=hint
            )
        what = f"lengths have shape {lengths.shape} and dtype {lengths.dtype}, expected {len(x)} integers"
        refuse_if(lengths.shape != (len(x),) or lengths.dtype.kind not in "iuf", what, where, hint)
        wrong = ~((lengths >= 1) & (lengths <= first.shape[2]) & (lengths == np.floor(lengths)))
        refuse(wrong, lengths, f"lengths are not in 1..{first.shape[2]}", where, hint)
        return lengths.astype(np.int64)

    def assembled(self, raw: Raw, where: str) -> np.ndarray | Ragged:
        """Return inputs as [n, C, *E], without copying; `raw` as that of `inputs`."""
        x = raw[0] if isinstance(raw, tuple) else raw
        self.check(x, where)
        rows, ends = channels_first(x, self.channels_last), self.ends(raw, where)
        if self.padding is None or ends is None:
            return rows
        return Ragged(
            lambda row: rows[row], ends, (self.file_shape[0], self.padding.length), x.dtype, rows
        )


def with_steps(sample: tuple[int, ...], steps: int, channels_last: bool) -> tuple[int, ...]:
    """Return the shape of a sequence in a file with another number of steps."""
    return (steps, *sample[1:]) if channels_last else (*sample[:-1], steps)


def locate(
    files: Mapping[str, str | None],
    names: Mapping[str, str],
    optional: Sequence[str],
    data_folder: Path,
) -> tuple[dict[str, Arrays], dict[str, np.ndarray]]:
    """Return the arrays that hold each split, and the rows that splits take of those that hold train; only headers are read.

    Rows are given for train and for the splits that an array `split` marks, which have no arrays of their own. `files` are the
    settings of the splits and of their labels, None where not given; roles that are `optional` may be absent from a file.
    ConfigError for settings that contradict the files; DataError where an array is missing or of another length, a split is
    there twice, or only some splits have lengths.
    """
    paths, parts, rows = (
        file_paths(files, data_folder),
        dict[str, Arrays](),
        dict[str, np.ndarray](),
    )
    for part, labels in _LABELS.items():
        path, is_held = paths.get(part), part in parts or part in rows
        check_rules(
            (
                path is None and labels in paths,
                labels,
                "given without its inputs",
                f"give task.{part}=FILE.npy",
            ),
            (
                path is not None and is_held,
                part,
                "the training file already holds this split",
                "remove it",
            ),
        )
        if path is None:
            continue
        arrays, alone = (
            open_arrays(path, f"task.{part}"),
            f"{path.name} is one array, without targets",
        )
        hint, why = (
            f"give task.{labels}=FILE.npy, or store both in an .npz file",
            f"{path.name} holds its own targets",
        )
        check_rules(
            ("" in arrays and labels not in paths, labels, alone, hint),
            ("" not in arrays and labels in paths, labels, "applies to .npy files", why),
        )
        if labels in paths:
            held = open_arrays(paths[labels], f"task.{labels}")
            arrays = {name or names["y"]: array for name, array in held.items()} | {
                names["x"]: arrays[""]
            }
        by_role, endings = (
            partial(_by_role, arrays, names, optional, path),
            _endings(arrays, names["x"]),
        )
        if part != "train":
            parts[part] = by_role()
            continue
        parts = {other: by_role(ending) for other, ending in endings.items()}
        if part not in parts or names["x"] in arrays:
            whole = by_role()
            rows = _marked(whole)
            for other in parts:
                refuse_if(
                    other in (part, *rows),
                    f"holds the {other} split twice",
                    str(path),
                    _content(arrays),
                )
            parts[part] = whole
    hint = "add them to every split, or ignore them with task.padding=none"
    for one in parts.values():  # padding would pass for data
        is_lacking = "lengths" not in one and any("lengths" in other for other in parts.values())
        refuse_if(is_lacking, "has no lengths, but another split has", one["x"].where, hint)
    return parts, rows or {"train": np.arange(parts["train"]["x"].shape[0])}


def locate_new(
    path: Path, where: str, names: Mapping[str, str], part: str
) -> tuple[Arrays, np.ndarray | None]:
    """Return the arrays of new samples, y only where the file has it, and the rows that are requested; None are all.

    Only headers are read. A part is inputs called so (x_test), or rows that an array `split` marks; empty takes all.
    """
    arrays, chosen = (
        {name or names["x"]: array for name, array in open_arrays(path, where).items()},
        Arrays(),
    )
    endings = _endings(arrays, names["x"])
    is_marked = bool(part) and part not in endings
    if not is_marked or "split" in arrays:
        chosen = _by_role(arrays, names, ("y",), path, endings.get(part, ""))
    rows = _marked(chosen, for_training=False).get(part) if is_marked else None
    refuse_if(is_marked and rows is None, f"has no part '{part}'", str(path), _content(arrays))
    return chosen, rows


def _content(arrays: Arrays) -> str:
    return f"it holds {', '.join(sorted(arrays)) or 'nothing'}"


def _endings(arrays: Arrays, x: str) -> dict[str, str]:
    """Return the endings of the splits that have inputs of their own, such as `_val`; the first where there are several."""
    return {
        part: f"_{word}"
        for part, words in PART_NAMES.items()
        for word in words[::-1]
        if f"{x}_{word}" in arrays
    }


def _by_role(
    arrays: Arrays, names: Mapping[str, str], optional: Sequence[str], path: Path, ending: str = ""
) -> Arrays:
    """Return the arrays of a file whose names have an ending, and the marks of splits where there are any."""
    names = {role: name + ending for role, name in names.items()} | {"split": f"split{ending}"}
    absent = [
        name
        for role, name in names.items()
        if name not in arrays and role not in (*optional, "split")
    ]
    refuse_if(
        absent,
        f"no array '{''.join(absent[:1])}'",
        str(path),
        f"{_content(arrays)}; {_OTHER_NAMES}",
    )
    by_role = {role: arrays[name] for role, name in names.items() if name in arrays}
    x, hint = by_role["x"], "arrays need one row per sample, groups and marks one axis"
    refuse_if(not x.shape or x.shape[0] == 0, "no samples", x.where, "give a file with samples")
    for role, array in by_role.items():
        is_wrong = array.shape[:1] != x.shape[:1] or (
            role in ("group", "split") and len(array.shape) > 1
        )
        refuse_if(
            is_wrong,
            f"shape {array.shape} does not match inputs of shape {x.shape}",
            array.where,
            hint,
        )
    return by_role


def _marked(arrays: Arrays, for_training: bool = True) -> dict[str, np.ndarray]:
    """Return the rows of each split that an array `split` marks, if there is one; see `marked_rows`."""
    if (marks := arrays.get("split")) is None:
        return {}
    return marked_rows(as_text(marks.read(), marks.where), marks.where, for_training=for_training)
