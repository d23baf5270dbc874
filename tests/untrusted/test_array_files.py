"""Arrays of .npy and .npz files, the memory of their maps, and LMDB.

Hostile files are in tests/reliability.
"""

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the .npz file of `ARRAYS`."""
    path = tmp_path_factory.mktemp("saved") / "a.npz"
    np.savez_compressed(path, **ARRAYS)
    return path


def test_arrays_keep_names_and_order(saved):
    assert list(open_arrays(saved, "x")) == list(ARRAYS)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_as_numpy_reads_them(name, saved):
    array = open_arrays(saved, "x")[name].read()
    expected = ARRAYS[name]
    assert array.dtype == expected.dtype
    assert array.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("value", [{"label": [1, 2]}, np.arange(3)])
def test_objects_that_numpy_saved_come_back(value, tmp_path):
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    np.testing.assert_equal(unpickle(tmp_path / "x.npy"), value)


def test_an_array_of_objects_comes_back(tmp_path):
    triple = np.empty(3, object)
    triple[:] = [5, "ACDEF", np.eye(5)]
    np.save(tmp_path / "x.npy", triple, allow_pickle=True)
    length, sequence, distances = unpickle(tmp_path / "x.npy")
    assert (length, sequence, distances.tolist()) == (5, "ACDEF", np.eye(5).tolist())


def test_fewer_objects_than_declared_are_refused(tmp_path):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (9,)}".ljust(63) + b"\n"
    content = pickle.dumps(np.array([None, 1], dtype=object))
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x40\x00" + header + content)
    with refused(r"does not contain the object array of shape \(9,\)", DataError):
        unpickle(tmp_path / "x.npy")


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
    # A view of the map, as readers have.
    samples = ArraySamples(x.transpose(0, 2, 1), np.zeros(len(x)))
    before = mapped_mib()
    for start in range(0, len(x), 64):
        samples.batch(np.arange(start, start + 64).clip(max=len(x) - 1))
    samples.digest()
    for _ in blocks(x, np.arange(len(x))):
        pass
    grown = mapped_mib() - before
    if mib > 256:
        assert grown < 8
    else:  # the premise
        assert grown > 50
    assert x[3].min() == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: np.arange(6).reshape(2, 3)[:, 1:],
        lambda folder: np.load(file(folder, 257), mmap_mode="c"),
    ],
    ids=["in memory", "a private map"],
)
def test_pages_of_other_arrays_are_left_alone(make, tmp_path):
    array = make(tmp_path)
    # Private changes of a map would be lost with their pages.
    array[0] = -1
    memory.release_pages(array)
    assert (array[0] == -1).all()


VALUES = {str(number): bytes([number % 256]) * (number % 60) for number in range(3000)}
VALUES |= {letter: letter.encode() * 2**20 for letter in "abcdefghijkl"}
VALUES["large"] = bytes(20_000)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Return the folder of an LMDB database of `VALUES`; nothing in it may change."""
    library = pytest.importorskip("lmdb")
    folder = tmp_path_factory.mktemp("database")
    with (
        library.open(str(folder), map_size=2**26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in VALUES.items():
            transaction.put(key.encode(), value)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    yield folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", [".", "data.mdb"])
def test_values_of_lmdb_come_back(name, database):
    values = tape.values(database / name, VALUES)
    assert dict(zip(VALUES, values, strict=True)) == VALUES


def test_keys_that_lmdb_lacks_give_none(database):
    values = tape.values(database, ["nothing", "~", "0000", "5", "9999999"])
    assert list(values) == [None, None, None, b"\5" * 5, None]


def test_large_values_of_lmdb_are_refused(database):
    with refused(r"data\.mdb: has a value of 20,000 bytes", UnsafeError):
        list(tape.values(database, ["large"], max_value=10_000))
