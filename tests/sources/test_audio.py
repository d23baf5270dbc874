"""Sounds as sources: generated ones are repeatable, and their kinds differ; own recordings are read as they are, or refused."""

import numpy as np
import pytest
from scipy.signal import chirp, find_peaks

from orca_cli.benchmarks.sources import recordings, tones
from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks.builders import refused
from tests.untrusted.conftest import Quiet

SOUNDS = np.random.default_rng(0).uniform(-1, 1, (12, 800)).astype(np.float32)


def made(size=40, seed=0, seconds=0.5):
    return tones.load(size, seed, Quiet(), seconds)


def read(path, size=None, seed=0, rate=16_000):
    return recordings.load(size, seed, Quiet(), path.parent, str(path), rate)


def save(folder, **changes):
    arrays = {"x": SOUNDS, "y": np.arange(12) % 2} | changes
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_generated_sounds_are_balanced_bounded_and_the_same_every_time():
    data = made()
    sounds, labels = data.examples.inputs, data.examples.labels
    assert (sounds.shape, sounds.dtype) == ((40, 8000), np.float32)
    assert np.bincount(labels).tolist() == [4] * len(data.examples.class_names) == [4] * 10
    assert len({sound.tobytes() for sound in sounds}) == 40
    again = made()
    assert np.array_equal(again.examples.inputs, sounds)
    assert np.array_equal(made(60).examples.inputs[:40], sounds)
    assert len({data.digest, made(60).digest, made(seed=1).digest, made(seconds=0.4).digest}) == 4


def spectrum(kind, pitch=200.0):
    """Return magnitudes by Hz of one second of a kind."""
    time = np.arange(16_000) / 16_000
    return np.abs(np.fft.rfft(tones.KINDS[kind](time, pitch, np.random.default_rng(0)))) / 8000


def test_waves_have_the_harmonics_of_their_form():
    """Known series: a sawtooth has all harmonics as 1 / n, a square wave the odd ones, a sine the first."""
    for kind, orders in {"sine": [1], "square": range(1, 40, 2), "sawtooth": range(1, 40)}.items():
        expected = np.zeros(8001)
        expected[[200 * n for n in orders]] = [1 / n for n in orders]
        amplitudes = spectrum(kind)
        np.testing.assert_allclose(amplitudes / amplitudes[200], expected, atol=2e-3, err_msg=kind)


def test_a_plucked_string_has_its_pitch_and_decays():
    time = np.arange(16_000) / 16_000
    wave = tones.KINDS["plucked"](time, 200.0, np.random.default_rng(0))
    peaks, _ = find_peaks(spectrum("plucked"), height=0.5 * spectrum("plucked").max())
    assert all(abs(peak / 199 - round(peak / 199)) < 0.05 for peak in peaks)  # a turn of 80 values, and a half
    assert np.abs(wave[-4000:]).max() < 0.3 * np.abs(wave[:4000]).max()
    turn = wave[80:160]
    np.testing.assert_allclose(turn[1:], (wave[1:80] + wave[:79]) / 2)


def test_recordings_are_drawn_and_named(tmp_path):
    arrays = np.load(path := save(tmp_path, y=np.array(["dog", "cat", "cow"] * 4)))
    examples = read(path).examples
    assert tuple(examples.class_names) == ("cat", "cow", "dog")
    assert np.array_equal(examples.inputs, arrays["x"])
    assert [examples.class_names[label] for label in examples.labels] == arrays["y"].tolist()
    part = read(path, size=6, seed=3)
    assert np.bincount(part.examples.labels).tolist() == [2, 2, 2]
    others = [read(path), read(path, size=6), read(path, size=6, seed=3, rate=8000)]
    assert len({part.digest, *(one.digest for one in others)}) == 4


def test_whole_numbers_are_scaled_and_other_rates_resampled(tmp_path):
    """A sine of 300 Hz stays one, whatever the rate of the file."""
    for rate in (8000, 22_050, 44_100):
        wave = 0.5 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
        x = np.round(np.tile(wave, (4, 1)) * 2**15).astype(np.int16)
        sounds = read(save(tmp_path, x=x, y=[0, 1, 0, 1]), rate=rate).examples.inputs
        assert (sounds.shape, sounds.dtype) == ((4, 16_000), np.float32)
        expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)
        np.testing.assert_allclose(sounds[0, 500:-500], expected[500:-500], atol=2e-3)  # filters ring at the ends


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.where(SOUNDS[1, 1] == SOUNDS, np.nan, SOUNDS)}, DataError, r"own\.npz\[x\]: .* infinite or NaN"),
        ({"x": SOUNDS + 1.5}, DataError, r"holds 2\.\d+; divide by the largest"),
        ({"x": SOUNDS.astype(int)}, DataError, r"type int64, with 12 labels; expected: x \[n, L\]: int16"),
        ({"x": np.zeros((12, 399))}, DataError, "399 values, less than 25 ms"),
        ({"y": np.arange(12) / 7}, DataError, r"own\.npz\[y\]: labels have shape \(12,\) and type float64"),
        ({"x": np.array([{}] * 12, dtype=object)}, UnsafeError, r"own\.npz"),
    ],
)
def test_recordings_of_another_form_are_refused(tmp_path, changes, error, message):
    with refused(message, error):
        read(save(tmp_path, **changes)).examples  # noqa: B018


def test_a_chirp_is_scipys():
    class Still:
        def uniform(self, low, high):
            return 0.0

    time = np.arange(8000) / 16_000
    expected = chirp(time, 150.0, time[-1], 900.0, method="logarithmic", phi=-90)
    np.testing.assert_allclose(tones.KINDS["chirp_up"](time, 150.0, Still()), expected, atol=1e-6)
