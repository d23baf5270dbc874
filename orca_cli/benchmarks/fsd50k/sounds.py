"""One-second sounds from .wav files, their log-mel spectrograms and random changes, as FSD50K is used (NAS-Bench-360).

The spectrogram is torchaudio's MelSpectrogram with n_fft 1920, a Hann window of 661 samples (30 ms) and a hop of 220 (10
ms): centred frames with reflected borders, power 2, 96 triangular filters on the HTK mel scale from 0 Hz to half the
sampling rate, without normalisation. Then decibels as librosa's power_to_db has them (reference 1, floor 1e-10, at most
80 dB below the maximum), plus 75, minus the sound's own mean.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch

from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.exceptions import DataError

RATE = 22_050  # Hz
MELS = 96
FRAMES = 101  # of one second
_N_FFT, _WINDOW, _HOP = 1920, 661, 220
_FLOOR, _RANGE_DB, _SHIFT_DB = 1e-10, 80.0, 75.0
_MAX_MASKS, _MASKED_MELS, _MASKED_FRAMES = 2, 0.15, 0.2
_MOST_NOISE = 0.5  # the largest share of background noise
_HINT = "unpack the archive again"


def read(path: Path, start: float = 0.0) -> np.ndarray:
    """Return one second, [22050] float32 in -1..1; a shorter sound is repeated, channels are averaged.

    Args:
        path: PCM of 8, 16 or 32 bits, or floats, at 22,050 Hz.
        start: where the second begins in a longer sound: 0 is the first possible place, 1 the last.

    Raises:
        DataError: the file is missing, damaged, empty, not finite, or of another rate or coding.
    """
    from scipy.io import wavfile

    first_bytes(path, str(path), _HINT)
    with damage(str(path), ".wav file"), warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
        # Mapped: of a long file little is read, and one that is cut off is an error.
        rate, sound = wavfile.read(path, mmap=True)
    if rate != RATE or sound.ndim > 2 or not sound.size:
        what = f"has values {sound.shape} at {rate} Hz; a sound at {RATE} Hz is needed"
        raise DataError(what, where=str(path), hint=_HINT)
    first = int(start * max(0, len(sound) - RATE + 1))
    samples = sound[min(first, max(0, len(sound) - RATE)) :][:RATE]
    stretch = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        stretch = (stretch - 128) / 128
    elif samples.dtype.kind == "i":
        stretch = stretch / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    if stretch.ndim == 2:
        stretch = stretch.mean(axis=1)
    if not np.isfinite(stretch).all():
        raise DataError("has values that are NaN or infinite", where=str(path), hint=_HINT)
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
        decibels = torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - _RANGE_DB) + _SHIFT_DB
        return (decibels - decibels.mean(dim=(1, 2), keepdim=True)).numpy()


@cache
def mel_filters() -> np.ndarray:
    """Return the filters [961, 96] float32: triangles of height 1 between neighbours of 98 points, even on the HTK scale."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(_N_FFT // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    return np.ascontiguousarray(filters, dtype=np.float32)


def mask(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of [96, frames] with one or two bands of mels, and as many stretches of frames, at the minimum.

    This is SpecAugment; a band has up to 15 % of the mels, a stretch up to 20 % of the frames.
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
