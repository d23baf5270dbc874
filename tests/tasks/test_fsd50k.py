"""FSD50K: the spectrogram against a direct computation; chunks and clips; draws; wrong files."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.io import wavfile

from orca_cli.benchmarks import fsd50k
from orca_cli.exceptions import DataError
from tests import benchmark_files
from tests.tasks.builders import refused


def sound(seed, seconds=1.0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * fsd50k.RATE)) / fsd50k.RATE
    return 0.3 * np.sin(2 * np.pi * rng.uniform(100, 5000) * time) + 0.05 * rng.normal(
        size=len(time)
    )


@pytest.fixture
def folder(tmp_path):
    benchmark_files.make("fsd50k", tmp_path)
    return tmp_path / "fsd50k" / "chunks"


def expected(samples):
    """The definition, summed: frames, window, discrete Fourier transform, triangles, decibels."""
    padded = np.pad(np.asarray(samples, np.float64), 960, mode="reflect")
    window = np.zeros(1920)
    window[629:1290] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(661) / 661)
    frames = np.stack([padded[start : start + 1920] * window for start in range(0, 22050 + 1, 220)])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # [101, 961]
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 11025 / 700), 98) / 2595) - 1)
    bins = np.linspace(0, 11025, 961)
    rising = (bins[:, None] - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins[:, None]) / (points[2:] - points[1:-1])
    mels = np.maximum(0, np.minimum(rising, falling)).T @ power.T  # [96, 101]
    decibels = 10 * np.log10(np.maximum(mels, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80) + 75
    return decibels - decibels.mean()


def test_the_spectrogram_agrees_with_its_definition():
    both = np.stack([sound(1), sound(2)])
    spectrograms = fsd50k.log_mel(both)
    np.testing.assert_allclose(
        spectrograms, [expected(one.astype(np.float32)) for one in both], atol=2e-2
    )
    assert (fsd50k.log_mel(np.zeros((1, 22050))) == 0).all()  # silence is even, and finite


def test_evaluation_has_every_chunk_and_knows_its_clip(folder, build):
    table = pd.read_csv(folder / "eval.csv", dtype=str)  # sorted by chunk now, not by clip
    table.sort_values("files", key=lambda files: files.str[-5:], kind="stable").to_csv(
        folder / "eval.csv", index=False
    )
    (folder / "lbl_map.json").write_text(json.dumps({f"label_{i}": 199 - i for i in range(200)}))
    task = build("fsd50k")
    assert task.input_shape == (1, 96, 102)
    assert task.class_names == tuple(f"label_{199 - i}" for i in range(200))
    test = task.open_test()
    assert test.groups().tolist() == [0, 1, 1, 2, 2, 2, 3]  # chunks of a clip are put together
    batch = test.batch(np.array([5, 0]), np.random.default_rng(0))
    assert (batch.x[..., 101] == 0).all()
    _, last = wavfile.read(folder / "eval" / "1202_2.wav")
    np.testing.assert_allclose(batch.x[0, 0, :, :101], expected(last / 32768), atol=2e-2)


def test_training_draws_in_optimizer_steps_alone(folder, build):
    task = build("fsd50k")
    clips = np.arange(3)
    plain = task.train.batch(clips).x
    first, again, other = (
        task.train.batch(clips, np.random.default_rng(seed)).x for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).flatten(1).any(1).all()
    middle = build("fsd50k", augmentation=False)
    assert (middle.train.batch(clips, np.random.default_rng(0)).x == plain).all()
    frozen = build("fsd50k", redraw=False).train
    first = frozen.batch(np.array([0, 2])).x  # drawn once, and the same in every step
    assert (first == frozen.batch(np.array([2, 0]), np.random.default_rng(5)).x.flip(0)).all()
    assert frozen.digest() != task.train.digest()


def test_masks_are_bounded_and_noise_is_a_mixture():
    features = np.random.default_rng(0).normal(size=(96, 101)).astype(np.float32)
    for seed in range(30):
        masked = fsd50k.mask(features, np.random.default_rng(seed))
        changed = masked != features
        assert (masked[changed] == features.min()).all()
        assert changed.all(1).sum() <= 2 * 14 + 1
        assert changed.all(0).sum() <= 2 * 20 + 1
    noise = features[::-1]
    mixtures = [fsd50k.mix(features, noise, np.random.default_rng(seed)) for seed in range(50)]
    shares = [float(np.mean((mixture - features) / (noise - features))) for mixture in mixtures]
    assert 0 <= min(shares) < 0.1
    assert 0.4 < max(shares) <= 0.5


def test_the_start_of_a_path_in_a_table_does_not_matter(folder, build):
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace("/mnt/", "C:\\audio\\"))
    assert build("fsd50k").validation.batch(np.array([0])).x.isfinite().all()


def test_wrong_tables_are_refused(folder, build):
    (folder / "val" / "1101_1.wav").unlink()
    with refused("1101_1.wav: does not exist", DataError):
        build("fsd50k").validation.batch(np.arange(3))
    (folder / "tr.csv").write_text(
        (folder / "tr.csv").read_text().replace("/mnt/chunks/tr/1001_0", "../../x", 1)
    )
    with refused("or a row whose path is empty or leads out of the folder", DataError):
        build("fsd50k")


def test_codings_have_one_scale_and_sounds_the_length(tmp_path):
    path = tmp_path / "a.wav"
    values = (np.int16(16384), np.uint8(192), np.array([2**30] * 2, np.int32), np.float32(0.5))
    for value in values:
        wavfile.write(path, 22050, np.tile(value, (22050, *[1] * value.ndim)).astype(value.dtype))
        np.testing.assert_allclose(fsd50k.read(path), np.full(22050, 0.5, np.float32))
    wavfile.write(path, 22050, np.arange(5, dtype=np.float32))
    assert fsd50k.read(path)[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    wavfile.write(path, 22050, np.arange(22052, dtype=np.float32))
    assert {fsd50k.read(path, start=i / 100)[0] for i in range(101)} == {0, 1, 2}
    path.write_bytes(path.read_bytes()[:-5])
    with refused("is not a valid .wav file", DataError):
        fsd50k.read(path)
