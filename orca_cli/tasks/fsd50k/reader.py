"""FSD50K: which of 200 sounds are in a clip, from one-second log-mel spectrograms; as NAS-Bench-360 packed it (Tu et al. 2022).

Its archive has chunks/{tr,val,eval}.csv (columns files, labels with commas between names, ext: the clip), the numbers of
the labels in chunks/lbl_map.json, the chunks (mono, 22,050 Hz, one second every half second of a clip) and background
noise in noise_22050/*.wav. In FSD50K's official split 36,796 clips are for training, 4,170 for validation and 10,231 for
the test. Only tables are held in memory; sounds (24 GB) are read when they are asked for.

A training sample is a clip, heard through one chunk of it. A sample of the other splits is a chunk, and `groups` says of
which clip, so that an error per clip (MeanAveragePrecision with by=records) takes all chunks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Batch, Kind, Reporter, TaskData
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.fsd50k import log_mel, wav
from orca_cli.tasks.fsd50k.manifest import HINT, Table, label_names, read_table
from orca_cli.tasks.shared.files import find

_MAPS = "chunks/lbl_map.json"
_TABLES = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_NOISE = "noise_22050"
_FOLDERS = ("", "audio", "data")


@dataclass(frozen=True)
class Augmentation:
    """What is random in training samples.

    Args:
        masking: probability of masked bands and stretches (log_mel.mask), in 0..1.
        mixing: probability of background noise, in 0..1.
        most_noise: largest share of the noise, in 0..1.
        frozen_seed: draws everything once per clip from this seed, whenever a sample is read; None draws anew, in
            optimizer steps alone.
    """

    masking: float
    mixing: float
    most_noise: float
    frozen_seed: int | None


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Kind = "labels",
    path: str | None = None,
    augmentation: bool = True,
    masking: float = 0.5,
    mixing: float = 0.75,
    most_noise: float = 0.5,
    redraw: bool = True,
    frozen_seed: int = 0,
) -> TaskData:
    """Return log-mel spectrograms [n, 1, 96, 102] and their labels [n, K] of 0 and 1.

    Args:
        data_folder: the files are looked for in data_folder/fsd50k.
        reporter: shows progress.
        kind: "labels", nothing else.
        path: another folder with the files.
        augmentation: whether optimizer steps draw a chunk of a clip, mask and add noise; without, a clip is its middle
            chunk.
        masking: probability of masks on a training sample, in 0..1.
        mixing: probability of background noise on a training sample, in 0..1.
        most_noise: largest share of the noise, in 0..1.
        redraw: False draws chunk, masks and noise of every clip once, and every epoch, and stage 2, has the same ones.
        frozen_seed: seed of those.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file is missing or has another form.
    """
    check_settings(kind, masking, mixing, most_noise, frozen_seed)
    folder = _find(data_folder, path)
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
        train=ClipSamples(train, drawn, noise),
        validation=ChunkSamples(table("validation")),
        open_test=lambda: ChunkSamples(table("test")),
        class_names=names,
        note=f"FSD50K: {len(train.labels)} training clips of {len(train.files)} chunks; validation and test by chunk",
    )


class ChunkSamples:
    """Samples (see interfaces): every chunk of every clip as it is, [n, 1, 96, 102]; the clips are the records."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._table.files)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] of chunks and the labels [B, K] of their clips; nothing is augmented."""
        features = log_mel.log_mel(self._table.sounds([int(index) for index in indices]))
        labels = self._table.labels[self._table.clips[np.asarray(indices, dtype=np.int64)]].astype(np.float32)
        return Batch(torch.from_numpy(log_mel.to_input(features)), torch.from_numpy(labels))

    def targets(self) -> np.ndarray:
        """Return the labels of the clip of every chunk, [n, K] float32."""
        return self._table.labels.astype(np.float32)[self._table.clips]

    def groups(self) -> np.ndarray:
        """Return the clip of every chunk, [n] int64."""
        return self._table.clips

    def digest(self) -> str:
        """Return a SHA-256 over the manifest and some of the sounds."""
        return self._table.digest("chunks")


class ClipSamples:
    """Samples (see interfaces): one chunk of every clip, [n, 1, 96, 102]; the middle one where nothing is drawn.

    Args:
        table: the manifest.
        drawn: what is random; None for nothing.
        noise: files of background noise, one or more where `drawn` mixes.
    """

    def __init__(self, table: Table, drawn: Augmentation | None, noise: Sequence[Path]) -> None:
        self._table, self._drawn, self._noise = table, drawn, noise
        self._starts = np.searchsorted(table.clips, np.arange(len(table.labels) + 1))  # of each clip's chunks

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._table.labels)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] and labels [B, K]; chunks, masks and noise are drawn from `augment`."""
        clips = np.asarray(indices, dtype=np.int64)
        generators: list[np.random.Generator | None] = [augment if self._drawn else None] * len(clips)
        if self._drawn and self._drawn.frozen_seed is not None:
            generators = [numpy_generator(self._drawn.frozen_seed, "fsd50k", int(clip)) for clip in clips]
        rows = []
        for clip, generator in zip(clips, generators, strict=True):
            start, end = int(self._starts[clip]), int(self._starts[clip + 1])
            rows.append((start + end) // 2 if generator is None else int(generator.integers(start, end)))
        features = log_mel.log_mel(self._table.sounds(rows))
        for row, generator in enumerate(generators):
            if generator is not None:
                features[row] = self._changed(features[row], generator)
        labels = self._table.labels[clips].astype(np.float32)
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
        """Return the labels of every clip, [n, K] float32."""
        return self._table.labels.astype(np.float32)

    def groups(self) -> None:
        """Training clips stand alone."""
        return

    def digest(self) -> str:
        """Return a SHA-256 over the manifest, some of the sounds, and what is drawn."""
        return self._table.digest(f"clips {self._drawn} {len(self._noise)}")


def _find(data_folder: Path, path: str | None) -> Path:
    """Return the folder that has tables and label map: the task's own, or `audio` or `data` in it."""
    failure: DataError | None = None
    for name in _FOLDERS:
        try:
            found = find(data_folder, "fsd50k", [str(Path(name, file)) for file in (*_TABLES.values(), _MAPS)], path)
            return found[0].parents[1]
        except DataError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def check_settings(kind: str, masking: float, mixing: float, most_noise: float, frozen_seed: int) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: a setting is out of range.
    """
    if kind != "labels":
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint="fsd50k has kind=labels")
    for name, value in {"masking": masking, "mixing": mixing, "most_noise": most_noise}.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{value} is out of range", where=f"task.{name}", hint="allowed: 0..1")
    if frozen_seed < 0:
        raise ConfigError(f"{frozen_seed} is out of range", where="task.frozen_seed", hint="allowed: 0 or more")
