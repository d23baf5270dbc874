"""What was read of a large memory map does not stay in the process."""

import resource
from pathlib import Path

import numpy as np
import pytest

from orca_cli.tasks.shared.blocks import blocks
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.untrusted import memory

MIB = 2**20
SIZE = 64 * MIB

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="pages are counted by Linux's /proc")


def mapped_mib():
    """Resident pages of files, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize() / MIB


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(SIZE // 8).reshape(-1, 2, 512))
    return path


@pytest.mark.parametrize("large", [True, False])
def test_reading_all_of_a_large_map_leaves_none_of_it(large, file, monkeypatch):
    monkeypatch.setattr(memory, "_LARGE", SIZE if large else 2 * SIZE)
    x = np.load(file, mmap_mode="r")
    samples = ArraySamples(x.transpose(0, 2, 1), np.zeros(len(x)))  # a view of the map, as readers have
    before = mapped_mib()
    for start in range(0, len(x), 64):
        samples.batch(np.arange(start, start + 64))
    samples.digest()
    for _ in blocks(x, np.arange(len(x))):
        pass
    grown = mapped_mib() - before
    assert grown < 8 if large else grown > 50  # else the bound above would prove nothing
    np.testing.assert_array_equal(x, np.load(file))


def test_other_arrays_are_left_alone(file, monkeypatch):
    monkeypatch.setattr(memory, "_LARGE", 0)
    for array in (np.arange(5), np.arange(6).reshape(2, 3)[:, 1:], np.load(file, mmap_mode="c")):
        kept = array.copy()
        if isinstance(array, np.memmap):  # private changes would be lost with their pages
            array[0] = kept[0] = -1
        memory.release_pages(array)
        np.testing.assert_array_equal(array, kept)
