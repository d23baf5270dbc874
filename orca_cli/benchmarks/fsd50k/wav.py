"""Sounds from .wav files: a stretch of given length, as float32 in -1..1, mono."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path

import numpy as np

from orca_cli.data.untrusted.first_bytes import first_bytes
from orca_cli.exceptions import DataError

_HINT = "unpack the archive again, or convert the file to mono PCM at the right rate"
_MAX_UNMAPPED_BYTES = 2**26
_UNKNOWN_SIZE = 0x7FFFFF00  # what such a size begins with
# What scipy raises on truncated files and on files of other formats.
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    struct.error,
    TypeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    UnboundLocalError,
)


def read(path: Path, rate: int, length: int, start: float = 0.0) -> np.ndarray:
    """Return [length] float32 in -1..1; a shorter sound is repeated, channels are averaged.

    Args:
        path: PCM of 8, 16, 24 or 32 bits, or floats.
        rate: the sampling rate that the file must have, in Hz.
        length: samples to return.
        start: where the stretch begins in a longer sound: 0 is the first possible place, 1 the last.

    Raises:
        DataError: the file is missing, damaged, empty, not finite, or of another rate.
    """
    file_rate, sound = _open(path)
    if file_rate != rate:
        raise DataError(f"is sampled at {file_rate} Hz; {rate} Hz is needed", where=str(path), hint=_HINT)
    if sound.ndim > 2 or len(sound) == 0 or (sound.ndim == 2 and sound.shape[1] == 0):
        raise DataError("holds no sound", where=str(path), hint=_HINT)
    first = int(start * max(0, len(sound) - length + 1))
    stretch = _to_float(sound[min(first, max(0, len(sound) - length)) :][:length])
    if stretch.ndim == 2:
        stretch = stretch.mean(axis=1)
    if not np.isfinite(stretch).all():
        raise DataError("has values that are NaN or infinite", where=str(path), hint=_HINT)
    return np.tile(stretch, math.ceil(length / len(stretch)))[:length].astype(np.float32)


def _open(path: Path) -> tuple[int, np.ndarray]:
    """Return rate and samples, as a memory map where the coding allows it, so that of a long file little is read."""
    from scipy.io import wavfile

    if path.is_file():
        _check_whole(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
        try:
            try:
                return wavfile.read(path, mmap=True)
            except ValueError:  # 24 bits cannot be mapped
                if path.stat().st_size > _MAX_UNMAPPED_BYTES:
                    raise
                return wavfile.read(path)
        except FileNotFoundError as error:
            raise DataError("no such file", where=str(path), hint="unpack the archive again") from error
        except _DAMAGE as error:
            raise DataError(f"is not a readable .wav file ({error})", where=str(path), hint=_HINT) from error


def _check_whole(path: Path) -> None:
    """Refuse files of another kind, and files shorter than their header declares, which SciPy would read in part."""
    head = first_bytes(path, str(path), _HINT)
    order = {b"RIFF": "<", b"RIFX": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return
    declared = struct.unpack(f"{order}I", head[4:8])[0]
    # Programs that write into a pipe do not know the size; the byte that pads an odd chunk may be missing.
    if declared < _UNKNOWN_SIZE and declared + 7 > path.stat().st_size:
        what = f"is cut off: {declared + 8:,} bytes are declared, {path.stat().st_size:,} are there"
        raise DataError(what, where=str(path), hint=_HINT)


def _to_float(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32)
