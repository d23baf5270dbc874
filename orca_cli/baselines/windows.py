"""Features of every position of a map: the inputs around it."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Largest number of features of a position, unless its window is the position alone.
MOST_FEATURES = 512
# Largest number of values and of rows in the table of training positions.
_CELLS = 2**24
_MOST_ROWS = 2**17
# Number of axes -> largest number of positions of a window to each side of its own.
_RADIUS = {1: 3, 2: 2, 3: 1}


@dataclass(frozen=True)
class Windows:
    """The inputs around every position of a map as its features."""

    # Extent of the inputs, *E.
    extent: tuple[int, ...]
    # Positions of a window before and after its own, along each axis.
    sides: tuple[int, int]
    # Map [C, *E] that is subtracted from inputs; None: coordinates are features as well.
    centre: np.ndarray | None = None

    @classmethod
    def of_inputs(cls, x: np.ndarray, causal: bool) -> "Windows":
        """Return the widest windows for inputs [n, C, *E] with at most MOST_FEATURES features."""
        extent = x.shape[2:]
        radius = _RADIUS.get(len(extent), 0)
        while radius and x.shape[1] * (2 * radius + 1) ** len(extent) > MOST_FEATURES:
            radius -= 1
        # A causal window has the same size, and ends at its own position.
        sides = (2 * radius, 0) if causal else (radius, radius)
        return cls(extent=extent, sides=sides)

    @property
    def window(self) -> tuple[int, ...]:
        """Return the number of positions along each axis of a window."""
        return (sum(self.sides) + 1,) * len(self.extent)

    def width(self, num_channels: int) -> int:
        """Return the number of features of a position."""
        num_coordinates = 2 * len(self.extent) if self.centre is None else 0
        return num_channels * math.prod(self.window) + num_coordinates

    @functools.cached_property
    def coordinates(self) -> np.ndarray:
        """Return further features of all positions, [positions, 2 * axes], or [positions, 0].

        They are the coordinates, in -1..1, and their squares; a centred map does not have them.
        """
        if self.centre is not None:
            return np.zeros((math.prod(self.extent), 0))
        axes = [np.linspace(-1, 1, size) for size in self.extent]
        grid = np.meshgrid(*axes, indexing="ij")
        columns = [*grid, *(axis**2 for axis in grid)]
        return np.stack(columns, axis=-1).reshape(-1, 2 * len(self.extent))

    def features(self, sample: np.ndarray) -> np.ndarray:
        """Return the features [positions, F] of all positions of an input [C, *E]."""
        axes = len(self.extent)
        centred = sample if self.centre is None else sample - self.centre
        # All axes but the channels are padded in the same way.
        padding = [(0, 0)] + [self.sides for _ in self.extent]
        padded = np.pad(centred, padding)
        windows: Any = sliding_window_view(padded, self.window, axis=tuple(range(1, axes + 1)))
        # [C, *E, *window] -> [positions, C * window]
        values = np.moveaxis(windows, 0, axes).reshape(len(self.coordinates), -1)
        return np.concatenate([values, self.coordinates], axis=1)


def training_positions(
    windows: Windows, x: np.ndarray, is_known: np.ndarray, seed: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the features [N, F] of known positions of inputs, and their N indices into [n, *E].

    Each input has as many of them as the limits allow, drawn at random.

    Args:
        windows: computes the features.
        x: inputs [n, C, *E].
        is_known: [n, *E], whether a position has a target.
        seed: seed of the draw.
    """
    generator = np.random.default_rng(seed)
    rows = _CELLS // windows.features(x[0]).shape[1]
    per_sample = max(1, min(_MOST_ROWS, rows) // len(x))
    tables = []
    positions = []
    for number, sample in enumerate(x):
        shuffled = generator.permutation(np.flatnonzero(is_known[number]))
        chosen = np.sort(shuffled[:per_sample])
        tables.append(windows.features(sample)[chosen])
        indices = np.unravel_index(chosen, windows.extent)
        positions.append([np.full(len(chosen), number), *indices])
    return np.concatenate(tables), tuple(np.concatenate(positions, axis=1))
