"""FSD50K: which of 200 sounds are in a clip, from one-second log-mel spectrograms; as NAS-Bench-360 packed it (Tu et al. 2022).

Its archive has the manifests chunks/{tr,val,eval}.csv (columns files, labels with commas between names, ext: the clip), the
numbers of the labels in chunks/lbl_map.json, the chunks (mono, 22,050 Hz, one second every half second of a clip) and
background noise in noise_22050/*.wav. Paths in a manifest begin with a folder of the machine that wrote it; what counts is
their end, below the folder of the data. In FSD50K's official split 36,796 clips are for training, 4,170 for validation and
10,231 for the test. Only tables are held in memory; sounds (24 GB) are read when they are asked for.

A training sample is a clip, heard through one chunk of it. A sample of the other splits is a chunk, and `groups`
gives its clip, so that an error per clip (MeanAveragePrecision with by=records) takes all chunks together.

The spectrogram is torchaudio's MelSpectrogram with n_fft 1920, a Hann window of 661 samples (30 ms) and a hop of 220 (10
ms): centred frames with reflected borders, power 2, 96 triangular filters on the HTK mel scale from 0 Hz to half the
sampling rate, without normalisation. Then decibels as librosa's power_to_db has them (reference 1, floor 1e-10, at most
80 dB below the maximum), plus 75, minus the sound's own mean.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from orca_cli import storage
from orca_cli.data.published import AGAIN, fault, find, refuse
from orca_cli.data.untrusted.first_bytes import damage, first_bytes, read_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, TaskData
from orca_cli.seeding import numpy_generator

_MAPS = "chunks/lbl_map.json"
_TABLES = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_MAX_TABLE_BYTES = 2**29
_MAX_LABELS = 10_000
_SAMPLED_FILES = 64  # whose content enters the digest of a split
_MASKING, _MIXING = 0.5, 0.75  # probabilities of masks and of background noise on a training sample
_MOST_NOISE = 0.5  # the largest share of background noise
_MAX_MASKS, _MASKED_MELS, _MASKED_FRAMES = 2, 0.15, 0.2
_FROZEN_SEED = 0
RATE = 22_050  # Hz
MELS, FRAMES = 96, 101  # of one second
_N_FFT, _WINDOW, _HOP = 1920, 661, 220
_FLOOR, _RANGE_DB, _SHIFT_DB = 1e-10, 80.0, 75.0


class Sounds:
    """Samples (see interfaces) [n, 1, 96, 102] with K labels, each heard through one chunk.

    In training they are clips. Else they are chunks, the clips are their records, and nothing is drawn. DataError where the
    manifest of the split has another form.

    Args:
        folder, split: of the data; train, validation or test.
        names: of the labels, in the order of their numbers.
        noise: files of background noise; where there are none, nothing is drawn, and a clip is its middle chunk.
        redraw: True draws chunk, masks and noise anew in optimizer steps, and takes the middle chunk elsewhere; False draws
            them once for each clip.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        names: Sequence[str],
        noise: Sequence[Path] = (),
        redraw: bool = True,
    ) -> None:
        self._folder, self._noise, self._redraw, self._by_clip = (
            folder,
            noise,
            redraw,
            split == "train",
        )
        self._files, self._owners, self._labels = _read_table(folder, split, names)
        self._clips = np.arange(len(self._labels)) if self._by_clip else self._owners
        places = np.arange(len(self._clips) + 1)
        bounds = np.searchsorted(self._owners, places) if self._by_clip else places
        self._starts, self._ends = bounds[:-1], bounds[1:]  # of each sample's chunks

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] and labels [B, K]; chunks, masks and noise are drawn from `augment`."""
        indices = np.asarray(indices, dtype=np.int64)
        generators = [augment if self._noise else None] * len(indices)
        if not self._redraw and self._noise:
            generators = [numpy_generator(_FROZEN_SEED, "fsd50k", int(clip)) for clip in indices]
        sounds = []
        for start, end, generator in zip(
            self._starts[indices], self._ends[indices], generators, strict=True
        ):
            row = int((start + end) // 2 if generator is None else generator.integers(start, end))
            sounds.append(read(self._folder / self._files[row]))
        features = log_mel(np.stack(sounds))
        for row, generator in enumerate(generators):
            if generator is None:
                continue
            if generator.random() < _MASKING:
                features[row] = mask(features[row], generator)
            if generator.random() < _MIXING:
                noise = self._noise[int(generator.integers(len(self._noise)))]
                background = log_mel(read(noise, start=generator.random())[None])[0]
                features[row] = mix(features[row], background, generator)
        x = np.pad(features, ((0, 0), (0, 0), (0, 1)))[:, None]
        return Batch(
            torch.from_numpy(x),
            torch.from_numpy(self._labels[self._clips[indices]].astype(np.float32)),
        )

    def targets(self) -> np.ndarray:
        """Return the labels of every sample's clip, [n, K] float32."""
        return self._labels.astype(np.float32)[self._clips]

    def groups(self) -> np.ndarray | None:
        """Return the clip of every chunk, [n] int64; None where samples are clips."""
        return None if self._by_clip else self._clips

    def digest(self) -> str:
        """Return a SHA-256 over the manifest, what is drawn, and some of the sounds, evenly spread; not of all 24 GB."""
        form = "chunks"
        if self._by_clip:  # in the words of a record that held the settings once
            seed = None if self._redraw else _FROZEN_SEED
            drawn = f"masking={_MASKING}, mixing={_MIXING}, most_noise={_MOST_NOISE}, frozen_seed={seed}"
            form = f"clips {f'Augmentation({drawn})' if self._noise else None} {len(self._noise)}"
        digest = hashlib.sha256(f"fsd50k {form} {self._labels.shape}".encode())
        digest.update("".join(f"{file}\n" for file in self._files).encode())
        digest.update(self._owners.tobytes() + self._labels.tobytes())
        for row in np.unique(np.linspace(0, len(self._files) - 1, _SAMPLED_FILES).astype(int)):
            place = self._folder / self._files[row]
            with damage(str(place), ".wav file"):
                digest.update(bytes.fromhex(storage.sha256_file(place)))
        return digest.hexdigest()


def load(
    data_folder: Path, path: str | None = None, augmentation: bool = True, redraw: bool = True
) -> TaskData:
    """Return log-mel spectrograms [n, 1, 96, 102], the last column zero, and their labels [n, K] of 0 and 1.

    What is drawn once (redraw=false) stays for all epochs and for stage 2.
    """
    folder = find(data_folder, "fsd50k", [*_TABLES.values(), _MAPS], path)[0].parents[1]
    with damage(str(folder / _MAPS), "map of labels"):
        numbers = json.loads(read_text(folder / _MAPS, _MAX_TABLE_BYTES, AGAIN))
        names = tuple(sorted(numbers, key=numbers.__getitem__))
        if not 0 < len(names) <= _MAX_LABELS or [numbers[name] for name in names] != list(
            range(len(names))
        ):
            raise ValueError("the numbers of the labels are not 0..K-1")
    noise = sorted((folder / "noise_22050").glob("*.wav")) if augmentation else []
    if augmentation and not noise:
        hint = f"{AGAIN}, or use task.augmentation=false"
        raise DataError("no .wav files", where=str(folder / "noise_22050"), hint=hint)
    return TaskData(
        kind="labels",
        input_shape=(1, MELS, FRAMES + 1),
        num_outputs=len(names),
        train=Sounds(folder, "train", names, noise, redraw),
        validation=Sounds(folder, "validation", names),
        open_test=lambda: Sounds(folder, "test", names),
        class_names=names,
        note="training by clip, validation and test by chunk",
    )


def _read_table(
    folder: Path, split: str, names: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the chunks of a split, clip by clip, from its manifest; clips keep the order of their first rows.

    Files relative to the folder; the clip of each, [chunks] int64, ascending; labels [clips, K] uint8 of 0 and 1.
    """
    import pandas as pd

    place = folder / _TABLES[split]
    text = read_text(place, _MAX_TABLE_BYTES, AGAIN)
    with damage(str(place), "table"):
        rows = pd.read_csv(
            io.StringIO(text), dtype=str, na_filter=False, usecols=["files", "labels", "ext"]
        )
        rows["clip"] = pd.factorize(rows["ext"])[0]
        rows = rows.sort_values("clip", kind="stable", ignore_index=True)
    paths = [
        [part for part in file.replace("\\", "/").split("/") if part] for file in rows["files"]
    ]
    if not paths or any(".." in parts or not parts for parts in paths) or "" in {*rows["ext"]}:
        raise fault("has a row without a file below the folder, or without a clip", place)
    # The longest end of the first path that names a file; all other paths are cut to as many parts.
    ends = range(len(paths[0]), 0, -1)
    tail = next((size for size in ends if folder.joinpath(*paths[0][-size:]).is_file()), 0)
    refuse(
        not tail,
        f"no end of '{rows['files'][0]}', the first path, leads to a file below {folder}",
        place,
    )
    written = rows.groupby("clip")["labels"]
    refuse((written.nunique() > 1).any(), "has a clip with several sets of labels", place)
    labels = written.first().str.split(",").explode().str.strip()  # by clip
    columns = pd.Categorical(labels, categories=names).codes
    if len(unknown := labels[columns < 0]):
        raise fault(f"label '{unknown.iloc[0][:40]}' is not in {_MAPS}", place)
    multi_hot = np.zeros((len(written), len(names)), np.uint8)
    multi_hot[labels.index, columns] = 1
    return ["/".join(parts[-tail:]) for parts in paths], rows["clip"].to_numpy(np.int64), multi_hot


def read(path: Path, start: float = 0.0) -> np.ndarray:
    """Return one second of a .wav file, [22050] float32 in -1..1; a shorter sound is repeated, channels are averaged.

    `start` says where the second begins in a longer sound: 0 is the first possible place, 1 the last. DataError for a file
    that is missing, damaged or of another rate than 22,050 Hz.
    """
    from scipy.io import wavfile

    first_bytes(path, str(path), AGAIN)
    with damage(str(path), ".wav file"), warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
        # Mapped: of a long file little is read, and one that is cut off is an error.
        rate, sound = wavfile.read(path, mmap=True)
    if rate != RATE or sound.ndim > 2 or not sound.size:
        raise fault(f"has values {sound.shape} at {rate} Hz; a sound at {RATE} Hz is needed", path)
    first = int(start * max(0, len(sound) - RATE + 1))
    samples = sound[min(first, max(0, len(sound) - RATE)) :][:RATE]
    stretch = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        stretch = (stretch - 128) / 128
    elif samples.dtype.kind == "i":
        stretch = stretch / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    if stretch.ndim == 2:
        stretch = stretch.mean(axis=1)
    refuse(not np.isfinite(stretch).all(), "has values that are NaN or infinite", path)
    return np.tile(stretch, math.ceil(RATE / len(stretch)))[:RATE]


def log_mel(sounds: np.ndarray) -> np.ndarray:
    """Return [B, 96, 101] float32 in decibels, each with mean 0, of sounds [B, 22050] in -1..1."""
    with torch.no_grad():
        spectrum = torch.stft(
            torch.from_numpy(np.ascontiguousarray(sounds, dtype=np.float32)),
            _N_FFT,
            hop_length=_HOP,
            win_length=_WINDOW,
            window=torch.hann_window(_WINDOW),
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # [B, 961, 101]
        mels = torch.from_numpy(mel_filters().T) @ power
        decibels = 10 * mels.clamp_min(_FLOOR).log10()
        decibels = (
            torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - _RANGE_DB) + _SHIFT_DB
        )
        return (decibels - decibels.mean(dim=(1, 2), keepdim=True)).numpy()


@cache
def mel_filters() -> np.ndarray:
    """Return the filters [961, 96] float32: triangles of height 1 between neighbours of 98 points, even on the HTK scale."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        _N_FFT // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk"
    )
    return np.ascontiguousarray(filters, dtype=np.float32)


def mask(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of [96, frames] with one or two bands of mels, and as many stretches of frames, at the minimum.

    This is SpecAugment (Park et al. 2019) without its warp of time; a band has up to 15 % of the mels, a stretch up to 20 % of
    the frames.
    """
    masked, lowest = features.copy(), features.min()
    for _ in range(int(generator.integers(1, _MAX_MASKS + 1))):
        for axis, most in ((0, _MASKED_MELS), (1, _MASKED_FRAMES)):
            extent = features.shape[axis]
            size = int(generator.integers(0, int(most * extent) + 1))
            start = int(generator.integers(0, extent - size + 1))
            masked[(slice(None),) * axis + (slice(start, start + size),)] = lowest
    return masked


def mix(features: np.ndarray, background: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return (1 - a) * features + a * background with a uniform in 0..0.5; both [96, frames], in decibels."""
    share = np.float32(generator.uniform(0, _MOST_NOISE))
    return (1 - share) * features + share * background
