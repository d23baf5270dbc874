"""FSD50K: which of 200 sounds are in a clip, from one-second log-mel spectrograms; as NAS-Bench-360 packed it (Tu et al. 2022).

Its archive has the manifests chunks/{tr,val,eval}.csv (columns files, labels with commas between names, ext: the clip), the
numbers of the labels in chunks/lbl_map.json, the chunks (mono, 22,050 Hz, one second every half second of a clip) and
background noise in noise_22050/*.wav. Paths in a manifest begin with a folder of the machine that wrote it; what counts is
their end, below the folder of the data. In FSD50K's official split 36,796 clips are for training, 4,170 for validation and
10,231 for the test. Only tables are held in memory; sounds (24 GB) are read when they are asked for.

A training sample is a clip, heard through one chunk of it. A sample of the other splits is a chunk, and `groups`
gives its clip, so that an error per clip (MeanAveragePrecision with by=records) takes all chunks together.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from orca_cli import storage
from orca_cli.benchmarks.fsd50k import sounds
from orca_cli.data.published import find
from orca_cli.data.untrusted.first_bytes import damage, read_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, TaskData
from orca_cli.seeding import numpy_generator

_MAPS = "chunks/lbl_map.json"
_TABLES = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_MAX_TABLE_BYTES = 2**29
_MAX_LABELS = 10_000
_SAMPLED_FILES = 64  # whose content enters the digest of a split
_MASKING, _MIXING = 0.5, 0.75  # probabilities of masks and of background noise on a training sample
_FROZEN_SEED = 0
_HINT = "unpack the archive there again"


@dataclass(frozen=True)
class Table:
    """The chunks of a split, clip by clip."""

    folder: Path
    files: Sequence[str]  # of the chunks, relative to the folder
    clips: np.ndarray  # [chunks] int64, ascending, the clip of each chunk
    labels: np.ndarray  # [clips, K] uint8 of 0 and 1


class Sounds:
    """Samples (see interfaces) [n, 1, 96, 102], each heard through one chunk: of every clip, or every chunk of every clip.

    Args:
        table: the manifest.
        by_clip: whether samples are clips; else they are chunks, the clips are their records, and nothing is drawn.
        drawn: "anew", in optimizer steps only; "once" for all; or "never": a clip is its middle chunk.
        noise: files of background noise, at least one where anything is drawn.
    """

    def __init__(
        self,
        table: Table,
        by_clip: bool = False,
        drawn: Literal["anew", "once", "never"] = "never",
        noise: Sequence[Path] = (),
    ) -> None:
        self._table, self._by_clip, self._drawn, self._noise = table, by_clip, drawn, noise
        self._clips = np.arange(len(table.labels)) if by_clip else table.clips
        bounds = np.arange(len(self._clips) + 1)
        if by_clip:
            bounds = np.searchsorted(table.clips, bounds)
        self._starts, self._ends = bounds[:-1], bounds[1:]  # of each sample's chunks

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] and labels [B, K]; chunks, masks and noise are drawn from `augment`."""
        indices = np.asarray(indices, dtype=np.int64)
        generators = [augment if self._drawn == "anew" else None] * len(indices)
        if self._drawn == "once":
            generators = [numpy_generator(_FROZEN_SEED, "fsd50k", int(clip)) for clip in indices]
        rows = []
        for index, generator in zip(indices, generators, strict=True):
            start, end = int(self._starts[index]), int(self._ends[index])
            rows.append((start + end) // 2 if generator is None else int(generator.integers(start, end)))
        chunks = [sounds.read(self._table.folder / self._table.files[row]) for row in rows]
        features = sounds.log_mel(np.stack(chunks))
        for row, generator in enumerate(generators):
            if generator is None:
                continue
            if generator.random() < _MASKING:
                features[row] = sounds.mask(features[row], generator)
            if generator.random() < _MIXING:
                noise = self._noise[int(generator.integers(len(self._noise)))]
                background = sounds.log_mel(sounds.read(noise, start=generator.random())[None])[0]
                features[row] = sounds.mix(features[row], background, generator)
        x = np.pad(features, ((0, 0), (0, 0), (0, 1)))[:, None]
        labels = self._table.labels[self._clips[indices]].astype(np.float32)
        return Batch(torch.from_numpy(x), torch.from_numpy(labels))

    def targets(self) -> np.ndarray:
        """Return the labels of every sample's clip, [n, K] float32."""
        return self._table.labels.astype(np.float32)[self._clips]

    def groups(self) -> np.ndarray | None:
        """Return the clip of every chunk, [n] int64; None where samples are clips."""
        return None if self._by_clip else self._clips

    def digest(self) -> str:
        """Return a SHA-256 over the manifest, what is drawn, and some of the sounds, evenly spread; not of all 24 GB."""
        table = self._table
        form = f"clips {self._drawn} {len(self._noise)}" if self._by_clip else "chunks"
        digest = hashlib.sha256(f"fsd50k {form} {table.labels.shape}".encode())
        for file in table.files:
            digest.update(f"{file}\n".encode())
        digest.update(table.clips.tobytes())
        digest.update(table.labels.tobytes())
        for row in np.unique(np.linspace(0, len(table.files) - 1, _SAMPLED_FILES).astype(int)):
            place = table.folder / table.files[row]
            with damage(str(place), ".wav file"):
                digest.update(bytes.fromhex(storage.sha256_file(place)))
        return digest.hexdigest()


def load(
    data_folder: Path,
    kind: Literal["labels"] = "labels",
    path: str | None = None,
    augmentation: bool = True,
    redraw: bool = True,
) -> TaskData:
    """Return log-mel spectrograms [n, 1, 96, 102], the last column zero, and their labels [n, K] of 0 and 1.

    conf/task/fsd50k.yaml explains the settings. What is drawn once (redraw=false) stays for all epochs and for stage 2.
    """
    folder = find(data_folder, "fsd50k", [*_TABLES.values(), _MAPS], path)[0].parents[1]
    names = _label_names(folder / _MAPS)
    noise = sorted(place for place in (folder / "noise_22050").glob("*.wav") if place.is_file())
    if augmentation and not noise:
        hint = f"{_HINT}, or use task.augmentation=false"
        raise DataError("no .wav files", where=str(folder / "noise_22050"), hint=hint)

    def table(split: str) -> Table:
        return _read_table(folder, folder / _TABLES[split], names)

    train = table("train")
    return TaskData(
        kind="labels",
        input_shape=(1, sounds.MELS, sounds.FRAMES + 1),
        num_outputs=len(names),
        train=Sounds(train, True, ("anew" if redraw else "once") if augmentation else "never", noise),
        validation=Sounds(table("validation")),
        open_test=lambda: Sounds(table("test")),
        class_names=names,
        note=f"FSD50K: {len(train.labels)} training clips of {len(train.files)} chunks; validation and test by chunk",
    )


def _read_table(folder: Path, place: Path, names: Sequence[str]) -> Table:
    """Read a manifest of files below `folder`, with the labels `names`; clips keep the order of their first rows."""
    import pandas as pd

    text = read_text(place, _MAX_TABLE_BYTES, _HINT)
    with damage(str(place), "table"):
        rows = pd.read_csv(io.StringIO(text), dtype=str, na_filter=False, usecols=["files", "labels", "ext"])
    paths = [[part for part in file.replace("\\", "/").split("/") if part] for file in rows["files"]]
    codes, clips = pd.factorize(rows["ext"])
    if not paths or any(".." in parts or not parts for parts in paths) or "" in clips:
        raise DataError("has a row without a file below the folder, or without a clip", where=str(place), hint=_HINT)
    # The longest end of the first path that names a file; all other paths are cut to as many parts.
    ends = range(len(paths[0]), 0, -1)
    tail = next((size for size in ends if folder.joinpath(*paths[0][-size:]).is_file()), 0)
    if not tail:
        what = f"no end of '{rows['files'][0]}', the first path, leads to a file below {folder}"
        raise DataError(what, where=str(place), hint=_HINT)
    order = codes.argsort(kind="stable")
    codes, written = codes[order], rows["labels"].to_numpy()[order]
    of_clips = written[np.searchsorted(codes, np.arange(len(clips)))]
    if (written != of_clips[codes]).any():
        raise DataError("has a clip with several sets of labels", where=str(place), hint=_HINT)
    numbers = {name: number for number, name in enumerate(names)}
    multi_hot = np.zeros((len(clips), len(names)), np.uint8)
    for clip, labels in enumerate(of_clips):
        for label in map(str.strip, labels.split(",")):
            if label not in numbers:
                raise DataError(f"label '{label[:40]}' is not in {_MAPS}", where=str(place), hint=_HINT)
            multi_hot[clip, numbers[label]] = 1
    return Table(folder, ["/".join(paths[row][-tail:]) for row in order], codes.astype(np.int64), multi_hot)


def _label_names(place: Path) -> tuple[str, ...]:
    """Return the names of the labels by number, from a JSON map of names to the numbers 0..K-1."""
    with damage(str(place), "map of labels"):
        numbers = json.loads(read_text(place, _MAX_TABLE_BYTES, _HINT))
        names = sorted(numbers, key=numbers.__getitem__)
        if not 0 < len(names) <= _MAX_LABELS or [numbers[name] for name in names] != list(range(len(names))):
            raise ValueError("the numbers of the labels are not 0..K-1")
    return tuple(names)
