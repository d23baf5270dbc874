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

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch

from orca_cli import signals, storage
from orca_cli.benchmarks.fsd50k import log_mel, wav
from orca_cli.config.ranges import Seed, Share
from orca_cli.data.published import find_first
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, TaskData
from orca_cli.seeding import numpy_generator

_MAPS = "chunks/lbl_map.json"
_TABLES = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_FOLDERS = ("", "audio", "data")
_MAX_TABLE_BYTES = 2**29
_MAX_LABELS = 10_000
_SAMPLED_FILES = 64  # whose content enters the digest of a split
_HINT = "unpack the archive there again"


@dataclass(frozen=True)
class Table:
    """The chunks of a split, clip by clip."""

    folder: Path
    files: Sequence[str]  # of the chunks, relative to the folder
    clips: np.ndarray  # [chunks] int64, ascending, the clip of each chunk
    labels: np.ndarray  # [clips, K] uint8 of 0 and 1

    def digest(self, form: str) -> str:
        """Return a SHA-256 over paths, clips, labels, and the bytes of some files, evenly spread; not of all 24 GB."""
        digest = hashlib.sha256(f"fsd50k {form} {self.labels.shape}".encode())
        for file in self.files:
            digest.update(f"{file}\n".encode())
        digest.update(self.clips.tobytes())
        digest.update(self.labels.tobytes())
        for row in np.unique(np.linspace(0, len(self.files) - 1, _SAMPLED_FILES).astype(int)):
            place = self.folder / self.files[row]
            try:
                digest.update(bytes.fromhex(storage.sha256_file(place)))
            except OSError as error:
                raise DataError(f"cannot be read ({error.strerror})", where=str(place), hint=_HINT) from error
        return digest.hexdigest()


@dataclass(frozen=True)
class Augmentation:
    """What is random in training samples; arguments as those of `load`."""

    masking: float
    mixing: float
    most_noise: float
    frozen_seed: int | None  # None draws anew, in optimizer steps only


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
        bounds = np.arange(len(self._clips) + 1)
        if by_clip:
            bounds = np.searchsorted(table.clips, bounds)
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
        places = [self._table.folder / self._table.files[row] for row in rows]
        features = log_mel.log_mel(np.stack([wav.read(place, log_mel.RATE, log_mel.RATE) for place in places]))
        for row, generator in enumerate(generators):
            if generator is not None:
                features[row] = self._changed(features[row], generator)
        x = np.pad(features, ((0, 0), (0, 0), (0, 1)))[:, None]
        labels = self._table.labels[self._clips[indices]].astype(np.float32)
        return Batch(torch.from_numpy(x), torch.from_numpy(labels))

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
    """Return log-mel spectrograms [n, 1, 96, 102], the last column zero, and their labels [n, K] of 0 and 1.

    conf/task/fsd50k.yaml explains the settings. What is drawn once (redraw=false) stays for all epochs and for stage 2.
    """
    options = [[str(Path(name, file)) for file in (*_TABLES.values(), _MAPS)] for name in _FOLDERS]
    folder = find_first(data_folder, "fsd50k", options, path)[0].parents[1]
    names = _label_names(folder / _MAPS)
    noise: list[Path] = []
    if augmentation and mixing > 0:
        noise = sorted(place for place in (folder / "noise_22050").glob("*.wav") if place.is_file())
        if not noise:
            raise DataError("no .wav files", where=str(folder / "noise_22050"), hint=f"{_HINT}, or use task.mixing=0")

    def table(split: str) -> Table:
        return _read_table(folder, folder / _TABLES[split], names, reporter)

    train = table("train")
    drawn = Augmentation(masking, mixing, most_noise, None if redraw else frozen_seed) if augmentation else None
    return TaskData(
        kind="labels",
        input_shape=(1, log_mel.MELS, log_mel.FRAMES + 1),
        num_outputs=len(names),
        train=Sounds(train, True, drawn, noise),
        validation=Sounds(table("validation")),
        open_test=lambda: Sounds(table("test")),
        class_names=names,
        note=f"FSD50K: {len(train.labels)} training clips of {len(train.files)} chunks; validation and test by chunk",
    )


def _read_table(folder: Path, place: Path, names: Sequence[str], reporter: Reporter) -> Table:
    """Read a manifest of files below `folder`, with the labels `names`; clips keep the order of their first rows."""
    clips: dict[str, tuple[str, list[str]]] = {}  # clip -> labels as written, its files
    reader = csv.DictReader(io.StringIO(read_text(place, _MAX_TABLE_BYTES, _HINT)))

    def fault(what: str, in_row: bool = False) -> DataError:
        return DataError(what, where=f"{place}, line {reader.line_num}" if in_row else str(place), hint=_HINT)

    if not {"files", "labels", "ext"} <= set(reader.fieldnames or ()):
        raise fault("the columns files, labels and ext are needed")
    tail = 0
    try:
        with reporter.track(f"reading {place.name}", 1) as advance:
            for count, row in enumerate(reader):
                if count % 10_000 == 0:
                    signals.check()
                file, labels, clip = (row[name] or "" for name in ("files", "labels", "ext"))
                if not file or not clip:
                    raise fault("a field is empty", in_row=True)
                parts = [part for part in PurePosixPath(file.replace("\\", "/")).parts if part not in ("/", ".")]
                if ".." in parts or not parts:
                    raise fault(f"'{file[:60]}' leaves the folder of the data", in_row=True)
                # The longest tail of the first path that names a file; all other paths are cut to as many parts.
                ends = range(len(parts), 0, -1)
                tail = tail or next((size for size in ends if folder.joinpath(*parts[-size:]).is_file()), 0)
                if not tail:
                    raise fault(f"no end of '{'/'.join(parts)}', the first path, leads to a file below {folder}")
                if clips.setdefault(clip, (labels, []))[0] != labels:
                    raise fault(f"clip '{clip}' has other labels than in the rows before", in_row=True)
                clips[clip][1].append("/".join(parts[-tail:]))
            advance()
    except csv.Error as error:
        raise fault(f"is not a table ({error})", in_row=True) from error
    if not clips:
        raise fault("has no rows")
    sizes = [len(chunks) for _, chunks in clips.values()]
    files = [chunk for _, chunks in clips.values() for chunk in chunks]
    encoded = _encoded({clip: labels for clip, (labels, _) in clips.items()}, names, place)
    return Table(folder, files, np.repeat(np.arange(len(sizes)), sizes), encoded)


def _encoded(clips: dict[str, str], names: Sequence[str], place: Path) -> np.ndarray:
    """Return the labels [clips, K] uint8 of 0 and 1."""
    numbers = {name: k for k, name in enumerate(names)}
    multi_hot = np.zeros((len(clips), len(names)), np.uint8)
    for index, (clip, labels) in enumerate(clips.items()):
        for label in map(str.strip, labels.split(",")):
            if label not in numbers:
                what = f"clip '{clip}' has the label '{label[:40]}', which the map of labels does not have"
                raise DataError(what, where=str(place), hint=_HINT)
            multi_hot[index, numbers[label]] = 1
    return multi_hot


def _label_names(place: Path) -> tuple[str, ...]:
    """Return the names of the labels by number, from a JSON map of names to the numbers 0..K-1."""
    try:
        numbers = json.loads(read_text(place, _MAX_TABLE_BYTES, _HINT))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=str(place), hint=_HINT) from error
    if not isinstance(numbers, dict) or not 0 < len(numbers) <= _MAX_LABELS:
        raise DataError("is not a map from names of labels to numbers", where=str(place), hint=_HINT)
    plain = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers.values())
    if not plain or sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"the numbers of the labels are not 0..{len(numbers) - 1}", where=str(place), hint=_HINT)
    return tuple(sorted(numbers, key=numbers.__getitem__))
