"""Proteins as samples: features read protein by protein, distance maps mapped from the cache.

Shapes: L residues of a protein, W positions per side of the window that all proteins are placed in, n proteins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, Scale
from orca_cli.tasks.psicov.files import CHANNELS, PAD, Window, content_hash, read_distances, read_features
from orca_cli.tasks.shared.target_maps import target_maps
from orca_cli.untrusted.memory import release_pages


@dataclass(frozen=True)
class Form:
    """How a distance map becomes a target.

    Args:
        window: W.
        crop: how a window is drawn in a protein that does not fit.
        clip: distances above it are set to it, Angstrom.
        padded: target outside the protein, Angstrom; None where padding has no target.
    """

    window: int
    crop: str
    clip: float
    padded: float | None

    def draw(self, length: int, generator: np.random.Generator) -> Window:
        """Return a window into a protein of L residues; the first one where it fits."""
        slack = length + 2 * PAD - self.window
        if slack <= 0:
            return Window(self.window)
        row = int(generator.integers(slack + 1))
        column = row if self.crop == "diagonal" else int(generator.integers(slack + 1))
        return Window(self.window, row, column)

    def target(self, distances: np.ndarray, window: Window) -> np.ndarray:
        """Return [W, W] float32, NaN where there is no target."""
        canvas = np.full((self.window, self.window), np.nan if self.padded is None else self.padded, np.float32)
        window.place(np.minimum(distances, np.float32(self.clip)), canvas)
        return canvas


class Proteins:
    """Samples (see interfaces) of one list; features are read protein by protein.

    Attributes:
        proteins: n ids, in the order of the samples.
    """

    def __init__(
        self, root: Path, collection: str, proteins: Sequence[str], form: Form, cache: Path, reporter: Reporter
    ):
        """Read all distance maps, unless the folder `cache` has them; `collection` is "deepcov" or "psicov"."""
        self.proteins, self._form = tuple(proteins), form
        self._features = [root / collection / "features" / f"{name}.pkl" for name in proteins]
        self._distances = [root / collection / "distance" / f"{name}-cb.npy" for name in proteins]
        padded = -1.0 if form.padded is None else form.padded
        self._targets = target_maps(
            cache,
            f"psicov-{collection}",
            {"window": form.window, "clip": form.clip, "padded": padded},
            [*self._features, *self._distances],
            (form.window, form.window),
            self._read,
            len(self.proteins),
            reporter,
        )

    def __len__(self) -> int:
        return len(self.proteins)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 57, W, W] and y [B, 1, W, W]; with `augment`, windows of proteins that do not fit are drawn.

        Raises:
            DataError: a file changed since its distances were read, or is damaged.
        """
        indices = np.asarray(indices, dtype=np.int64)
        size = self._form.window
        x = np.zeros((len(indices), CHANNELS, size, size), np.float32)
        y = np.empty((len(indices), 1, size, size), np.float32)
        valid = np.zeros((len(indices), size, size), bool)
        for row, index in enumerate(indices):
            features = read_features(self._features[index])
            length = self._length(int(index))
            if features.shape[-1] != length:
                raise DataError(f"{features.shape[-1]} residues, not {length}", where=str(self._features[index]))
            window = Window(size) if augment is None else self._form.draw(length, augment)
            window.place(features, x[row])
            window.place(np.ones((length, length), bool), valid[row])
            if window == Window(size):
                y[row] = self._targets.maps[index]
            else:
                y[row, 0] = self._form.target(read_distances(self._distances[index]), window)
        release_pages(self._targets.maps)
        seen = torch.from_numpy(valid) if self._form.padded is None else None
        return Batch(torch.from_numpy(x), torch.from_numpy(y), seen)

    def targets(self) -> np.ndarray:
        """Return [n, 1, W, W] float32, a memory map: the first window of every protein."""
        return self._targets.maps

    def groups(self) -> None:
        """Return None: every protein stands alone."""

    def digest(self) -> str:
        """Return a SHA-256 over ids, form, and the content of all files as it was when their distances were read."""
        what = {"proteins": self.proteins, "form": asdict(self._form), "records": self._targets.records}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def num_cropped(self) -> int:
        """Return how many proteins do not fit into the window."""
        return sum(self._length(index) + 2 * PAD > self._form.window for index in range(len(self)))

    def scale(self) -> Scale:
        """Return mean and deviation of all known targets, one number each."""
        count, total, squares = (
            sum(record[name] for record in self._targets.records) for name in ("count", "sum", "squares")
        )
        mean = total / count
        std = max(squares / count - mean**2, 0.0) ** 0.5 or 1.0
        return Scale(torch.full((1, 1, 1), mean), torch.full((1, 1, 1), std))

    def _length(self, index: int) -> int:
        return int(self._targets.records[index]["length"])

    def _read(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        distances = read_distances(self._distances[index])
        target = self._form.target(distances, Window(self._form.window))
        known = target[~np.isnan(target)].astype(np.float64)
        if not len(known):
            raise DataError("no distance is known", where=str(self._distances[index]))
        return target, {
            "length": len(distances),
            "sha256": content_hash(self._features[index], self._distances[index]),
            "count": len(known),
            "sum": float(known.sum()),
            "squares": float((known**2).sum()),
        }
