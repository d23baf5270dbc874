"""PSICOV: distances between the residues of a protein from its sequence features; PDNET's files (Adhikari 2020).

Trained on DeepCov's proteins, tested on PSICOV's 150, as NAS-Bench-360 (Tu et al. 2022) does. Dense regression in Angstrom.

Shapes: L residues of a protein, W positions per side of the window that all proteins are placed in, n proteins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval

from orca_cli import storage
from orca_cli.benchmarks.psicov.files import (
    CHANNELS,
    FARTHEST,
    PAD,
    Window,
    find_proteins,
    read_distances,
    read_features,
)
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import target_maps
from orca_cli.data.published import note, overlap_warning
from orca_cli.data.splits import split
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, Scale, TaskData


@dataclass(frozen=True)
class Form:
    """How a distance map becomes a target."""

    window: int
    crop: str
    clip: float  # distances above it are set to it, Angstrom
    padded: float | None  # target outside the protein, Angstrom; None where padding has no target

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
    """Samples (see interfaces) of n proteins; features are read protein by protein, distances mapped from the cache."""

    def __init__(
        self, root: Path, collection: str, proteins: Sequence[str], form: Form, cache: Path, reporter: Reporter
    ):
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
        records = self._targets.records
        count, total, squares = (sum(record[name] for record in records) for name in ("count", "sum", "squares"))
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
        contents = "".join(storage.sha256_file(paths[index]) for paths in (self._features, self._distances))
        return target, {
            "length": len(distances),
            "sha256": hashlib.sha256(bytes.fromhex(contents)).hexdigest(),
            "count": len(known),
            "sum": float(known.sum()),
            "squares": float((known**2).sum()),
        }


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["dense"] = "dense",
    path: str | None = None,
    window: Annotated[int, Ge(2 * PAD + 2)] = 512,
    crop: Literal["diagonal", "independent"] = "diagonal",
    clip_train: Annotated[float, Interval(gt=1, le=FARTHEST)] = 16.0,
    pad_in_loss: bool = False,
    scale_targets: bool = True,
    num_validation: Count = 100,
    split_seed: Seed = 0,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 57, W, W] and y [n, 1, W, W], distances between C-beta atoms in Angstrom.

    A protein lies at the top left of its window, 5 positions from the border; the rest of x is 0. Where L + 10 > W,
    optimizer steps draw a window; everything else sees the first one. y is NaN outside the protein and where a distance is
    unknown. Distances are read once, into float32 maps in the cache: 4 W^2 bytes a protein, 3.6 GB for DeepCov at W = 512;
    half precision would be off by up to 0.004 Angstrom at 8 Angstrom, where the error of the task has its threshold.

    conf/task/psicov.yaml explains the settings; the files may also lie in psicov/protein/. One offset for rows and columns
    keeps a window a map of one stretch of the chain against itself. With pad_in_loss training counts positions outside the
    protein, with target `clip_train`, and the model is not told which they are; never in validation and test, where no
    distance is within the error's threshold.
    """
    root, lists = find_proteins(data_folder, path)
    both = set(lists["deepcov"]) & set(lists["psicov"])
    proteins = [name for name in lists["deepcov"] if name not in both]
    parts = split(len(proteins), validation=num_validation, test=0, seed=split_seed, keys=("task.num_validation",) * 3)
    chosen = range(len(proteins)) if train_on_validation else parts.train
    whole = Form(window, crop, FARTHEST, None)
    clipped = Form(window, crop, clip_train, clip_train if pad_in_loss else None)
    train = Proteins(root, "deepcov", [proteins[i] for i in chosen], clipped, cache_folder, reporter)
    validation = Proteins(root, "deepcov", [proteins[i] for i in parts.validation], whole, cache_folder, reporter)

    def open_test() -> Proteins:
        test = Proteins(root, "psicov", lists["psicov"], whole, cache_folder, reporter)
        if test.num_cropped():
            what = f"{test.num_cropped()} of {len(test)} test proteins do not fit into {window} x {window}"
            reporter.say(f"{what}: their first {window - PAD} residues are scored")
        return test

    return TaskData(
        kind="dense",
        input_shape=(CHANNELS, window, window),
        num_outputs=1,
        train=train,
        validation=validation,
        open_test=open_test,
        target_scale=train.scale() if scale_targets else None,
        note=note(
            f"{len(train)} training and {len(validation)} validation proteins of DeepCov, {len(lists['psicov'])} of PSICOV "
            "for test",
            _cropped_note(train.num_cropped(), validation.num_cropped(), window),
            f"{len(both)} proteins in both lists are left out of DeepCov" if both else "",
            overlap_warning(train_on_validation, "validation proteins"),
        ),
    )


def _cropped_note(train: int, validation: int, window: int) -> str:
    """Return a note on how many proteins do not fit into the window."""
    what = f"{train} training and {validation} validation proteins do not fit into {window} x {window}"
    rest = f"windows are drawn in training, the first {window - PAD} residues count elsewhere, in the test too"
    return f"{what}: {rest}" if train or validation else ""
