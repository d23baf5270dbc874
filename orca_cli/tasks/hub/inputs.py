"""Columns of numbers, lists and images of a `datasets` data set as inputs, decoded batch by batch from the mapped file.

Shapes: n rows, B rows of a batch, C channels, *E the extent (L, or H x W).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orca_cli import signals
from orca_cli.exceptions import DataError, UnavailableError
from orca_cli.interfaces import Batch
from orca_cli.tasks.shared.targets import check_finite

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

_BLOCK = 256  # rows that are decoded at once
_MAX_PIXELS = 10**8


@dataclass(frozen=True)
class Inputs:
    """How a column becomes inputs; the same for every split.

    Args:
        column: its name.
        shape: (C, *E).
        image_mode: L or RGB for images; empty for numbers.
        image_size: (height, width) that images are resized to; None keeps theirs.
        padded: whether shorter rows are padded with 0 and longer ones cut, on the last axis.
        channels_last: whether channels are the last axis of numbers.
    """

    column: str
    shape: tuple[int, ...]
    image_mode: str = ""
    image_size: tuple[int, int] | None = None
    padded: bool = False
    channels_last: bool = False

    def open(self, rows: Dataset) -> Dataset:
        """Return the one column of a split, in the form that `decode` reads."""
        view = rows.select_columns([self.column])
        if self.image_mode:
            import datasets

            return view.cast_column(self.column, datasets.Image(decode=False))
        # float64: float32, the default, would round away a small signal on a large offset.
        return view.with_format("numpy", dtype=np.float64)

    def decode(self, view: Dataset, indices: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return inputs [B, C, *E] and, where rows are padded, [B, *E] bool that is False at padding.

        Args:
            view: what `open` returned.
            indices: of the rows.
            where: split and column, for messages.

        Raises:
            DataError: a row of another shape, missing or infinite values, or an image that is none.
        """
        values = view[[int(i) for i in indices]][self.column]
        valid = None
        if self.image_mode:
            x = np.stack([self._pixels(value, f"{where}, row {i}") for i, value in zip(indices, values, strict=True)])
        elif self.padded:
            x, valid = self._padded([np.asarray(value, dtype=np.float64) for value in values], where)
        else:
            x = self._stacked(values, indices, where)
        for i, row in zip(indices, x, strict=True):
            check_finite(row, f"{where}, row {i}")
        return x, valid

    def oriented_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the (C, *E) of a row of numbers whose shape in the data set is given."""
        return self._oriented(np.empty((1, *shape))).shape[1:]

    def _stacked(self, values: Any, indices: np.ndarray, where: str) -> np.ndarray:
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            oriented = self._oriented(values)
            if oriented.shape[1:] == self.shape:
                return oriented
        for i, value in zip(indices, values, strict=True):
            shape = self._oriented(np.asarray(value)[None]).shape[1:]
            if shape != self.shape:
                raise DataError(
                    f"row {i} has shape {shape}, the first training row {self.shape}",
                    where=where,
                    hint="give task.length= to pad and cut sequences, or task.image_size= for images",
                )
        raise DataError("holds missing values", where=where, hint="leave these rows out")

    def _oriented(self, values: np.ndarray) -> np.ndarray:
        if values.ndim == 2:
            return values[:, None]
        return np.moveaxis(values, -1, 1) if self.channels_last and values.ndim > 2 else values

    def _padded(self, values: list[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((len(values), *self.shape))
        valid = np.zeros((len(values), *self.shape[1:]), dtype=bool)
        for row, known, value in zip(x, valid, values, strict=True):
            one = self._oriented(value[None])[0]
            if one.shape[:-1] != self.shape[:-1] or not one.shape[-1]:
                raise DataError(
                    f"a row has shape {one.shape}, expected {(*self.shape[:-1], 'any length')}", where=where
                )
            length = min(one.shape[-1], self.shape[-1])
            row[..., :length] = one[..., :length]
            known[..., :length] = True
        return x, valid

    def _pixels(self, value: dict[str, Any], where: str) -> np.ndarray:
        image = open_image(value, where).convert(self.image_mode)
        if self.image_size is not None:
            image = image.resize(self.image_size[::-1], resample=2)  # bilinear
        pixels = np.asarray(image, dtype=np.float64) / 255
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        if pixels.shape != self.shape:
            raise DataError(
                f"has shape {pixels.shape}, the first training image {self.shape}",
                where=where,
                hint="give task.image_size=SIDE to resize all",
            )
        return pixels


def open_image(value: dict[str, Any] | None, where: str) -> Image.Image:
    """Return an image that stands in a row, as bytes or as the path of a local file.

    Raises:
        DataError: it is missing, no image, or larger than 100 million pixels.
        UnavailableError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        hint = "pip install 'orca-transfer[datasets]'"
        raise UnavailableError("images need Pillow, which is not installed", where=where, hint=hint) from error

    if not value or not (value.get("bytes") or value.get("path")):
        raise DataError("holds no image", where=where, hint="leave this row out")
    try:
        image = Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
        if image.width * image.height > _MAX_PIXELS:
            raise DataError(f"{image.width} x {image.height} pixels are too many", where=where)
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"is no readable image: {error}", where=where, hint="leave this row out") from error
    return image


class HubSamples:
    """One split (see interfaces): targets in memory, inputs read from the mapped file when they are asked for.

    Args:
        rows: the split, or what splits are drawn from.
        inputs: how its column becomes inputs.
        targets: [N, ...] as Batch.y, of all of `rows`.
        chosen: [n] indices of this split's rows.
        where: split and column, for messages.
        groups: [N] int64, the record of each row; None where rows stand alone.
        mean: [C], subtracted from the inputs; None subtracts nothing.
        std: [C], positive, divides them. Given exactly where `mean` is.
    """

    def __init__(
        self,
        rows: Dataset,
        inputs: Inputs,
        targets: np.ndarray,
        chosen: np.ndarray,
        where: str,
        groups: np.ndarray | None = None,
        mean: np.ndarray | None = None,
        std: np.ndarray | None = None,
    ) -> None:
        self._view, self._inputs, self._where = inputs.open(rows), inputs, where
        self._y, self._chosen, self._groups = targets, chosen, groups
        self._mean, self._std = mean, std

    def __len__(self) -> int:
        """Return n."""
        return len(self._chosen)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices (0..n-1), in this order; nothing is augmented.

        Raises:
            DataError: a row of another shape, or with missing values.
        """
        rows = self._chosen[np.asarray(indices, dtype=np.int64)]
        x, valid = self._inputs.decode(self._view, rows, self._where)
        if self._mean is not None and self._std is not None:
            shape = (-1,) + (1,) * (x.ndim - 2)
            x = (x - self._mean.reshape(shape)) / self._std.reshape(shape)
            if valid is not None:  # padding stays 0
                x = np.where(valid[:, None], x, 0.0)
        mask = None if valid is None else torch.from_numpy(valid)
        return Batch(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(self._y[rows].copy()), mask)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self._y[self._chosen]

    def groups(self) -> np.ndarray | None:
        """Return the record of each sample, [n] int64, or None."""
        return None if self._groups is None else self._groups[self._chosen]

    def digest(self) -> str:
        """Return a SHA-256 over inputs as the model takes them, masks, targets and records."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK):
            signals.check()
            batch = self.batch(np.arange(start, min(start + _BLOCK, len(self))))
            for part in (batch.x, batch.valid, batch.y):
                if part is not None:
                    digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                    digest.update(part.numpy().tobytes())
        groups = self.groups()
        if groups is not None:
            digest.update(groups.tobytes())
        return digest.hexdigest()


def statistics(
    rows: Dataset, inputs: Inputs, chosen: np.ndarray, where: str, advance: Any
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return each channel's mean [C] and deviation [C] over rows and extent, without padding, and the constant channels.

    Args:
        rows: what `chosen` counts in.
        inputs: how its column becomes inputs.
        chosen: the training rows.
        where: split and column, for messages.
        advance: is told how many rows were read.

    Raises:
        DataError: a row of another shape, or with missing values.
    """
    axes = (0, *range(2, len(inputs.shape) + 1))
    count, mean, squares = 0.0, np.zeros(inputs.shape[0]), np.zeros(inputs.shape[0])
    for x, known in _blocks(rows, inputs, chosen, where, advance):
        # Means and squares of blocks are merged about their own means: no large offset is squared.
        size = known.sum() / known.shape[1]
        own = (x * known).sum(axis=axes) / size
        around = (((x - own.reshape(-1, *(1,) * (x.ndim - 2))) * known) ** 2).sum(axis=axes)
        squares += around + (own - mean) ** 2 * count * size / (count + size)
        mean += (own - mean) * size / (count + size)
        count += size
    std = np.sqrt(squares / count)
    # Sums of many equal numbers are off by rounding; what is left then is no variation of the data.
    constant = std <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, 1.0, std), [int(i) for i in np.flatnonzero(constant)]


def _blocks(
    rows: Dataset, inputs: Inputs, chosen: np.ndarray, where: str, advance: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    view = inputs.open(rows)
    for start in range(0, len(chosen), _BLOCK):
        signals.check()
        indices = chosen[start : start + _BLOCK]
        x, valid = inputs.decode(view, indices, where)
        yield x, np.broadcast_to(True if valid is None else valid[:, None], x.shape)
        advance(len(indices))
