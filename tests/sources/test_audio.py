"""Sounds as sources: generated ones are repeatable, and their kinds differ; own recordings are read as they are, or refused."""

import numpy as np

from orca_cli.benchmarks.sources import recordings, tones
from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks.builders import refused

SOUNDS = np.random.default_rng(0).uniform(-1, 1, (12, 800)).astype(np.float32)


def read(path, size=None, seed=0):
    return recordings.load(size, seed, path.parent, str(path))


def save(folder, **changes):
    arrays = {"x": SOUNDS, "y": np.arange(12) % 2} | changes
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_generated_sounds_are_balanced_bounded_and_the_same_every_time():
    data = tones.load(40, 0)
    sounds, labels = data.examples.inputs, data.examples.labels
    assert (sounds.shape, sounds.dtype) == ((40, 8000), np.float32)
    assert np.bincount(labels).tolist() == [4] * len(data.examples.class_names) == [4] * 10
    assert len({sound.tobytes() for sound in sounds}) == 40
    assert np.array_equal(tones.load(60, 0).examples.inputs[:40], sounds)
    assert len({data.digest, tones.load(60, 0).digest, tones.load(40, 1).digest}) == 3


def test_waves_have_the_harmonics_of_their_form():
    """Known series: a sawtooth has all harmonics as 1 / n, a square wave the odd ones, a sine the first."""
    for kind, orders in {"sine": [1], "square": range(1, 40, 2), "sawtooth": range(1, 40)}.items():
        expected = np.zeros(8001)
        expected[[200 * n for n in orders]] = [1 / n for n in orders]
        sound = tones.KINDS[kind](np.arange(16_000) / 16_000, 200.0, np.random.default_rng(0))
        amplitudes = np.abs(np.fft.rfft(sound)) / 8000
        np.testing.assert_allclose(amplitudes / amplitudes[200], expected, atol=2e-3, err_msg=kind)


def test_recordings_are_drawn_named_and_scaled(tmp_path):
    arrays = np.load(path := save(tmp_path, y=np.array(["dog", "cat", "cow"] * 4)))
    examples = read(path).examples
    assert tuple(examples.class_names) == ("cat", "cow", "dog")
    assert np.array_equal(examples.inputs, arrays["x"])
    assert [examples.class_names[label] for label in examples.labels] == arrays["y"].tolist()
    part = read(path, size=6, seed=3)
    assert np.bincount(part.examples.labels).tolist() == [2, 2, 2]
    assert len({part.digest, read(path).digest, read(path, size=6).digest}) == 3
    x = np.round(SOUNDS * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    sounds = read(save(tmp_path, x=x)).examples.inputs
    assert sounds.dtype == np.float32
    np.testing.assert_allclose(sounds, SOUNDS, atol=1e-4)


def test_recordings_of_another_form_are_refused(tmp_path):
    for changes, error, message in (
        ({"x": np.where(SOUNDS[1, 1] == SOUNDS, np.nan, SOUNDS)}, DataError, r"own\.npz\[x\]: .* or NaN"),
        ({"x": SOUNDS + 1.5}, DataError, r"beyond -1\.\.1.*divide by the largest"),
        ({"x": np.array([{}] * 12, dtype=object)}, UnsafeError, r"own\.npz"),
    ):
        with refused(message, error):
            read(save(tmp_path, **changes)).examples  # noqa: B018
