"""Sounds as sources: generated ones are repeatable, and their kinds differ; own recordings are read as they are, or refused."""

import pickle
import zipfile

import numpy as np
import pytest
from scipy.signal import chirp, find_peaks
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orca_cli.benchmarks.sources import recordings, tones
from orca_cli.exceptions import ConfigError, DataError, UnsafeError
from tests.tasks.builders import Attack, refused
from tests.untrusted.conftest import Quiet

SOUNDS = np.random.default_rng(0).uniform(-1, 1, (12, 800)).astype(np.float32)
HOLE = np.where(SOUNDS[-1, -1] == SOUNDS, np.nan, SOUNDS)


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
    assert data.modality == "audio"
    assert (sounds.shape, sounds.dtype) == ((40, 8000), np.float32)
    assert np.bincount(labels).tolist() == [4] * len(data.examples.class_names) == [4] * 10
    loudest = np.abs(sounds).max(1)
    assert ((loudest > 0.09) & (loudest <= 1)).all()
    assert np.abs(sounds.mean(1)).max() < 1e-4
    assert len({sound.tobytes() for sound in sounds}) == 40
    again = made()
    assert again.digest == data.digest
    assert np.array_equal(again.examples.inputs, sounds)
    assert np.array_equal(made(60).examples.inputs[:40], sounds)
    assert len({data.digest, made(60).digest, made(seed=1).digest, made(seconds=0.4).digest}) == 4
    assert not np.array_equal(made(seed=1).examples.inputs, sounds)


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


def test_a_chirp_is_scipys():
    time = np.arange(8000) / 16_000

    class Still:
        def uniform(self, low, high):
            return 0.0

    expected = chirp(time, 150.0, time[-1], 900.0, method="logarithmic", phi=-90)
    np.testing.assert_allclose(tones.KINDS["chirp_up"](time, 150.0, Still()), expected, atol=1e-6)


def test_a_linear_model_on_spectra_tells_the_kinds_apart():
    """By chance: one in ten. Pitch, phase and loudness are drawn alike for all kinds."""
    examples = made(600, seconds=0.5).examples
    frames = examples.inputs.reshape(600, 10, 800) * np.hanning(800)
    spectra = np.log(np.abs(np.fft.rfft(frames, axis=2)) + 1e-3)
    change = spectra[:, 5:].mean(1) - spectra[:, :5].mean(1)
    x = np.concatenate([spectra.mean(1), spectra.std(1), change], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(
        x[:400], examples.labels[:400]
    )
    assert model.score(x[400:], examples.labels[400:]) > 0.8


def test_recordings_are_drawn_and_named(tmp_path):
    arrays = np.load(path := save(tmp_path, y=np.array(["dog", "cat", "cow"] * 4)))
    examples = read(path).examples
    assert tuple(examples.class_names) == ("cat", "cow", "dog")
    assert np.array_equal(examples.inputs, arrays["x"])
    assert [examples.class_names[label] for label in examples.labels] == arrays["y"].tolist()
    part = read(path, size=6, seed=3)
    assert np.bincount(part.examples.labels).tolist() == [2, 2, 2]
    assert part.digest == read(path, size=6, seed=3).digest
    others = [read(path), read(path, size=6), read(path, size=6, seed=3, rate=8000)]
    assert len({part.digest, *(one.digest for one in others)}) == 4
    digest = recordings.load(None, 0, Quiet(), tmp_path, "own.npz").digest  # below the folder of data
    assert digest == read(path).digest


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
        (
            {"x": np.where(SOUNDS[-1, -1] == SOUNDS, np.nan, SOUNDS)},
            DataError,
            r"own\.npz\[x\]: holds numbers that are infinite or NaN",
        ),
        ({"x": SOUNDS + 1.5}, DataError, r"holds 2\.\d+; divide by the largest"),
        ({"x": SOUNDS.astype(int)}, DataError, r"type int64, with 12 labels; expected: x \[n, L\]: int16"),
        ({"x": np.zeros((11, 800))}, DataError, r"shape \(11, 800\)"),
        ({"x": np.zeros((12, 399))}, DataError, "399 values, less than 25 ms"),
        ({"y": np.arange(12) / 7}, DataError, r"own\.npz\[y\]: labels have shape \(12,\) and type float64"),
        ({"y": np.arange(12) // 11}, DataError, "class 1 has 1 examples"),
        ({"y": np.zeros(12, int)}, DataError, "only one class"),
        ({"x": np.array([{}] * 12, dtype=object)}, UnsafeError, r"own\.npz"),
    ],
)
def test_recordings_of_another_form_are_refused(tmp_path, changes, error, message):
    with refused(message, error):
        read(save(tmp_path, **changes)).examples  # noqa: B018


def test_no_file_and_too_few_are_refused(tmp_path):
    with refused(r"gone\.npz: no such file.*source=tones needs no file", DataError):
        read(tmp_path / "gone.npz")
    with refused(r"source\.size", ConfigError):
        read(save(tmp_path, y=np.arange(12) % 6), size=8).examples  # noqa: B018


@pytest.mark.parametrize("lie", ["pickle", "size"])
def test_files_that_are_no_archives_or_lie_about_their_size_are_refused(tmp_path, lie):
    canary, place = tmp_path / "canary", tmp_path / "own.npz"
    if lie == "pickle":
        place.write_bytes(pickle.dumps(Attack(canary)))
    else:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576)}\n"
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            archive.writestr("y.npy", b"")
    with refused(r"own\.npz", DataError):
        read(place).examples  # noqa: B018
    assert not canary.exists()
