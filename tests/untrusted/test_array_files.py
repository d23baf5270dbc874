"""Arrays of .npy and .npz files: read and mapped as NumPy reads them; headers that lie are refused before anything is made."""

import os
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from orca_cli.data.untrusted.arrays import load_object, mapped, read_arrays
from orca_cli.exceptions import DataError, InterruptionError, StorageError, UnsafeError
from tests.tasks.builders import refused
from tests.untrusted.conftest import pending_signal

ARRAYS = {
    "x": np.arange(6.0).reshape(2, 3),
    "y": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "z": np.array(3),
    "text": np.array(["a", "bc"]),
    "none": np.empty((0, 4), "f4"),
    "large": np.random.default_rng(0).normal(size=(400, 1000)),
}


def test_arrays_are_read_and_mapped_as_numpy_reads_them(tmp_path, reporter):
    path, cache = tmp_path / "a.npz", tmp_path / "cache"
    np.savez_compressed(path, **ARRAYS)
    for loaded in (read_arrays(path, ARRAYS), mapped(path, ARRAYS, cache, reporter)):
        assert list(loaded) == list(ARRAYS)
        for name, value in loaded.items():
            assert (value.dtype, value.flags.f_contiguous) == (ARRAYS[name].dtype, ARRAYS[name].flags.f_contiguous)
            np.testing.assert_array_equal(value, ARRAYS[name])
    assert isinstance(mapped(path, ["x"], cache, reporter)["x"], np.memmap)


def test_only_the_arrays_that_are_asked_for_are_looked_at(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=ARRAYS["x"], evil=np.array([None]))
    assert list(read_arrays(path, ["x"])) == ["x"]
    with refused(r"a\.npz\[evil\].*Python objects", UnsafeError):
        read_arrays(path, ["evil"])
    with refused("declare 48 bytes, at most 40", UnsafeError):
        read_arrays(path, ["x"], max_bytes=40)


def test_a_member_is_unpacked_once_and_again_when_the_file_changes(tmp_path, reporter):
    path, cache = tmp_path / "a.npz", tmp_path / "cache"
    np.savez_compressed(path, **ARRAYS)
    mapped(path, ["large"], cache, reporter)
    copies = list(cache.rglob("array.npy"))
    assert len(reporter.lines) == len(copies) == 1
    mapped(path, ["large"], cache, reporter)
    assert len(reporter.lines) == 1
    os.truncate(copies[0], 1000)
    np.testing.assert_array_equal(mapped(path, ["large"], cache, reporter)["large"], ARRAYS["large"])
    assert sum("unpacking" in line for line in reporter.lines) == 2
    np.savez_compressed(path, large=ARRAYS["large"] + 1)
    np.testing.assert_array_equal(mapped(path, ["large"], cache, reporter)["large"], ARRAYS["large"] + 1)


@pytest.mark.parametrize("fault", ["damage", "signal", "full disk"])
def test_a_failed_or_interrupted_unpacking_leaves_nothing(fault, tmp_path, reporter, monkeypatch):
    path, cache, interruption = tmp_path / "a.npz", tmp_path / "cache", nullcontext()
    np.savez(path, **ARRAYS)
    if fault == "damage":
        content = bytearray(path.read_bytes())
        content[content.index(ARRAYS["large"].tobytes()[:64])] ^= 1
        path.write_bytes(content)
        error, message = DataError, r"a\.npz\[large\]: cannot be read: Bad CRC-32"
    elif fault == "signal":
        interruption, error, message = pending_signal(), InterruptionError, None
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=9))
        error, message = StorageError, "no space left"
    with interruption, refused(message, error):
        mapped(path, ["large"], cache, reporter)
    assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert not list(cache.rglob(".tmp-*"))


def test_objects_that_numpy_saved_come_back(tmp_path):
    path, triple = tmp_path / "x.npy", np.empty(3, object)
    triple[:] = [5, "ACDEF", np.eye(5)]
    for saved in ({"label": [1, 2]}, np.arange(3)):
        np.save(path, saved, allow_pickle=True)
        np.testing.assert_equal(load_object(path), saved)
    np.save(path, triple, allow_pickle=True)
    length, sequence, distances = load_object(path)
    assert (length, sequence, distances.tolist()) == (5, "ACDEF", np.eye(5).tolist())


def test_another_number_of_objects_than_declared_is_refused(tmp_path):
    """Hostile objects are in tests/reliability/test_hostile_files.py."""
    path, header = tmp_path / "x.npy", b"{'descr': '|O', 'fortran_order': False, 'shape': (9,)}".ljust(63) + b"\n"
    content = pickle.dumps(np.array([None, 1], dtype=object))
    path.write_bytes(b"\x93NUMPY\x01\x00\x40\x00" + header + content)
    with refused(r"does not hold the objects \(9,\)", DataError):
        load_object(path)
