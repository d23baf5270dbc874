"""NinaPro, Satellite and DeepSEA: files in the original form, written here, against what is read."""

import shutil
import tracemalloc

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError
from tests.tasks.builders import every, refused, splits


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes the folder of a task and writes its files."""

    def make(name, **changes):
        (tmp_path / name).mkdir()
        return globals()[f"write_{name}"](tmp_path / name, np.random.default_rng(0), **changes)

    return make


def write_ninapro(folder, rng, **changes):
    """18 classes in training; electrode 3 is constant, and electrodes differ in level and gain."""
    written = {}
    for part, count in (("train", 36), ("val", 7), ("test", 9)):
        x = rng.normal(np.arange(16), 1 + np.arange(16), (count, 52, 16))
        x[:, :, 3] = 0.1
        written[f"ninapro_{part}"] = x.astype(np.float16)
        written[f"label_{part}"] = np.arange(count) % 18
    written |= changes
    for name, array in written.items():
        np.save(folder / f"{name}.npy", array)
    return written


def test_ninapro_is_electrodes_by_steps_with_the_files_own_splits(folder, build):
    written = folder("ninapro")
    task = build("ninapro", normalize="none")
    for part, samples in zip(("train", "val", "test"), splits(task), strict=True):
        batch = every(samples)
        assert np.array_equal(batch.x[:, 0].numpy(), written[f"ninapro_{part}"].astype(np.float32).transpose(0, 2, 1))
        assert np.array_equal(samples.targets(), written[f"label_{part}"])

    both = build("ninapro", normalize="none", train_on_validation=True)
    assert np.array_equal(both.train.targets(), [*written["label_train"], *written["label_val"]])


def test_ninapro_z_scores_every_electrode_by_the_training_windows_alone(folder, build):
    written = folder("ninapro")
    task = build("ninapro")
    x = every(task.train).x[:, 0].double()
    varying = [electrode for electrode in range(16) if electrode != 3]
    assert torch.allclose(x.mean((0, 2)), torch.zeros(16).double(), atol=1e-6)
    assert torch.allclose(x.std((0, 2), correction=0)[varying], torch.ones(15).double(), atol=1e-5)
    train, test = (written[f"ninapro_{part}"].astype(float) for part in ("train", "test"))
    expected = (test[:, :, 5] - train[:, :, 5].mean()) / train[:, :, 5].std()
    assert np.allclose(every(task.open_test()).x[:, 0, 5], expected, atol=1e-5)
    assert every(task.open_test()).x[:, 0, 3].abs().max() < 1e-3


def write_satellite(folder, rng, labels=None, **changes):
    """Labels 1..24 as in the original; series 0 is constant, series 1 is zero."""
    written = {}
    for part, count in (("train", 240), ("test", 48)):
        data = rng.normal(2000, 300, (count, 46))
        data[0], data[1] = 1234.567, 0
        written[part] = {"data": data, "label": np.arange(count) % 24 + 1 if labels is None else labels[:count]}
        np.save(folder / f"satellite_{part}.npy", written[part] | changes, allow_pickle=True)
    return written


def test_satellite_series_are_z_scored_one_by_one_and_validation_is_cut_once(folder, build):
    written = folder("satellite")
    task = build("satellite", validation_size=24)
    assert list(map(len, splits(task))) == [216, 24, 48]
    test = every(task.open_test())
    assert np.array_equal(test.y, written["test"]["label"] - 1)
    values = written["test"]["data"][2:]
    expected = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    assert np.allclose(test.x[2:, 0], expected, atol=1e-5)
    assert test.x[:2].abs().max() < 1e-5
    assert np.bincount(task.validation.targets()).tolist() == [1] * 24

    raw = build("satellite", validation_size=24, normalize="none")
    parts = [every(samples) for samples in (raw.train, raw.validation)]
    whole = written["train"]["data"].astype(np.float32)
    rows = [np.flatnonzero((series == whole).all(1))[0] for batch in parts for series in batch.x[:, 0].numpy()]
    assert sorted(rows) == list(range(240))  # disjoint, and nothing lost
    assert np.array_equal(torch.cat([batch.y for batch in parts]), written["train"]["label"][rows] - 1)
    everything = build("satellite", validation_size=24, train_on_validation=True)
    assert len(everything.train) == 240


def write_deepsea(folder, rng, length=50, compress=False, **changes):
    """Label 2 has no positive in training; the first bases of sequence 0 are unknown."""
    written = {}
    for part, count in (("train", 30), ("val", 6), ("test", 12)):
        bases = rng.integers(0, 4, (count, length))
        x = np.eye(4)[bases]
        x[0, :5] = 0
        y = rng.integers(0, 2, (count, 7))
        y[:, 2] = part != "train"
        written |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    written |= changes
    (np.savez_compressed if compress else np.savez)(folder / "deepsea_filtered.npz", **written)
    return written


@pytest.mark.parametrize("compress", [False, True])
def test_deepsea_is_one_hot_by_channel_with_the_files_own_splits(folder, build, compress):
    written = folder("deepsea", compress=compress)
    task = build("deepsea")
    for part, samples in zip(("train", "val", "test"), splits(task), strict=True):
        order = np.arange(len(samples))[::-1]
        batch = samples.batch(order)
        assert np.array_equal(batch.x, written[f"x_{part}"].transpose(0, 2, 1)[order])
        assert np.array_equal(batch.y, written[f"y_{part}"][order])

    both = build("deepsea", train_on_validation=True)
    mixed = np.array([33, 2, 35, 30, 0, 29])
    everything = {name: np.concatenate([written[f"{name}_train"], written[f"{name}_val"]]) for name in "xy"}
    batch = both.train.batch(mixed)
    assert np.array_equal(batch.x, everything["x"].transpose(0, 2, 1)[mixed])
    assert np.array_equal(batch.y, everything["y"][mixed])


def test_deepsea_is_never_held_in_memory(folder, build):
    x = np.zeros((17_000, 1000, 4), np.uint8)  # 68 MB
    x[:, :, 1] = 1
    folder("deepsea", length=1000, x_train=x, y_train=np.zeros((17_000, 7), np.uint8))
    del x
    tracemalloc.start()
    task = build("deepsea")
    task.train.digest()
    task.train.batch(np.arange(0, 17_000, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_other_forms_are_refused(folder, build, tmp_path):
    for task, change, message in (
        ("ninapro", {"label_val": np.arange(7) + 12}, "label 18 at index 6"),
        ("ninapro", {"ninapro_train": np.zeros((36, 16, 52))}, r"expected numbers \(N, 52, 16\)"),
        ("satellite", {"labels": np.arange(240) % 24}, r"label 0 at index 0 is not an integer in 1..24"),
        ("deepsea", {"x_train": np.full((30, 50, 4), 2)}, "a row that is neither one-hot nor zero, in sequences 0"),
    ):
        folder(task, **change)
        with refused(message, DataError):
            build(task)
        shutil.rmtree(tmp_path / task)
