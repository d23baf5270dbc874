"""Properties of every reader of published files, on the synthetic ones of tests.benchmark_files."""

import gzip
import pickle
import random
import shutil

import numpy as np
import pytest
import torch

from orca_cli.benchmarks import fsd50k, psicov
from orca_cli.exceptions import DataError, UnsafeError
from tests import benchmark_files
from tests.tasks.builders import Attack, build, every, refused, splits

SMALL = {
    "psicov": {"window": 64, "num_validation": 2},
    "spherical": {"validation_size": 10},
    "cifar100": {"validation_size": 10},
    "domainnet": {"validation_size": 10},
    "listops": {"origin": "files"},
    "darcy": {"origin": "files", "num_train": 16, "num_validation": 8, "num_test": 6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for task in benchmark_files.TASKS:
        benchmark_files.make(task, folder)
    return folder


@pytest.fixture
def read(folder, reporter):
    def call(task, data_folder=folder, **settings):
        return build(task, data_folder, reporter, **SMALL.get(task, {}) | settings)

    return call


def some(task):
    """Use a task as a run does."""
    task.train.digest()
    for samples in splits(task):
        samples.targets()
        samples.batch(np.arange(2), np.random.default_rng(0) if samples is task.train else None)


@pytest.mark.parametrize("name", benchmark_files.TASKS)
def test_no_reader_moves_the_global_generators(read, name):
    states = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()
    task = read(name)
    some(task)
    samples = task.validation
    together = every(samples)
    for index in (len(samples) - 1, 0):  # a sample does not depend on who else is asked for
        alone = samples.batch(np.array([index]))
        torch.testing.assert_close(alone.x[0], together.x[index], equal_nan=True)
        torch.testing.assert_close(alone.y[0], together.y[index], equal_nan=True)
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]


def test_classes_are_known_without_reading_the_items(read, monkeypatch):
    tasks = read("fsd50k"), read("psicov"), read("domainnet")
    for module, name in ((fsd50k, "read"), (psicov, "read_features")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("an item was read"))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("an image was opened"))
    assert [len(task.train.targets()) for task in tasks] == [12, 4, 70]


@pytest.mark.parametrize(("task", "digest"), [("cosmic", "9e05bcf2"), ("fsd50k", "53eae28d")])
def test_splits_keep_the_digests_of_unfinished_older_runs(task, digest, read):
    assert read(task).train.digest().startswith(digest)


@pytest.mark.parametrize("task", ["psicov", "spherical"])
def test_files_are_read_once_and_again_when_they_change(task, tmp_path, read, reporter):
    digests, generated = [], []
    for seed in (0, None, 1):
        if seed is not None:
            shutil.rmtree(tmp_path / task, ignore_errors=True)
            benchmark_files.make(task, tmp_path, seed)
        reporter.lines.clear()
        digests.append(read(task, tmp_path).train.digest())
        generated.append(any("generating" in line for line in reporter.lines))
    assert digests[0] == digests[1] != digests[2]
    assert generated == [True, False, True]


@pytest.mark.parametrize("task", benchmark_files.TASKS)
def test_missing_files_are_named_with_the_way_to_get_them(task, build, tmp_path):
    settings = {"origin": "files"} if task in ("listops", "darcy") else {}
    for _ in range(2):  # the second time a folder is in a file's place
        with refused(f"no file '.*orca data list {task}.*task.path=FOLDER", DataError) as caught:
            build(task, **settings)
        place = tmp_path / task / str(caught.value).split("'")[1]
        if place.suffix in ("", ".lmdb") or place.exists():
            break
        place.mkdir(parents=True)


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("spherical", "s2_cifar100.gz"),
        ("psicov", "protein/deepcov/features/de0A.pkl"),
        ("cosmic", "npy_train/f435w/10000/00/sky.npy"),
        ("ninapro", "ninapro_train.npy"),
        ("satellite", "satellite_train.npy"),
        ("deepsea", "deepsea_filtered.npz"),
    ],
)
def test_files_that_ask_for_code_are_refused_by_every_task(task, file, tmp_path, read):
    benchmark_files.make(task, tmp_path)
    canary, path = tmp_path / "canary", tmp_path / task / file
    if file.endswith(".npy"):
        content = np.empty(2, dtype=object)
        content[:] = [Attack(canary)] * 2
        np.save(path, content, allow_pickle=True)
    elif file.endswith(".npz"):
        np.savez(path, x_train=np.array([Attack(canary)], dtype=object))
    else:
        content = pickle.dumps(
            {"data": Attack(canary), "label": Attack(canary), "seq": Attack(canary)}
        )
        path.write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    with refused(None, UnsafeError):
        some(read(task, tmp_path, train_on_validation=True))
    assert not canary.exists()
