"""Columns of a `datasets` data set as inputs and targets: those of a split, decoded batch by batch, and new ones.

Rows of another shape than the training rows', with missing values or unreadable images raise DataError.

Shapes: n rows of the split, N rows that it is drawn from, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import signals
from orca_cli.config import configuration
from orca_cli.data.blocks import channels_first
from orca_cli.data.gaps import Gaps, remarks, with_indicators
from orca_cli.data.hub.opening import open_dataset
from orca_cli.data.images.files import decode, opened
from orca_cli.data.own_data import check_column
from orca_cli.data.samples import ChannelScale, as_inputs
from orca_cli.data.splits import PART_NAMES
from orca_cli.data.targets import TargetForm, check_finite
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Batch, NewData

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK = 256  # rows that are decoded at once
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

    def decode(
        self, values: Sequence[Any] | np.ndarray, where: str, rows: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs [B, C, *E] in float64, NaN where numbers are missing, and, where rows are padded, [B, *E] bool that is
        False at padding.

        Values are lists or arrays of numbers, or images as {"bytes": ..., "path": ...}; `where` and the numbers of their rows
        (None counts from 0) are for messages.
        """
        rows = range(len(values)) if rows is None else rows
        valid = None
        if self.image_mode:
            side, channels = None if self.image_size is None else self.image_size[0], self.shape[0]
            places = [f"{where}, row {i}" for i in rows]
            sources = [image_source(value, place) for value, place in zip(values, places, strict=True)]
            pixels = [decode(one, side, channels, where=place) for one, place in zip(sources, places, strict=True)]
            if odd := [i for i, one in enumerate(pixels) if one.shape != self.shape]:
                what = f"has shape {pixels[odd[0]].shape}, the first training image {self.shape}"
                raise DataError(what, where=places[odd[0]], hint="give task.image_size=SIDE to resize all")
            x = np.stack(pixels) / 255
        elif self.padded:
            x, valid = self._padded(values, rows, where)
        else:
            x = self._stacked(values, rows, where)
        for i, row in zip(rows, x, strict=True):
            check_finite(row, f"{where}, row {i}", allow_nan=True)
        return x, valid

    def steps(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return how many steps each of B rows of numbers has in the data, [B] int64."""
        rows = (channels_first(_numbers(value, "")[None], self.channels_last) for value in values)
        return np.array([row.shape[-1] for row in rows], dtype=np.int64)

    def _stacked(self, values: Sequence[Any] | np.ndarray, rows: Sequence[int], where: str) -> np.ndarray:
        arrays = [_numbers(value, f"{where}, row {i}") for i, value in zip(rows, values, strict=True)]
        for i, array in zip(rows, arrays, strict=True):
            if (shape := channels_first(array[None], self.channels_last).shape[1:]) != self.shape:
                what = f"row {i} has shape {shape}, the first training row {self.shape}"
                raise DataError(what, where=where, hint="give task.length= to pad and cut sequences")
        return channels_first(np.stack(arrays), self.channels_last)

    def _padded(self, values: Values, rows: Sequence[int], where: str) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((len(values), *self.shape))
        valid = np.zeros((len(values), *self.shape[1:]), dtype=bool)
        for row, row_valid, i, value in zip(x, valid, rows, values, strict=True):
            one = channels_first(_numbers(value, f"{where}, row {i}")[None], self.channels_last)[0]
            if one.shape[:-1] != self.shape[:-1] or not one.shape[-1]:
                what = f"row {i} has shape {one.shape}, expected {self.shape[:-1]} and any length"
                raise DataError(what, where=where, hint="correct this row, or remove it")
            length = min(one.shape[-1], self.shape[-1])
            row[..., :length], row_valid[..., :length] = one[..., :length], True
        return x, valid


def _numbers(value: Any, where: str) -> np.ndarray:
    """Return a row of numbers as float64, NaN where one is missing."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("is not an array of numbers", where=where, hint="allowed: lists of equal lengths") from error


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
        ConfigError: a length for images, or an image size for numbers.
    """
    import datasets

    first_row, view = int(chosen[0]), rows.select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        if length is not None:
            raise ConfigError("applies to sequences", where="task.length", hint="give task.image_size=")
        stored = view.cast_column(column, datasets.Image(decode=False))
        mode = "L"
        for row in chosen:
            signals.check()
            place = f"{where}, row {row}"
            with opened(image_source(stored[int(row)][column], place), place) as image:
                is_grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            if not is_grey:
                mode = "RGB"
                break
        size, place = (image_size, image_size) if image_size else None, f"{where}, row {first_row}"
        extent = size or decode(image_source(stored[first_row][column], place), None, 1, where=place).shape[1:]
        return ColumnLayout((1 if mode == "L" else 3, *extent), mode, size)
    if image_size is not None:
        hint = f"column '{column}' holds {rows.features[column]}"
        raise ConfigError("applies to images", where="task.image_size", hint=hint)
    array = np.asarray(view.with_format("numpy", dtype=np.float64)[first_row][column])
    if array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size:
        what = f"holds {rows.features[column]}, the first row of shape {array.shape}"
        hint = "allowed: lists of numbers (L), (C, L) or (C, H, W), and images; for one number a column use task=table"
        raise DataError(what, where=where, hint=hint)
    shape = channels_first(array[None], channels_last).shape[1:]
    if length is not None:
        if len(shape) != 2:
            raise ConfigError("applies to sequences", where="task.length", hint=f"rows have shape {array.shape}")
        shape = (shape[0], length)
    return ColumnLayout(shape, padded=length is not None, channels_last=channels_last)


def image_source(value: Any, where: str) -> BytesIO | Path:
    """Return the content or the local file of an image that a row holds, as {"bytes": ..., "path": ...}."""
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise DataError(
            "holds no image", where=where, hint="remove this row; an image is {'path': FILE}, or its 'bytes'"
        )
    return BytesIO(value["bytes"]) if value.get("bytes") else Path(value["path"])


def open_column(rows: Dataset, column: str, is_image: bool) -> Callable[[np.ndarray], np.ndarray | list]:
    """Return what gives the values of rows by their numbers, in the form that `ColumnLayout.decode` takes."""
    view = rows.select_columns([column])
    if is_image:
        import datasets

        view = view.cast_column(column, datasets.Image(decode=False))
    else:
        # float64: float32, the default, would round away a small signal on a large offset.
        view = view.with_format("numpy", dtype=np.float64)
    return lambda indices: view[[int(i) for i in indices]][column]


def raw_targets(kind: str, rows: Dataset, column: str, where: str, training_names: Sequence[str] = ()) -> np.ndarray:
    """Return a column as an array [n, ...] of numbers or text; for labels, lists of classes become [n, K] of 0 and 1.

    `training_names` are class names in the order of the training split's numbers, if it has some.

    Raises:
        DataError: targets are missing, or numbered otherwise than in training.
    """
    names, feature = class_names(kind, rows, column), rows.features[column]
    if names and training_names and names != tuple(training_names):
        what, hint = "numbers its classes otherwise than training", f"cast it to {', '.join(training_names)}"
        raise DataError(what, where=where, hint=hint)
    if names and kind == "labels":
        bits, most = np.zeros((len(rows), len(names)), dtype=np.float32), len(names) - 1
        for i, present in enumerate(rows[column]):
            if present is None or any(label is None or not 0 <= label <= most for label in present):
                raise DataError(f"row {i} has labels {present}, expected a list within 0..{most}", where=where)
            bits[i, list(present)] = 1
        return bits
    array = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])
    if array.dtype.kind != "O":
        return array
    if kind != "labels" and all(isinstance(value, str) for value in array):
        return array.astype(str)
    hint = "remove rows without targets; labels are lists of List(ClassLabel(names=[...])), or 0 and 1 for each class"
    raise DataError(f"holds {feature}, with missing targets or lists of several lengths", where=where, hint=hint)


def class_names(kind: str, rows: Dataset, column: str) -> tuple[str, ...]:
    """Return the names of the classes that a column numbers by itself, or lists as labels; none for other columns."""
    import datasets

    feature = rows.features[column]
    feature = getattr(feature, "feature", None) if kind == "labels" else feature
    return tuple(feature.names) if kind in ("classes", "labels") and isinstance(feature, datasets.ClassLabel) else ()


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

    def inputs(
        self, raw: Sequence[Any] | np.ndarray, where: str = "inputs", rows: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return values of a column as Batch.x and Batch.valid; arguments as those of `ColumnLayout.decode`."""
        x, valid = self.layout.decode(raw, where, rows)
        if self.gaps is None:
            check_finite(x, where)
        return as_inputs(x, self.scale, valid, self.gaps), None if valid is None else torch.from_numpy(valid)

    def remarks(self, raw: Sequence[Any] | np.ndarray, where: str = "inputs") -> dict[str, int]:
        """Return what `inputs` does to make new rows fit, each with the number of rows."""
        if self.layout.image_mode:
            return {}
        steps = self.layout.steps(raw) if self.layout.padded else None
        return remarks(steps, self.layout.shape[-1], self.gaps, lambda: self.layout.decode(raw, where)[0])

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the rows of one split of a folder or hub id, with targets where it has that column.

        Raises:
            DataError: no such split or column, or several splits and no part.
        """
        folders = configuration.default_folders()
        splits, origin = open_dataset(str(path), self.config, None, folders["data"], folders["cache"])
        names = PART_NAMES[part] if part else splits if len(splits) == 1 else ()
        name = next((name for name in names if name in splits), "")
        if not name or not len(splits[name]):
            what = f"has no rows in a split '{part}'" if part else f"holds {len(splits)} splits, or none with rows"
            raise DataError(what, where=origin, hint=f"it holds {', '.join(splits)}; name one by --part")
        rows, place, (x, y) = splits[name], f"{origin}[{name}]", self.columns
        check_column(x, rows.column_names, where, place)
        values = open_column(rows, x, bool(self.layout.image_mode))
        kind = self.targets.kind if self.targets.kind in ("classes", "labels") else "dense"

        def encoded() -> np.ndarray | None:
            if y not in rows.column_names:
                return None
            training_names = () if self.targets.classes else self.targets.names
            return self.targets.encode(raw_targets(kind, rows, y, f"{place}[{y}]", training_names), f"{place}[{y}]")

        return NewData(len(rows), lambda start, stop: values(np.arange(start, stop)), encoded, f"{place}[{x}]")

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return rows from the values of the input column: a list of lists, arrays or images, or one array."""
        if not hasattr(x, "__len__") or isinstance(x, (str, dict)):
            raise DataError("is not a list of rows", where=where, hint="give the values of the input column")
        if isinstance(x, np.ndarray) and x.dtype.kind in "iub":
            x = x.astype(np.float64)
        return NewData(len(x), lambda start, stop: x[start:stop], lambda: None, where)


@dataclass(frozen=True)
class HubSamples:
    """One split (see interfaces): targets in memory, inputs read from the mapped file on demand.

    `values` gives those of the input column (see `open_column`) of N rows, of which the n of `chosen` are this split's; y
    [N, ...] and the records [N] int64, or None, are of all.
    """

    values: Callable[[np.ndarray], np.ndarray | list]
    preprocessing: HubPreprocessing
    y: np.ndarray
    chosen: np.ndarray
    where: str
    records: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices; nothing is augmented."""
        rows = self.chosen[np.asarray(indices, dtype=np.int64)]
        x, valid = self.preprocessing.inputs(self.values(rows), self.where, list(rows))
        return Batch(x, torch.from_numpy(self.y[rows].copy()), valid)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self.y[self.chosen]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self.records is None else self.records[self.chosen]

    def digest(self) -> str:
        """Return a SHA-256 over inputs as the model takes them, masks, targets and records."""
        digest, groups = hashlib.sha256(), self.groups()
        for indices in row_blocks(np.arange(len(self))):
            batch = self.batch(indices)
            for part in (batch.x, batch.valid, batch.y):
                if part is not None:
                    digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                    digest.update(part.numpy().tobytes())
        digest.update(b"" if groups is None else groups.tobytes())
        return digest.hexdigest()


def row_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of rows that are decoded at once; signals are checked between."""
    for start in range(0, len(rows), _BLOCK):
        signals.check()
        yield rows[start : start + _BLOCK]
