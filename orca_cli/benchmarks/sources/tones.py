"""Generated sounds of ten kinds: a source for audio bodies that needs no files.

Kinds differ in the form of the wave, so that pitch, phase and loudness, which are drawn at random, do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import seeding, signals
from orca_cli.benchmarks.sources.balance import facts_digest
from orca_cli.interfaces import Examples, SourceData

RATE = 16_000
LENGTH = 8000  # of every sound
_VERSION = 1  # of the generators below
_LOWEST, _HIGHEST = 100.0, 1000.0  # pitch, Hz
_PERIOD = 4096  # points of a stored period
_QUIETEST = 0.1  # peak amplitudes are drawn from here to 1


def load(size: Annotated[int, Ge(20)], seed: int) -> SourceData:
    """Return sounds [n, 8000] at 16,000 values a second, of mean 0 and largest amplitude 0.1..1, and the kind of each.

    Args:
        size: n; as equally many of each kind as that allows.
        seed: of all draws. A sound keeps its values when `size` grows.
    """

    def read() -> Examples:
        sounds = np.empty((size, LENGTH), dtype=np.float32)
        labels = np.arange(size, dtype=np.int64) % len(KINDS)
        for number, kind in enumerate(np.array(list(KINDS))[labels]):
            signals.check()
            generator = seeding.numpy_generator(seed, "source", "tones", number)
            pitch = float(np.exp(generator.uniform(np.log(_LOWEST), np.log(_HIGHEST))))
            wave = KINDS[str(kind)](np.arange(LENGTH) / RATE, pitch, generator)
            wave = wave - wave.mean()
            loudness = float(np.exp(generator.uniform(np.log(_QUIETEST), 0.0)))
            sounds[number] = loudness * wave / np.abs(wave).max()
        return Examples(sounds, labels, tuple(KINDS))

    return SourceData("audio", facts_digest("tones", _VERSION, size, seed, LENGTH, *KINDS), read)


Kind = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _phase(generator: np.random.Generator) -> float:
    return float(generator.uniform(0, 2 * np.pi))


def _periodic(time: np.ndarray, pitch: float, phase: float, orders: np.ndarray) -> np.ndarray:
    """Return a sum of harmonics of amplitude 1 / order, without those above half the sampling rate, which would alias."""
    heard = orders[orders * pitch < RATE / 2]
    spectrum = np.zeros(_PERIOD // 2 + 1, dtype=complex)
    spectrum[heard] = -1j / heard  # sines
    period = np.fft.irfft(spectrum, _PERIOD)
    places = (pitch * time + phase / (2 * np.pi)) % 1 * _PERIOD
    return np.interp(places, np.arange(_PERIOD + 1), np.append(period, period[0]))


def _modulated(time: np.ndarray, pitch: float, generator: np.random.Generator) -> np.ndarray:
    """Frequency modulation by a slow sine, as in a siren: 4 to 8 times a second, by a third of the pitch."""
    rate = generator.uniform(4, 8)
    swing = pitch / 3 / rate * np.sin(2 * np.pi * rate * time + _phase(generator))
    return np.sin(2 * np.pi * pitch * time + swing + _phase(generator))


def _sweep(time: np.ndarray, start: float, end: float, generator: np.random.Generator) -> np.ndarray:
    """Return a chirp whose frequency goes from start to end by equal ratios in equal times."""
    growth = np.log(end / start) / time[-1]
    return np.sin(2 * np.pi * start * np.expm1(growth * time) / growth + _phase(generator))


def _band(time: np.ndarray, low: float, high: float, generator: np.random.Generator) -> np.ndarray:
    """Return white noise of the frequencies low..high."""
    spectrum = np.fft.rfft(generator.standard_normal(len(time)))
    frequencies = np.fft.rfftfreq(len(time), 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return np.fft.irfft(spectrum, len(time))


def _plucked(time: np.ndarray, pitch: float, generator: np.random.Generator) -> np.ndarray:
    """A decaying string (Karplus and Strong 1983): a period of noise, averaged with itself one value later in every turn."""
    turn = generator.uniform(-1, 1, round(RATE / pitch))
    turns, last = [], 0.0
    for _ in range(-(-len(time) // len(turn))):
        turns.append(turn)
        turn, last = (turn + np.append(last, turn[:-1])) / 2, turn[-1]
    return np.concatenate(turns)[: len(time)]


def _clicks(time: np.ndarray, pitch: float, generator: np.random.Generator) -> np.ndarray:
    """Clicks that ring at three times the pitch and fade by 1/e in 3 ms, 8 to 20 in a second."""
    struck = np.zeros(len(time))
    struck[int(generator.uniform(0, 0.05) * RATE) :: int(RATE / generator.uniform(8, 20))] = 1
    ring = time[: int(0.03 * RATE)]
    return np.convolve(struck, np.exp(-ring / 0.003) * np.sin(2 * np.pi * 3 * pitch * ring))[: len(time)]


KINDS: dict[str, Kind] = {
    "sine": lambda time, pitch, generator: np.sin(2 * np.pi * pitch * time + _phase(generator)),
    "square": lambda time, pitch, generator: _periodic(time, pitch, _phase(generator), np.arange(1, 200, 2)),
    "sawtooth": lambda time, pitch, generator: _periodic(time, pitch, _phase(generator), np.arange(1, 200)),
    "modulated": _modulated,
    "chirp_up": lambda time, pitch, generator: _sweep(time, pitch, 6 * pitch, generator),
    "chirp_down": lambda time, pitch, generator: _sweep(time, 6 * pitch, pitch, generator),
    "low_noise": lambda time, pitch, generator: _band(time, pitch, 3 * pitch, generator),
    "noise": lambda time, pitch, generator: _band(time, 0, RATE / 2, generator),
    "plucked": _plucked,
    "clicks": _clicks,
}
