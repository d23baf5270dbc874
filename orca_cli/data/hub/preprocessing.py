"""Columns of a `datasets` data set as inputs and targets: those of a split, decoded batch by batch, and new ones.

Rows of another shape than the training rows', with missing values or unreadable images raise DataError.

Shapes: n rows of the split, N rows that it is drawn from, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from orca_cli import signals
from orca_cli.config import configuration
from orca_cli.data.blocks import Lazy, channels_first, in_turn
from orca_cli.data.contents import MOST_BYTES, hashes
from orca_cli.data.hub.opening import open_dataset
from orca_cli.data.images.files import decode, opened
from orca_cli.data.own_data import check_columns, check_rules, refuse_if
from orca_cli.data.samples import ArraySamples, ChannelScale, Gaps, as_inputs, remarks, with_indicators
from orca_cli.data.splits import PART_NAMES
from orca_cli.data.targets import TargetForm, check_finite
from orca_cli.exceptions import DataError
from orca_cli.interfaces import NewData

if TYPE_CHECKING:
    from datasets import Dataset

Values = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class ColumnLayout:
    """How values of a column become inputs [C, *E], `shape`, before they are scaled.

    Images have a mode, L or RGB, which is empty for numbers, and are resized to (height, width) unless None. With `padded`
    shorter rows are padded with 0 and longer ones cut, on the last axis; with channels last these are the last axis of numbers.
    """

    shape: tuple[int, ...]
    image_mode: str = ""
    image_size: tuple[int, int] | None = None
    padded: bool = False
    channels_last: bool = False

    def decode(self, values: Values, where: str, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs [B, C, *E] in float64, NaN where numbers are missing, and, where rows are padded, [B, *E] bool that is
        False at padding.

        Values are lists or arrays of numbers, or images as {"bytes": ..., "path": ...}; `where` and the numbers of their rows
        are for messages.
        """
        side = None if self.image_size is None else self.image_size[0]
        inputs = []
        for row, value in zip(rows, values, strict=True):
            place = f"{where}, row {row}"
            if self.image_mode:
                one = decode(image_content(value, place), side, self.shape[0], where=place) / 255
            else:
                try:
                    one = channels_first(np.asarray(value, np.float64)[None], self.channels_last)[0]
                except (TypeError, ValueError) as error:
                    hint = "allowed: lists of equal lengths"
                    raise DataError("is not an array of numbers", where=place, hint=hint) from error
                check_finite(one, place, allow_nan=True)
            steps = one.shape[-1:]
            fits = steps == self.shape[-1:] or (self.padded and any(steps))
            hint = "task.length= pads and cuts sequences, task.image_size= resizes images"
            what = f"has shape {one.shape}, the first training row {self.shape}"
            refuse_if(one.shape[:-1] != self.shape[:-1] or not fits, what, place, hint)
            inputs.append(one)
        if not self.padded:
            return np.stack(inputs), None
        x, length = np.zeros((len(inputs), *self.shape)), self.shape[-1]
        for padded, one in zip(x, inputs, strict=True):
            padded[:, : one.shape[1]] = one[:, :length]
        return x, np.arange(length) < np.array([[one.shape[1]] for one in inputs])


def infer_layout(
    rows: Dataset,
    column: str,
    chosen: np.ndarray,
    where: str,
    length: int | None,
    image_size: int | None,
    channels_last: bool,
) -> ColumnLayout:
    """Return how a column becomes inputs, from its type and the chosen training rows; other settings as those of `load`.

    Images are grey where all those of training are; the shape is that of the first one.

    Raises:
        ConfigError: a length for anything but sequences, or an image size for numbers.
    """
    values, place = open_column(rows, column), f"{where}, row {chosen[0]}"
    first = values(chosen[:1])[0]
    is_image = isinstance(first, dict)
    if is_image:
        shape = decode(image_content(first, place), image_size, 1, where=place).shape
    else:
        array = np.asarray(first)
        is_wrong = array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size
        what = f"holds {rows.features[column]}, the first row of shape {array.shape}"
        hint = "allowed: lists of numbers (L), (C, L), (C, H, W), and images; for one number a column use task=table"
        refuse_if(is_wrong, what, where, hint)
        shape = channels_first(array[None], channels_last).shape[1:]
    kind = "images" if is_image else f"inputs of shape {shape}"
    check_rules(
        (length is not None and (is_image or len(shape) != 2), "length", f"applies to sequences, not to {kind}", ""),
        (image_size is not None and not is_image, "image_size", f"applies to images, not to {kind}", ""),
    )
    if not is_image:
        shape = shape if length is None else (shape[0], length)
        return ColumnLayout(shape, padded=length is not None, channels_last=channels_last)

    def is_grey(row: int) -> bool:
        signals.check()
        place = f"{where}, row {row}"
        with opened(image_content(values(np.array([row]))[0], place), place) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")

    channels, mode = (1, "L") if all(map(is_grey, chosen)) else (3, "RGB")
    return ColumnLayout((channels, *shape[1:]), mode, None if image_size is None else (image_size, image_size))


def image_content(value: Any, where: str) -> BytesIO:
    """Return the content of an image that a row holds, as {"bytes": ..., "path": ...}."""
    try:
        return BytesIO(value.get("bytes") or Path(value["path"]).read_bytes())
    except (AttributeError, KeyError, TypeError, OSError) as error:
        hint = "remove this row; an image is {'path': FILE}, or its 'bytes'"
        why = getattr(error, "strerror", "no bytes and no path")
        raise DataError(f"holds no image ({why})", where=where, hint=hint) from error


def open_column(rows: Dataset, column: str) -> Callable[[np.ndarray], np.ndarray | list]:
    """Return what gives the values of rows by their numbers, in the form that `ColumnLayout.decode` takes."""
    import datasets

    view = rows.select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        view = view.cast_column(column, datasets.Image(decode=False))
    else:
        # float64: float32, the default, would round away a small signal on a large offset.
        view = view.with_format("numpy", dtype=np.float64)
    return lambda indices: view[[int(i) for i in indices]][column]


def contents(rows: Dataset, column: str, where: str, chosen: np.ndarray) -> np.ndarray | None:
    """Return a hash of each chosen row's input [n], for images of the file; None where there are too many bytes to compare."""
    values = open_column(rows, column)
    if rows.data.column(column).nbytes > MOST_BYTES:
        return None

    def content(row: int, value: Any) -> bytes:
        if isinstance(value, dict):
            return image_content(value, f"{where}, row {row}").getvalue()
        array = np.asarray(value)  # of objects for lists of several lengths, which are refused later
        return b"" if array.dtype.kind == "O" else f"{array.shape}".encode() + array.tobytes()

    parts = in_turn(chosen, Column.rows_at_once)
    return hashes(content(row, value) for part in parts for row, value in zip(part, values(part), strict=True))


def raw_targets(
    kind: str, rows: Dataset, column: str, where: str, training_names: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a column as an array [n, ...] of numbers or text, and the names of classes that it numbers by itself, if any.

    For labels, lists of classes become [n, K] of 0 and 1. `training_names` are those of the training split.

    Raises:
        DataError: targets are missing, or numbered otherwise than in training.
    """
    feature = rows.features[column]
    numbered = {"labels": getattr(feature, "feature", None), "classes": feature}.get(kind)
    names = tuple(getattr(numbered, "names", ()))  # of ClassLabel alone
    is_other = names and training_names and names != tuple(training_names)
    refuse_if(is_other, "numbers its classes otherwise than training", where, f"cast it to {', '.join(training_names)}")
    if names and kind == "labels":
        bits, most = np.zeros((len(rows), len(names)), dtype=np.float32), len(names) - 1
        for i, present in enumerate(rows[column]):
            is_wrong = present is None or any(label is None or not 0 <= label <= most for label in present)
            refuse_if(is_wrong, f"row {i} has labels {present}, expected a list within 0..{most}", where)
            bits[i, list(present)] = 1
        return bits, names
    array = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])
    if array.dtype.kind != "O":
        return array, names
    if kind != "labels" and all(isinstance(value, str) for value in array):
        return array.astype(str), names
    hint = "remove rows without targets; labels are lists of List(ClassLabel(names=[...])), or 0 and 1 for each class"
    raise DataError(f"holds {feature}, with missing targets or lists of several lengths", where=where, hint=hint)


@dataclass(frozen=True)
class HubPreprocessing:
    """What the training rows say about the inputs and targets of all rows; without scale, inputs stay as they are."""

    layout: ColumnLayout
    targets: TargetForm
    scale: ChannelScale | None
    columns: tuple[str, str] = ("", "")  # of inputs and targets
    config: str | None = None  # of the data sets that are opened
    gaps: Gaps | None = None  # None refuses missing numbers

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *E), with the indicator channels of gaps."""
        return with_indicators(self.layout.shape, self.gaps)

    @property
    def has_masks(self) -> bool:
        """Whether samples have padding, so that inputs come with a mask."""
        return self.layout.padded

    def inputs(self, raw: Values, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return values of a column, as `ColumnLayout.decode` takes them, as Batch.x and Batch.valid."""
        x, valid = self.layout.decode(raw, where, range(len(raw)))
        if self.gaps is None:
            check_finite(x, where)
        return as_inputs(x, valid, self.scale, self.gaps)

    def remarks(self, raw: Values, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new rows fit, each with the number of rows."""
        layout, steps = self.layout, None
        if layout.padded:
            steps = np.array([np.shape(value)[0 if layout.channels_last else -1] for value in raw])
        x = None if self.gaps is None else layout.decode(raw, where, range(len(raw)))[0]
        return remarks(steps, layout.shape[-1], self.gaps, x)

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of one split of a folder or hub id, with targets where it has that column.

        Raises:
            DataError: no such split or column, or several splits and no part.
        """
        folders = configuration.default_folders()
        splits, origin = open_dataset(str(path), self.config, None, folders["data"], folders["cache"])
        names = PART_NAMES[part] if part else splits if len(splits) == 1 else ()
        name = next((name for name in names if name in splits), "")
        what = f"has no rows in a split '{part}'" if part else f"holds {len(splits)} splits, or none with rows"
        hint = f"it holds {', '.join(splits)}; name one by --part"
        refuse_if(not name or not len(splits[name]), what, origin, hint)
        rows, place, (x, y) = splits[name], f"{origin}[{name}]", self.columns
        check_columns([x], rows.column_names, where, place)
        values = open_column(rows, x)

        def encoded() -> np.ndarray | None:
            if y not in rows.column_names:
                return None
            form, y_place = self.targets, f"{place}[{y}]"
            raw, _ = raw_targets(form.kind, rows, y, y_place, () if form.classes else form.names)
            return form.encode(raw, y_place)

        return NewData(len(rows), lambda start, stop: values(np.arange(start, stop)), encoded, f"{place}[{x}]")

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return rows from the values of the input column: a list of lists, arrays or images, or one array."""
        is_wrong = not hasattr(x, "__len__") or isinstance(x, (str, dict))
        refuse_if(is_wrong, "is not a list of rows", where, "give the values of the input column")
        return NewData(len(x), lambda start, stop: x[start:stop], lambda: None, where)


class Column(Lazy):
    """A column of N rows as inputs in float64, decoded when they are asked for; NaN where numbers are missing."""

    rows_at_once = 256

    def __init__(self, rows: Dataset, name: str, layout: ColumnLayout, where: str) -> None:
        super().__init__((len(rows), *layout.shape), np.float64)
        self._values, self._layout, self._where = open_column(rows, name), layout, where

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what `ColumnLayout.decode` returns of these rows."""
        return self._layout.decode(self._values(rows), self._where, list(rows))


class HubSamples(ArraySamples):
    """Samples (see interfaces) whose inputs are read from the mapped file on demand."""

    def digest(self) -> str:
        """Return a SHA-256 over inputs as the model takes them, masks, targets and records."""
        digest, groups = hashlib.sha256(), self.groups()
        for some in in_turn(np.arange(len(self)), Column.rows_at_once):
            batch = self.batch(some)
            for part in (batch.x, batch.valid, batch.y):
                if part is not None:
                    digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                    digest.update(part.numpy().tobytes())
        digest.update(b"" if groups is None else groups.tobytes())
        return digest.hexdigest()
