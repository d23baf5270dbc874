"""The columns of a `datasets` data set as arrays: inputs (numbers, lists or images) by their rows, targets at once.

Rows of another shape than the training rows', with missing values or unreadable images raise DataError.

Shapes: B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_cli import signals
from orca_cli.data.blocks import channels_first
from orca_cli.data.images.files import decode, opened
from orca_cli.data.targets import check_finite
from orca_cli.exceptions import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ColumnLayout:
    """How values of a column become inputs [C, *E], `shape`, before they are scaled.

    Args:
        image_mode: L or RGB for images; empty for numbers.
        image_size: (height, width) that images are resized to; None keeps theirs.
        padded: whether shorter rows are padded with 0 and longer ones cut, on the last axis.
        channels_last: whether channels are the last axis of numbers.
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

        Args:
            values: of B rows: lists or arrays of numbers, or images as {"bytes": ..., "path": ...}.
            where: split and column, for messages.
            rows: their numbers, for messages; None counts from 0.
        """
        rows = range(len(values)) if rows is None else rows
        valid = None
        if self.image_mode:
            x = np.stack([self._pixels(value, f"{where}, row {i}") for i, value in zip(rows, values, strict=True)])
        elif self.padded:
            x, valid = self._padded([np.asarray(value, dtype=np.float64) for value in values], where)
        else:
            x = self._stacked(values, rows, where)
        for i, row in zip(rows, x, strict=True):
            check_finite(row, f"{where}, row {i}", allow_nan=True)
        return x, valid

    def steps(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return how many steps each of B rows of numbers has in the data, [B] int64."""
        return np.array([self._shape(value)[-1] for value in values], dtype=np.int64)

    def _shape(self, value: Any) -> tuple[int, ...]:
        """Return the shape (C, *E) of a row of numbers."""
        return channels_first(np.asarray(value)[None], self.channels_last).shape[1:]

    def _stacked(self, values: Sequence[Any] | np.ndarray, rows: Sequence[int], where: str) -> np.ndarray:
        for i, value in zip(rows, values, strict=True):
            if (shape := self._shape(value)) != self.shape:
                what = f"row {i} has shape {shape}, the first training row {self.shape}"
                raise DataError(what, where=where, hint="give task.length= to pad and cut sequences")
        return channels_first(np.stack([np.asarray(value, np.float64) for value in values]), self.channels_last)

    def _padded(self, values: list[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((len(values), *self.shape))
        valid = np.zeros((len(values), *self.shape[1:]), dtype=bool)
        for row, row_valid, value in zip(x, valid, values, strict=True):
            one = channels_first(value[None], self.channels_last)[0]
            if one.shape[:-1] != self.shape[:-1] or not one.shape[-1]:
                raise DataError(f"a row has shape {one.shape}, expected {self.shape[:-1]} and any length", where=where)
            length = min(one.shape[-1], self.shape[-1])
            row[..., :length], row_valid[..., :length] = one[..., :length], True
        return x, valid

    def _pixels(self, value: dict[str, Any], where: str) -> np.ndarray:
        side = None if self.image_size is None else self.image_size[0]
        pixels = decode(image_source(value, where), side, 1 if self.image_mode == "L" else 3, where=where) / 255
        if pixels.shape != self.shape:
            what = f"has shape {pixels.shape}, the first training image {self.shape}"
            raise DataError(what, where=where, hint="give task.image_size=SIDE to resize all")
        return pixels


def infer_layout(
    rows: Dataset,
    column: str,
    chosen: np.ndarray,
    where: str,
    length: int | None,
    image_size: int | None,
    channels_last: bool,
) -> ColumnLayout:
    """Return how a column becomes inputs, from its type and the training rows; other settings as those of `load`.

    Images are grey where all those of training are; the shape is that of the first one.

    Args:
        rows, column: of the data set's training split.
        chosen: numbers of the rows that are for training.
        where: split and column, for messages.

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


def image_source(value: dict[str, Any] | None, where: str) -> BytesIO | Path:
    """Return the content or the local file of an image that a row holds."""
    if not value or not (value.get("bytes") or value.get("path")):
        raise DataError("holds no image", where=where, hint="remove this row")
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

    Args:
        kind: of the targets.
        rows, column: a split, and its column.
        where: split and column, for messages.
        training_names: class names in the order of the training split's numbers, if it has some.

    Raises:
        DataError: targets are missing, or numbered otherwise than in training.
    """
    names, feature = class_names(kind, rows, column), rows.features[column]
    if names and training_names and names != tuple(training_names):
        what, hint = "numbers its classes otherwise than training", f"cast it to {', '.join(training_names)}"
        raise DataError(what, where=where, hint=hint)
    if names and kind == "labels":
        return _multi_hot(rows[column], len(names), where)
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


def _multi_hot(values: Sequence[Sequence[int] | None], k: int, where: str) -> np.ndarray:
    labels = np.zeros((len(values), k), dtype=np.float32)
    for i, present in enumerate(values):
        if present is None or any(label is None or not 0 <= label < k for label in present):
            raise DataError(f"row {i} has labels {present}, expected a list within 0..{k - 1}", where=where)
        labels[i, list(present)] = 1
    return labels
