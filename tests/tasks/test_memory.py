"""Large tasks are read in parts: what a reader holds does not grow with its files."""

import os
import tracemalloc

import numpy as np

from orca_cli.benchmarks.psicov import reader as psicov
from tests import benchmark_files
from tests.tasks.builders import build

COPIES = 40


def peak_mb(use):
    """Return the most that Python and NumPy held while a function ran, in MB."""
    tracemalloc.start()
    use()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def epoch(task, size):
    """Use a task as an epoch of training does."""
    task.train.digest()
    order = np.random.default_rng(0).permutation(len(task.train))
    for start in range(0, len(order), size):
        task.train.batch(order[start : start + size], np.random.default_rng(start))
    assert len(task.train.targets()) == len(task.train)


def link(path, name):
    copy = path.with_name(name)
    os.link(path, copy)
    return copy


def test_psicov(tmp_path, reporter):
    """A protein takes 15 MB in a window of 256, so that all would take 600 MB."""
    benchmark_files.make("psicov", tmp_path)
    root = tmp_path / "psicov" / "protein"
    names = [f"copy{number}" for number in range(COPIES)]
    for name in names:
        link(root / "deepcov" / "features" / "de2A.pkl", f"{name}.pkl")
        link(root / "deepcov" / "distance" / "de2A-cb.npy", f"{name}-cb.npy")
    (root / "deepcov.lst").write_text("\n".join(names))

    def use():
        epoch(psicov.load(tmp_path, tmp_path / "cache", reporter, window=256, num_validation=2), 1)

    assert peak_mb(use) < 60


def test_satellite_holds_its_file_once(tmp_path, reporter):
    """The series take 148 MB in the file and 74 MB in the cache."""
    place = tmp_path / "satellite"
    place.mkdir()
    n = 400_000
    data = np.tile(np.random.default_rng(0).random((1000, 46)), (n // 1000, 1))
    for part in ("train", "test"):
        np.save(place / f"satellite_{part}.npy", {"data": data, "label": 1 + np.arange(n) % 24}, allow_pickle=True)

    def use():
        epoch(build("satellite", tmp_path, reporter), 5000)

    assert peak_mb(use) < 400
    assert peak_mb(use) < 60  # from the cache, in parts of 17 MB; most of the rest are the classes
