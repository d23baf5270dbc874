"""NinaPro, Satellite and DeepSEA: synthetic files in the original form against what is read."""

import tracemalloc

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError
from tests import benchmark_files
from tests.tasks.builders import every, refused, splits


@pytest.fixture
def write(tmp_path):
    """A function: write a task's files, with some arrays changed, and return all arrays."""

    def call(task, **changes):
        benchmark_files.make(task, tmp_path)
        if task == "deepsea":
            path = tmp_path / task / "deepsea_filtered.npz"
            arrays = dict(np.load(path)) | changes
            if changes:
                np.savez(path, **arrays)
            return arrays
        for name, array in changes.items():
            np.save(tmp_path / task / f"{name}.npy", array, allow_pickle=True)
        return {
            path.stem: np.load(path, allow_pickle=True) for path in (tmp_path / task).glob("*.npy")
        }

    return call


def test_ninapro_is_electrodes_by_steps_in_the_files_splits(write, build):
    written = write("ninapro")
    task = build("ninapro", normalize="none")
    for part, samples in zip(("train", "val", "test"), splits(task), strict=True):
        batch = every(samples)
        assert np.array_equal(
            batch.x[:, 0].numpy(), written[f"ninapro_{part}"].astype(np.float32).transpose(0, 2, 1)
        )
        assert np.array_equal(samples.targets(), written[f"label_{part}"])

    both = build("ninapro", train_on_validation=True)
    assert np.array_equal(both.train.targets(), [*written["label_train"], *written["label_val"]])


def test_ninapro_scales_electrodes_by_training_windows_alone(write, build):
    levels = np.random.default_rng(0).normal(np.arange(16), 1 + np.arange(16), (90, 52, 16))
    levels[:, :, 3] = 0.1
    written = write("ninapro", ninapro_train=levels.astype(np.float16))
    task = build("ninapro")
    x = every(task.train).x[:, 0].double()
    varying = [electrode for electrode in range(16) if electrode != 3]
    assert torch.allclose(x.mean((0, 2)), torch.zeros(16).double(), atol=1e-6)
    assert torch.allclose(x.std((0, 2), correction=0)[varying], torch.ones(15).double(), atol=1e-5)
    train, test = (written[f"ninapro_{part}"].astype(float) for part in ("train", "test"))
    expected = (test[:, :, 5] - train[:, :, 5].mean()) / train[:, :, 5].std()
    assert np.allclose(every(task.open_test()).x[:, 0, 5], expected, atol=1e-5)


def test_satellite_series_are_z_scored_and_split_once(write, build):
    series = np.random.default_rng(0).normal(2000, 300, (48, 46))
    series[0], series[1] = 1234.567, 0
    changed = {"data": series, "label": np.arange(48) % 24 + 1}
    train = write("satellite", satellite_test=changed)["satellite_train"].item()
    task = build("satellite", validation_size=24)
    assert list(map(len, splits(task))) == [216, 24, 48]
    test = every(task.open_test())
    assert np.array_equal(test.y, changed["label"] - 1)
    values = series[2:]
    expected = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    assert np.allclose(test.x[2:, 0], expected, atol=1e-5)
    assert test.x[:2].abs().max() < 1e-5
    assert np.bincount(task.validation.targets()).tolist() == [1] * 24

    raw = build("satellite", validation_size=24, normalize="none")
    parts = [every(samples) for samples in (raw.train, raw.validation)]
    whole = train["data"].astype(np.float32)
    rows = [
        np.flatnonzero((one == whole).all(1))[0] for batch in parts for one in batch.x[:, 0].numpy()
    ]
    assert sorted(rows) == list(range(240))  # disjoint, and nothing lost
    assert np.array_equal(torch.cat([batch.y for batch in parts]), train["label"][rows] - 1)
    everything = build("satellite", validation_size=24, train_on_validation=True)
    assert len(everything.train) == 240


@pytest.mark.parametrize("compress", [False, True])
def test_deepsea_is_one_hot_by_channel_in_the_files_splits(write, build, compress):
    written = write("deepsea") if compress else write("deepsea", more=np.zeros(1))
    task = build("deepsea")
    for part, samples in zip(("train", "val", "test"), splits(task), strict=True):
        order = np.arange(len(samples))[::-1]
        batch = samples.batch(order)
        assert np.array_equal(batch.x, written[f"x_{part}"].transpose(0, 2, 1)[order])
        assert np.array_equal(batch.y, written[f"y_{part}"][order])

    both = build("deepsea", train_on_validation=True)
    mixed = np.array([63, 2, 75, 60, 0, 59])
    everything = {
        name: np.concatenate([written[f"{name}_train"], written[f"{name}_val"]]) for name in "xy"
    }
    batch = both.train.batch(mixed)
    assert np.array_equal(batch.x, everything["x"].transpose(0, 2, 1)[mixed])
    assert np.array_equal(batch.y, everything["y"][mixed])


def test_deepsea_is_never_held_in_memory(write, build):
    x = np.zeros((17_000, 1000, 4), np.uint8)  # 68 MB
    x[:, :, 1] = 1
    write("deepsea", x_train=x, y_train=np.zeros((17_000, 36), np.uint8))
    del x
    build("deepsea")  # reads the file into the cache
    tracemalloc.start()
    task = build("deepsea")
    task.train.digest()
    task.train.batch(np.arange(0, 17_000, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_other_forms_are_refused(write, build):
    labels = {"data": np.random.default_rng(0).normal(size=(240, 46)), "label": np.arange(240) % 24}
    for task, change, message in (
        ("ninapro", {"label_val": np.arange(36) % 18 + 12}, "label at index 6 must be .* got 18"),
        (
            "satellite",
            {"satellite_train": labels},
            r"label at index 0 must be an integer in 1..24, got 0",
        ),
        ("deepsea", {"y_train": np.full((60, 36), 2)}, "contains values other than 0 and 1"),
    ):
        write(task, **change)
        with refused(message, DataError):
            build(task)
