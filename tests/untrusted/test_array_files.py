"""Arrays of .npy and .npz files, what stays of their maps in memory, and LMDB; hostile files are in tests/reliability."""

import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from orca_cli.data.blocks import blocks
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import memory, tape
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks.builders import refused

ARRAYS = {
    "x": np.arange(6.0).reshape(2, 3),
    "y": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "z": np.array(3),
    "text": np.array(["a", "bc"]),
    "none": np.empty((0, 4), "f4"),
    "large": np.random.default_rng(0).normal(size=(400, 1000)),
}


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **ARRAYS)
    loaded = {name: array.read() for name, array in open_arrays(path, "x").items()}
    assert list(loaded) == list(ARRAYS)
    for name, value in loaded.items():
        assert (value.dtype, value.flags.f_contiguous) == (
            ARRAYS[name].dtype,
            ARRAYS[name].flags.f_contiguous,
        )
        np.testing.assert_array_equal(value, ARRAYS[name])


def test_objects_that_numpy_saved_come_back_as_many_as_declared(tmp_path):
    path, triple = tmp_path / "x.npy", np.empty(3, object)
    triple[:] = [5, "ACDEF", np.eye(5)]
    for saved in ({"label": [1, 2]}, np.arange(3)):
        np.save(path, saved, allow_pickle=True)
        np.testing.assert_equal(unpickle(path), saved)
    np.save(path, triple, allow_pickle=True)
    length, sequence, distances = unpickle(path)
    assert (length, sequence, distances.tolist()) == (5, "ACDEF", np.eye(5).tolist())
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (9,)}".ljust(63) + b"\n"
    content = pickle.dumps(np.array([None, 1], dtype=object))
    path.write_bytes(b"\x93NUMPY\x01\x00\x40\x00" + header + content)
    with refused(r"does not hold the objects \(9,\)", DataError):
        unpickle(path)


def mapped_mib():
    """Resident pages of files, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize() / 2**20


def file(tmp_path, mib):
    """Make a file of zeros, with a hole in place of most of them."""
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.int64, (mib * 128, 2, 512))[3] = 5
    return tmp_path / "x.npy"


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted by Linux's /proc")
@pytest.mark.parametrize("mib", [257, 64])
def test_reading_all_of_a_large_map_leaves_none_of_it(mib, tmp_path):
    x = np.load(file(tmp_path, mib), mmap_mode="r")
    samples = ArraySamples(
        x.transpose(0, 2, 1), np.zeros(len(x))
    )  # a view of the map, as readers have
    before = mapped_mib()
    for start in range(0, len(x), 64):
        samples.batch(np.arange(start, start + 64).clip(max=len(x) - 1))
    samples.digest()
    for _ in blocks(x, np.arange(len(x))):
        pass
    grown = mapped_mib() - before
    assert grown < 8 if mib > 256 else grown > 50  # else the bound above would prove nothing
    assert x[3].min() == 5


def test_pages_of_other_arrays_are_left_alone(tmp_path):
    for array in (np.arange(6).reshape(2, 3)[:, 1:], np.load(file(tmp_path, 257), mmap_mode="c")):
        array[0] = -1  # private changes of a map would be lost with their pages
        memory.release_pages(array)
        assert (array[0] == -1).all()


def test_values_of_lmdb_come_back_and_nothing_is_written(tmp_path):
    expected = {str(number): bytes([number % 256]) * (number % 60) for number in range(3000)}
    expected |= {"large": bytes(20_000)} | {
        letter: letter.encode() * 2**20 for letter in "abcdefghijkl"
    }
    library = pytest.importorskip("lmdb")
    with (
        library.open(str(tmp_path), map_size=2**26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in expected.items():
            transaction.put(key.encode(), value)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for path in (tmp_path, tmp_path / "data.mdb"):
        assert dict(zip(expected, tape.values(path, expected), strict=True)) == expected
        assert list(tape.values(path, ["nothing", "~", "0000", "5", "9999999"])) == [
            None,
            None,
            None,
            b"\5" * 5,
            None,
        ]
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    with refused(r"data\.mdb: a value has 20,000 bytes", UnsafeError):
        list(tape.values(tmp_path, ["large"], max_value=10_000))
