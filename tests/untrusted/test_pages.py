"""What was read of a large memory map does not stay in the process."""

import resource
from pathlib import Path

import numpy as np
import pytest

from orca_cli.data.blocks import blocks
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import memory

MIB = 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="pages are counted by Linux's /proc")


def mapped_mib():
    """Resident pages of files, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize() / MIB


@pytest.fixture
def file(tmp_path):
    """Return a function that makes a file of zeros, with a hole in place of most of them."""

    def make(mib):
        np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.int64, (mib * MIB // 8192, 2, 512))[3] = 5
        return tmp_path / "x.npy"

    return make


@pytest.mark.parametrize("mib", [257, 64])
def test_reading_all_of_a_large_map_leaves_none_of_it(mib, file):
    x = np.load(file(mib), mmap_mode="r")
    samples = ArraySamples(x.transpose(0, 2, 1), np.zeros(len(x)))  # a view of the map, as readers have
    before = mapped_mib()
    for start in range(0, len(x), 64):
        samples.batch(np.arange(start, start + 64).clip(max=len(x) - 1))
    samples.digest()
    for _ in blocks(x, np.arange(len(x))):
        pass
    grown = mapped_mib() - before
    assert grown < 8 if mib > 256 else grown > 50  # else the bound above would prove nothing
    assert x[3].min() == 5


def test_other_arrays_are_left_alone(file):
    for array in (np.arange(6).reshape(2, 3)[:, 1:], np.load(file(257), mmap_mode="c")):
        array[0] = -1  # private changes of a map would be lost with their pages
        memory.release_pages(array)
        assert (array[0] == -1).all()
