"""FSD50K: which of 200 sounds are in a clip, from one-second log-mel spectrograms; as NAS-Bench-360 packed it (Tu et al. 2022).

Its archive has chunks/{tr,val,eval}.csv (columns files, labels with commas between names, ext: the clip), the numbers of
the labels in chunks/lbl_map.json, the chunks (mono, 22,050 Hz, one second every half second of a clip) and background
noise in noise_22050/*.wav. In FSD50K's official split 36,796 clips are for training, 4,170 for validation and 10,231 for
the test. Only tables are held in memory; sounds (24 GB) are read when they are asked for.

A training sample is a clip, heard through one chunk of it. A sample of the other splits is a chunk, and `groups`
gives its clip, so that an error per clip (MeanAveragePrecision with by=records) takes all chunks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, TaskData
from orca_cli.ranges import Seed, Share
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.fsd50k import log_mel, wav
from orca_cli.tasks.fsd50k.manifest import HINT, Table, label_names, read_table
from orca_cli.tasks.shared.published import find_first

_MAPS = "chunks/lbl_map.json"
_TABLES = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_NOISE = "noise_22050"
_FOLDERS = ("", "audio", "data")


@dataclass(frozen=True)
class Augmentation:
    """What is random in training samples.

    Args:
        masking: probability of masked bands and stretches (log_mel.mask).
        mixing: probability of background noise.
        most_noise: largest share of the noise.
        frozen_seed: seed from which everything is drawn once per clip; None draws anew, in optimizer steps only.
    """

    masking: float
    mixing: float
    most_noise: float
    frozen_seed: int | None


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Literal["labels"] = "labels",
    path: str | None = None,
    augmentation: bool = True,
    masking: Share = 0.5,
    mixing: Share = 0.75,
    most_noise: Share = 0.5,
    redraw: bool = True,
    frozen_seed: Seed = 0,
) -> TaskData:
    """Return log-mel spectrograms [n, 1, 96, 102] and their labels [n, K] of 0 and 1.

    Args:
        augmentation: whether optimizer steps draw a chunk of a clip, mask and add noise; if not, a clip is its middle
            chunk.
        masking: probability of masks on a training sample.
        mixing: probability of background noise on a training sample.
        most_noise: largest share of the noise.
        redraw: False draws chunk, masks and noise of every clip once, for all epochs and for stage 2.
        frozen_seed: seed of those.
    """
    options = [[str(Path(name, file)) for file in (*_TABLES.values(), _MAPS)] for name in _FOLDERS]
    folder = find_first(data_folder, "fsd50k", options, path)[0].parents[1]
    names = label_names(folder / _MAPS)
    noise: list[Path] = []
    if augmentation and mixing > 0:
        noise = sorted(place for place in (folder / _NOISE).glob("*.wav") if place.is_file())
        if not noise:
            raise DataError("no .wav files", where=str(folder / _NOISE), hint=f"{HINT}, or use task.mixing=0")

    def table(split: str) -> Table:
        return read_table(folder, folder / _TABLES[split], names, reporter)

    train = table("train")
    drawn = Augmentation(masking, mixing, most_noise, None if redraw else frozen_seed) if augmentation else None
    return TaskData(
        kind="labels",
        input_shape=(1, log_mel.MELS, log_mel.WIDTH),
        num_outputs=len(names),
        train=Sounds(train, True, drawn, noise),
        validation=Sounds(table("validation")),
        open_test=lambda: Sounds(table("test")),
        class_names=names,
        note=f"FSD50K: {len(train.labels)} training clips of {len(train.files)} chunks; validation and test by chunk",
    )


class Sounds:
    """Samples (see interfaces) [n, 1, 96, 102], each heard through one chunk: of every clip, or every chunk of every clip.

    Args:
        table: the manifest.
        by_clip: whether samples are clips; else they are chunks, the clips are their records, and nothing is drawn.
        drawn: what is random; None for nothing: a clip is its middle chunk.
        noise: files of background noise, at least one where `drawn` mixes.
    """

    def __init__(
        self, table: Table, by_clip: bool = False, drawn: Augmentation | None = None, noise: Sequence[Path] = ()
    ) -> None:
        self._table, self._by_clip, self._drawn, self._noise = table, by_clip, drawn, noise
        self._clips = np.arange(len(table.labels)) if by_clip else table.clips
        bounds = (
            np.searchsorted(table.clips, np.arange(len(table.labels) + 1))
            if by_clip
            else np.arange(len(table.files) + 1)
        )
        self._starts, self._ends = bounds[:-1], bounds[1:]  # of each sample's chunks

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] and labels [B, K]; chunks, masks and noise are drawn from `augment`."""
        indices = np.asarray(indices, dtype=np.int64)
        generators: list[np.random.Generator | None] = [augment if self._drawn else None] * len(indices)
        if self._drawn and self._drawn.frozen_seed is not None:
            generators = [numpy_generator(self._drawn.frozen_seed, "fsd50k", int(clip)) for clip in indices]
        rows = []
        for index, generator in zip(indices, generators, strict=True):
            start, end = int(self._starts[index]), int(self._ends[index])
            rows.append((start + end) // 2 if generator is None else int(generator.integers(start, end)))
        features = log_mel.log_mel(self._table.sounds(rows))
        for row, generator in enumerate(generators):
            if generator is not None:
                features[row] = self._changed(features[row], generator)
        labels = self._table.labels[self._clips[indices]].astype(np.float32)
        return Batch(torch.from_numpy(log_mel.to_input(features)), torch.from_numpy(labels))

    def _changed(self, features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        assert self._drawn is not None
        if generator.random() < self._drawn.masking:
            features = log_mel.mask(features, generator)
        if generator.random() < self._drawn.mixing:
            place = self._noise[int(generator.integers(len(self._noise)))]
            sound = wav.read(place, log_mel.RATE, log_mel.RATE, start=generator.random())
            features = log_mel.mix(features, log_mel.log_mel(sound[None])[0], self._drawn.most_noise, generator)
        return features

    def targets(self) -> np.ndarray:
        """Return the labels of every sample's clip, [n, K] float32."""
        return self._table.labels.astype(np.float32)[self._clips]

    def groups(self) -> np.ndarray | None:
        """Return the clip of every chunk, [n] int64; None where samples are clips."""
        return None if self._by_clip else self._clips

    def digest(self) -> str:
        """Return a SHA-256 over the manifest, some of the sounds, and what is drawn."""
        return self._table.digest(f"clips {self._drawn} {len(self._noise)}" if self._by_clip else "chunks")
