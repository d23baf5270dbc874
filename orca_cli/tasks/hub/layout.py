"""How a column of numbers, lists or images of a `datasets` data set becomes arrays.

Rows of another shape than the training rows', with missing values or unreadable images raise DataError.

Shapes: B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.tasks.images.files import decode, opened
from orca_cli.tasks.shared.target_encoding import check_finite

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
        return np.array([self.oriented(np.asarray(value)[None]).shape[-1] for value in values], dtype=np.int64)

    def _stacked(self, values: Sequence[Any] | np.ndarray, rows: Sequence[int], where: str) -> np.ndarray:
        if not isinstance(values, np.ndarray):
            values = [np.asarray(value, dtype=np.float64) for value in values]
            values = np.stack(values) if len({value.shape for value in values}) == 1 else values
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            oriented = self.oriented(values)
            if oriented.shape[1:] == self.shape:
                return oriented
        for i, value in zip(rows, values, strict=True):
            shape = self.oriented(np.asarray(value)[None]).shape[1:]
            if shape != self.shape:
                what = f"row {i} has shape {shape}, the first training row {self.shape}"
                raise DataError(what, where=where, hint="give task.length= to pad and cut sequences")
        raise DataError("values are missing", where=where, hint="remove these rows")

    def oriented(self, values: np.ndarray) -> np.ndarray:
        """Return numbers [B, ...] as [B, C, *E]."""
        if values.ndim == 2:
            return values[:, None]
        return np.moveaxis(values, -1, 1) if self.channels_last and values.ndim > 2 else values

    def _padded(self, values: list[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((len(values), *self.shape))
        valid = np.zeros((len(values), *self.shape[1:]), dtype=bool)
        for row, known, value in zip(x, valid, values, strict=True):
            one = self.oriented(value[None])[0]
            if one.shape[:-1] != self.shape[:-1] or not one.shape[-1]:
                what = f"a row has shape {one.shape}, expected {(*self.shape[:-1], 'any length')}"
                raise DataError(what, where=where)
            length = min(one.shape[-1], self.shape[-1])
            row[..., :length] = one[..., :length]
            known[..., :length] = True
        return x, valid

    def _pixels(self, value: dict[str, Any], where: str) -> np.ndarray:
        side = None if self.image_size is None else self.image_size[0]
        pixels = decode(_image_source(value, where), side, 1 if self.image_mode == "L" else 3, where=where) / 255
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
        mode = "L" if all(_is_grey(stored[int(row)][column], f"{where}, row {row}") for row in chosen) else "RGB"
        size = (image_size, image_size) if image_size else None
        place = f"{where}, row {first_row}"
        extent = size or decode(_image_source(stored[first_row][column], place), None, 1, where=place).shape[1:]
        return ColumnLayout((1 if mode == "L" else 3, *extent), mode, size)
    if image_size is not None:
        hint = f"column '{column}' holds {rows.features[column]}"
        raise ConfigError("applies to images", where="task.image_size", hint=hint)
    array = np.asarray(view.with_format("numpy", dtype=np.float64)[first_row][column])
    if array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size:
        what = f"holds {rows.features[column]}, the first row of shape {array.shape}"
        hint = "allowed: lists of numbers (L), (C, L) or (C, H, W), and images; for one number a column use task=table"
        raise DataError(what, where=where, hint=hint)
    layout = ColumnLayout((), padded=length is not None, channels_last=channels_last)
    shape = layout.oriented(array[None]).shape[1:]
    if length is not None:
        if len(shape) != 2:
            raise ConfigError("applies to sequences", where="task.length", hint=f"rows have shape {array.shape}")
        shape = (shape[0], length)
    return replace(layout, shape=shape)


def _is_grey(value: dict[str, Any] | None, where: str) -> bool:
    """Return whether an image has no colours, by its header."""
    signals.check()
    with opened(_image_source(value, where), where) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")


def _image_source(value: dict[str, Any] | None, where: str) -> BytesIO | Path:
    """Return the content or the local file of an image that a row holds."""
    if not value or not (value.get("bytes") or value.get("path")):
        raise DataError("holds no image", where=where, hint="remove this row")
    return BytesIO(value["bytes"]) if value.get("bytes") else Path(value["path"])
