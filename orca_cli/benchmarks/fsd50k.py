"""FSD50K: which of 200 sounds occur in an audio clip, from one-second log-mel spectrograms.

The data are packed as in NAS-Bench-360 (Tu et al. 2022). Its archive contains the manifests
chunks/{tr,val,eval}.csv (columns files, labels with commas between names, and ext, which names the
clip), the numbers of the labels in chunks/lbl_map.json, the chunks (mono, 22,050 Hz, one second
every half second of a clip) and background noise in noise_22050/*.wav. Paths in a manifest begin
with a folder of the machine that wrote it; the reader uses only their end, below the data folder.
FSD50K's official split has 36,796 clips for training, 4,170 for validation and 10,231 for the test.
Only tables are in memory; sounds (24 GB) are read on demand.

A training sample is a clip, represented by one of its chunks. A sample of the other splits is a
chunk, and `groups` returns its clip, so that an error per clip (MeanAveragePrecision with
by=records) combines all chunks of the clip.

The spectrogram is torchaudio's MelSpectrogram with n_fft 1920, a Hann window of 661 samples (30 ms)
and a hop of 220 (10 ms): centred frames with reflected borders, power 2, 96 triangular filters on
the HTK mel scale from 0 Hz to half the sampling rate, without normalisation. It is converted to
decibels as by librosa's power_to_db (reference 1, floor 1e-10, at most 80 dB below the maximum).
Then 75 is added, and the mean over the sound is subtracted.

Shapes: n samples of a split, B of a batch, K labels.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from orca_cli import storage
from orca_cli.data.published import AGAIN, fault, find
from orca_cli.data.untrusted.first_bytes import damage, first_bytes, read_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, TaskData
from orca_cli.seeding import numpy_generator

_LABEL_MAP = "chunks/lbl_map.json"
_MANIFESTS = {"train": "chunks/tr.csv", "validation": "chunks/val.csv", "test": "chunks/eval.csv"}
_COLUMNS = ["files", "labels", "ext"]
_MAX_TABLE_BYTES = 2**29
_MAX_LABELS = 10_000
_SAMPLED_FILES = 64  # number of files whose content enters the digest of a split
_MASKING = 0.5  # probability of masks on a training sample
_MIXING = 0.75  # probability of background noise on a training sample
_MOST_NOISE = 0.5  # largest weight of background noise
_MAX_MASKS = 2  # largest number of masked bands of mels, and of masked stretches of frames
_MASKED_MELS = 0.15  # largest fraction of the mels in a band
_MASKED_FRAMES = 0.2  # largest fraction of the frames in a stretch
_FROZEN_SEED = 0
RATE = 22_050  # Hz
MELS = 96
FRAMES = 101  # in one second
_N_FFT = 1920
_WINDOW = 661  # sound samples
_HOP = 220  # sound samples
_FLOOR = 1e-10
_RANGE_DB = 80.0
_SHIFT_DB = 75.0


class Sounds:
    """Samples (see interfaces) [n, 1, 96, 102] with K labels, each made from one chunk.

    In training, a sample is a clip, and its chunk may be drawn. In the other splits, a sample is a
    chunk, its group is its clip, and no draws occur. Raises DataError if the manifest of the split
    has another form.

    Args:
        folder: folder of the data.
        split: train, validation or test.
        names: names of the labels, in the order of their numbers.
        noise: files of background noise; without files, no draws occur, and a clip is represented
            by its middle chunk.
        redraw: True draws chunk, masks and noise again in each optimizer step, and uses the middle
            chunk outside of optimizer steps; False draws them once for each clip.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        names: Sequence[str],
        noise: Sequence[Path] = (),
        redraw: bool = True,
    ) -> None:
        self._folder = folder
        self._noise = noise
        self._redraw = redraw
        self._by_clip = split == "train"
        # File and clip of each chunk, [chunks], and labels of each clip, [clips, K].
        self._files, self._chunk_clips, self._labels = _read_manifest(folder, split, names)
        if self._by_clip:
            clips = np.arange(len(self._labels) + 1)
            self._clips = clips[:-1]  # [n] clip of each sample
            # Sample i has the chunks from bound i up to, but not including, bound i + 1.
            self._bounds = np.searchsorted(self._chunk_clips, clips)
        else:
            self._clips = self._chunk_clips
            self._bounds = np.arange(len(self._clips) + 1)

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return spectrograms [B, 1, 96, 102] and labels [B, K].

        Chunks, masks and noise are drawn from `augment`.
        """
        indices = np.asarray(indices, dtype=np.int64)
        # A sample draws chunk, masks and noise from its generator; without a generator, it has no
        # random draws.
        step_generator = augment if self._noise else None
        generators = [step_generator for _ in indices]
        if self._noise and not self._redraw:
            generators = [numpy_generator(_FROZEN_SEED, "fsd50k", int(clip)) for clip in indices]
        # The samples of a step share a generator, so the order of draws matters: all chunks come
        # first.
        sounds = []
        for index, generator in zip(indices, generators, strict=True):
            sounds.append(read(self._chunk_file(index, generator)))
        features = log_mel(np.stack(sounds))  # [B, 96, 101]
        for row, generator in enumerate(generators):
            if generator is not None:
                features[row] = self._augmented(features[row], generator)
        # With a frame of zeros at the end, as in NAS-Bench-360: [B, 96, 102].
        padded = np.pad(features, ((0, 0), (0, 0), (0, 1)))
        labels = self._labels[self._clips[indices]]
        return Batch.from_arrays(padded[:, None], labels.astype(np.float32))

    def _chunk_file(self, index: int, generator: np.random.Generator | None) -> Path:
        """Return a random chunk of a sample, or its middle chunk if there is no generator."""
        start, end = self._bounds[index : index + 2]
        chunk = (start + end) // 2
        if generator is not None:
            chunk = generator.integers(start, end)
        return self._folder / self._files[int(chunk)]

    def _augmented(self, features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a spectrogram [96, 101], randomly with or without masks and background noise."""
        if generator.random() < _MASKING:
            features = mask(features, generator)
        if generator.random() < _MIXING:
            number = int(generator.integers(len(self._noise)))
            noise = read(self._noise[number], start=generator.random())
            (background,) = log_mel(noise[None])
            features = mix(features, background, generator)
        return features

    def targets(self) -> np.ndarray:
        """Return the labels of every sample's clip, [n, K] float32."""
        return self._labels[self._clips].astype(np.float32)

    def groups(self) -> np.ndarray | None:
        """Return the clip of every chunk, [n] int64; None if the samples are clips."""
        if self._by_clip:
            return None
        return self._clips

    def digest(self) -> str:
        """Return a SHA-256 over the manifest, the settings of draws, and a part of the sounds.

        This part is evenly spread, since all sounds together have 24 GB.
        """
        header = f"fsd50k {self._drawn()} {self._labels.shape}"
        digest = hashlib.sha256(header.encode())
        for file_name in self._files:
            digest.update(f"{file_name}\n".encode())
        digest.update(self._chunk_clips.tobytes())
        digest.update(self._labels.tobytes())
        # Evenly spaced from the first chunk to the last.
        spread = np.linspace(0, len(self._files) - 1, _SAMPLED_FILES)
        for chunk in np.unique(spread.astype(int)):
            file = self._folder / self._files[chunk]
            with damage(str(file), ".wav file"):
                digest.update(bytes.fromhex(storage.sha256_file(file)))
        return digest.hexdigest()

    def _drawn(self) -> str:
        """Return the settings of the random draws as text, for the digest."""
        if not self._by_clip:
            return "chunks"
        if not self._noise:
            return "clips None 0"
        seed = None if self._redraw else _FROZEN_SEED
        return (
            f"clips Augmentation(masking={_MASKING}, mixing={_MIXING}, "
            f"most_noise={_MOST_NOISE}, frozen_seed={seed}) {len(self._noise)}"
        )


def load(
    data_folder: Path,
    path: Annotated[
        str | None,
        "folder that contains the folders chunks and noise_22050; "
        "null: folder fsd50k of the data folder (paths.data)",
    ] = None,
    augmentation: Annotated[
        bool,
        "true: half of the training clips get masks (SpecAugment), and three quarters get noise; "
        "false: a clip is represented by its middle chunk, unchanged",
    ] = True,
    redraw: Annotated[
        bool,
        "true: the chunk, masks and noise of a clip are drawn again in each step; "
        "false: they are drawn once, for all epochs and for stage 2",
    ] = True,
) -> TaskData:
    """Return log-mel spectrograms [n, 1, 96, 102] and their labels [n, K] of 0 and 1.

    The last column of a spectrogram is zero. With redraw=false, the random draws are the same in
    all epochs and in stage 2.
    """
    file_names = [*_MANIFESTS.values(), _LABEL_MAP]
    files = find(data_folder, "fsd50k", file_names, path)
    folder = files[0].parents[1]  # the folder above chunks/tr.csv
    names = _read_label_names(folder / _LABEL_MAP)
    noise: list[Path] = []
    if augmentation:
        noise_folder = folder / "noise_22050"
        noise = sorted(noise_folder.glob("*.wav"))
        if not noise:
            raise DataError(
                "has no .wav files",
                where=str(noise_folder),
                hint=f"use task.augmentation=false, or {AGAIN}",
            )
    return TaskData(
        kind="labels",
        input_shape=(1, MELS, FRAMES + 1),
        num_outputs=len(names),
        train=Sounds(folder, "train", names, noise=noise, redraw=redraw),
        validation=Sounds(folder, "validation", names),
        open_test=lambda: Sounds(folder, "test", names),
        class_names=names,
        note="each training sample is a clip; each validation or test sample is a chunk of a clip",
    )


def _read_label_names(file: Path) -> tuple[str, ...]:
    """Return the names of the labels in the order of their numbers 0..K-1."""
    with damage(str(file), "map of labels"):
        number_of_label = json.loads(read_text(file, _MAX_TABLE_BYTES, AGAIN))
        names = sorted(number_of_label, key=number_of_label.__getitem__)
        expected = list(range(len(names)))
        sorted_numbers = [number_of_label[name] for name in names]
        if not 0 < len(names) <= _MAX_LABELS or sorted_numbers != expected:
            raise ValueError("the labels must have the numbers 0, 1, 2, ... without gaps")
    return tuple(names)


def _read_manifest(
    folder: Path, split: str, names: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the chunks of a split, clip by clip; clips are in the order of their first rows.

    Returns:
        The paths of the chunks, relative to `folder`; the clip number of each chunk, [chunks]
        int64, ascending; and the labels of the clips, [clips, K] uint8 of 0 and 1.
    """
    import pandas as pd

    manifest = folder / _MANIFESTS[split]
    text = read_text(manifest, _MAX_TABLE_BYTES, AGAIN)
    with damage(str(manifest), "table"):
        table = pd.read_csv(io.StringIO(text), dtype=str, na_filter=False, usecols=_COLUMNS)
        # Clips are numbered in the order in which they occur.
        table["clip"] = pd.factorize(table["ext"])[0]
        # A stable sort: the chunks of a clip stay in the order of the manifest.
        table = table.sort_values("clip", kind="stable", ignore_index=True)
    paths = []
    for file in table["files"]:
        path = file.replace("\\", "/").split("/")  # the path may come from Windows
        paths.append([name for name in path if name])
    is_outside = any(not path or ".." in path for path in paths)
    is_without_clip = table["ext"] == ""
    if not paths or is_outside or is_without_clip.any():
        raise fault(
            "has a row without a clip, or a row whose path is empty or leads out of the folder",
            manifest,
        )
    num_names = _existing_end(folder, paths[0])
    if num_names == 0:
        first_path = table["files"][0]
        raise fault(
            f"the first path in this file is '{first_path}', but no such file exists below "
            f"'{folder}'",
            manifest,
        )
    # All chunks of a clip repeat its labels, so the labels of the first chunk are sufficient.
    labels_by_clip = table.groupby("clip")["labels"]
    label_counts = labels_by_clip.nunique()
    if (label_counts > 1).any():
        raise fault("has a clip whose chunks have different labels", manifest)
    label_lists = labels_by_clip.first().tolist()
    labels = _multi_hot(label_lists, names, manifest)
    files = ["/".join(path[-num_names:]) for path in paths]
    return files, table["clip"].to_numpy(np.int64), labels


def _existing_end(folder: Path, path: Sequence[str]) -> int:
    """Return the number of names in the longest end of `path` that is a file below `folder`, or 0.

    All paths of a manifest begin with the same folders of another machine, so the reader cuts all
    of them to this number of names.
    """
    for num_names in range(len(path), 0, -1):
        path_end = path[-num_names:]
        if folder.joinpath(*path_end).is_file():
            return num_names
    return 0


def _multi_hot(label_lists: Sequence[str], names: Sequence[str], manifest: Path) -> np.ndarray:
    """Return the labels of clips, given as names between commas, as [clips, K] uint8 of 0 and 1."""
    columns = {name: column for column, name in enumerate(names)}
    multi_hot = np.zeros((len(label_lists), len(names)), np.uint8)
    for clip, label_list in enumerate(label_lists):
        for name in label_list.split(","):
            label = name.strip()
            if label not in columns:
                raise fault(f"has the label '{label[:40]}', which is not in {_LABEL_MAP}", manifest)
            multi_hot[clip, columns[label]] = 1
    return multi_hot


def read(path: Path, start: float = 0.0) -> np.ndarray:
    """Return one second of a .wav file, [22050] float32 in -1..1.

    A shorter sound is repeated, and channels are averaged. In a longer sound, `start` is the
    beginning of this second, from 0 (beginning of the sound) to 1 (last possible position). Raises
    DataError for a file that is missing or damaged, or has another rate than 22,050 Hz.
    """
    from scipy.io import wavfile

    first_bytes(path, str(path), AGAIN)
    with damage(str(path), ".wav file"), warnings.catch_warnings():
        # The reader warns of sections of the file that are not sound.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        # Mapped, so that little of a long file is read; a truncated file is an error.
        rate, sound = wavfile.read(path, mmap=True)
    if rate != RATE or sound.ndim > 2 or not sound.size:
        raise fault(f"has shape {sound.shape} at {rate} Hz, expected a sound at {RATE} Hz", path)
    last_start = max(0, len(sound) - RATE)
    # With start=1, the product is one beyond the last possible position.
    begin = min(int(start * (last_start + 1)), last_start)
    samples = sound[begin : begin + RATE]  # [22050] or less; with channels [22050, channels]
    stretch = samples.astype(np.float32)
    # A .wav file contains unsigned bytes, signed integers, or floats that are in -1..1 already.
    if samples.dtype == np.uint8:
        stretch = (stretch - 128) / 128
    elif samples.dtype.kind == "i":
        num_bits = 8 * samples.dtype.itemsize
        stretch = stretch / np.float32(2 ** (num_bits - 1))
    if stretch.ndim == 2:
        stretch = stretch.mean(axis=1)  # over channels
    if not np.isfinite(stretch).all():
        raise fault("contains NaN or infinite values", path)
    num_repeats = math.ceil(RATE / len(stretch))
    return np.tile(stretch, num_repeats)[:RATE]


def log_mel(sounds: np.ndarray) -> np.ndarray:
    """Return spectrograms [B, 96, 101] float32 in decibels of sounds [B, 22050] in -1..1.

    Each spectrogram has the mean 0.
    """
    with torch.no_grad():
        waves = torch.from_numpy(np.ascontiguousarray(sounds, dtype=np.float32))
        # [B, 961, 101]: frequencies by frames, complex
        spectrum = torch.stft(
            waves,
            _N_FFT,
            hop_length=_HOP,
            win_length=_WINDOW,
            window=torch.hann_window(_WINDOW),
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # [B, 961, 101]
        mels = torch.from_numpy(mel_filters().T) @ power  # [B, 96, 101]
        mels = mels.clamp_min(_FLOOR)  # silence has no logarithm
        decibels = 10 * mels.log10()
        # No value is more than 80 dB below the loudest value of its sound.
        loudest = decibels.amax(dim=(1, 2), keepdim=True)  # [B, 1, 1]
        decibels = torch.maximum(decibels, loudest - _RANGE_DB) + _SHIFT_DB
        sound_means = decibels.mean(dim=(1, 2), keepdim=True)
        return (decibels - sound_means).numpy()


@cache
def mel_filters() -> np.ndarray:
    """Return the mel filters [961, 96] float32.

    They are triangles of height 1 between neighbours of 98 points, which are evenly spaced on the
    HTK scale.
    """
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=_N_FFT // 2 + 1,
        num_mel_filters=MELS,
        min_frequency=0.0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm=None,
        mel_scale="htk",
    )
    return np.ascontiguousarray(filters, dtype=np.float32)


def mask(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of [96, frames] in which bands of mels and stretches of frames are masked.

    Masked values are set to the minimum. There are one or two bands, with up to 15 % of the mels
    each, and the same number of stretches, with up to 20 % of the frames each: SpecAugment (Park et
    al. 2019) without its warp of time.
    """
    masked = features.copy()
    # The value of all masks is the minimum before the first mask.
    lowest = features.min()
    num_mels, num_frames = features.shape
    num_masks = int(generator.integers(1, _MAX_MASKS + 1))
    for _ in range(num_masks):
        masked[_stretch(num_mels, _MASKED_MELS, generator)] = lowest
        masked[:, _stretch(num_frames, _MASKED_FRAMES, generator)] = lowest
    return masked


def _stretch(extent: int, largest_share: float, generator: np.random.Generator) -> slice:
    """Return a random stretch in 0..extent, of at most the fraction `largest_share` of it."""
    largest = int(largest_share * extent)
    length = int(generator.integers(0, largest + 1))
    start = int(generator.integers(0, extent - length + 1))
    return slice(start, start + length)


def mix(features: np.ndarray, background: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return (1 - a) * features + a * background with a uniform in 0..0.5.

    Both are [96, frames], in decibels.
    """
    share = np.float32(generator.uniform(0, _MOST_NOISE))
    return (1 - share) * features + share * background
