"""Arrays of .npy and .npz files: read and mapped as NumPy reads them; headers that lie are refused before anything is made."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from orca_cli.exceptions import DataError, InterruptionError, OrcaError, StorageError, UnsafeError
from orca_cli.untrusted.arrays import load_object, mapped, read_arrays

ARRAYS = {
    "x": np.arange(6.0).reshape(2, 3),
    "y": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "z": np.array(3),
    "text": np.array(["a", "bc"]),
    "none": np.empty((0, 4), "f4"),
    "large": np.random.default_rng(0).normal(size=(400, 1000)),
}


def npz_with(path, header: str, content: bytes = b"", name: str = "x") -> None:
    raw = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + content)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", DataError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", DataError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}", DataError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", DataError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4)}", DataError),
        ("{'descr': '|S0', 'fortran_order': False, 'shape': (1099511627776,)}", DataError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 40 + ")}", DataError),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", UnsafeError),
        ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", UnsafeError),
        ("__import__('os').system('true')", DataError),
        ("{'descr': '<f8'}", DataError),
        ("(" * 5000, DataError),
    ],
)
@pytest.mark.parametrize("how", ["read", "mapped"])
def test_hostile_headers_are_refused(tmp_path, header, kind, how, reporter):
    path = tmp_path / "a.npz"
    npz_with(path, header, b"12345678")
    with pytest.raises(kind, match=r"a\.npz"):
        read_arrays(path, ["x"]) if how == "read" else mapped(path, ["x"], tmp_path / "cache", reporter)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_and_mapped_as_numpy_reads_them(tmp_path, save, reporter):
    path, cache = tmp_path / "a.npz", tmp_path / "cache"
    save(path, **ARRAYS)
    for found in (read_arrays(path, ARRAYS), mapped(path, ARRAYS, cache, reporter)):
        assert list(found) == list(ARRAYS)
        for name, value in found.items():
            assert (value.dtype, value.flags.f_contiguous) == (ARRAYS[name].dtype, ARRAYS[name].flags.f_contiguous)
            np.testing.assert_array_equal(value, ARRAYS[name])
    assert isinstance(mapped(path, ["x"], cache, reporter)["x"], np.memmap)
    for read in (lambda: read_arrays(path, ["w"]), lambda: mapped(path, ["w"], cache, reporter)):
        with pytest.raises(DataError, match=r"no array 'w'; it holds: large, none, text, x, y, z"):
            read()


def test_only_the_arrays_that_are_asked_for_are_looked_at(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=ARRAYS["x"], evil=np.array([None]))
    np.testing.assert_array_equal(read_arrays(path, ["x"])["x"], ARRAYS["x"])
    with pytest.raises(UnsafeError, match=r"a\.npz\[evil\].*Python objects"):
        read_arrays(path, ["evil"])
    with pytest.raises(UnsafeError, match="declare 48 bytes, at most 40"):
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
    assert len(list(cache.rglob("array.npy"))) == 1  # the old copy is gone


def test_processes_at_once_unpack_once(tmp_path):
    path, cache = tmp_path / "a.npz", tmp_path / "cache"
    np.savez_compressed(path, **ARRAYS)
    code = (
        "import sys\nfrom pathlib import Path\nfrom orca_cli.untrusted.arrays import mapped\n"
        "from tests.untrusted.conftest import Quiet\nquiet = Quiet()\n"
        "found = mapped(Path(sys.argv[1]), ['large'], Path(sys.argv[2]), quiet)['large']\n"
        "print(float(found.sum()), sum('MiB' in line for line in quiet.lines))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, path, cache], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    words = [process.communicate()[0].split() for process in started]
    assert {word[0] for word in words} == {str(float(ARRAYS["large"].sum()))}
    assert sum(int(word[1]) for word in words) == 1


def test_a_failed_or_interrupted_unpacking_leaves_nothing(tmp_path, reporter, monkeypatch):
    path, cache = tmp_path / "a.npz", tmp_path / "cache"
    np.savez(path, **ARRAYS)
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["large"].tobytes()[:64])] ^= 1
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"b\.npz\[large\]: cannot be read: Bad CRC-32"):
        mapped(tmp_path / "b.npz", ["large"], cache, reporter)
    for name, value, error in (
        ("orca_cli.signals._pending", 15, InterruptionError),
        ("orca_cli.storage.disk._free_bytes", lambda folder: 9, StorageError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            with pytest.raises(error):
                mapped(path, ["large"], cache, reporter)
    assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert not list(cache.rglob(".tmp-*"))


def test_npy_files_are_mapped_where_they_lie(tmp_path, reporter):
    np.save(tmp_path / "x.npy", ARRAYS["y"])
    found = mapped(tmp_path / "x.npy", [""], tmp_path / "cache", reporter)[""]
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, ARRAYS["y"])
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="holds one array"):
        mapped(tmp_path / "x.npy", ["x"], tmp_path / "cache", reporter)


def test_objects_that_numpy_saved_come_back(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, {"data": np.eye(2), "label": [1, 2]}, allow_pickle=True)
    found = load_object(path)
    assert found["label"] == [1, 2]
    np.testing.assert_array_equal(found["data"], np.eye(2))
    triple = np.empty(3, object)
    triple[:] = [5, "ACDEF", np.eye(5)]
    np.save(path, triple, allow_pickle=True)
    length, sequence, distances = load_object(path)
    assert (length, sequence, distances.shape) == (5, "ACDEF", (5, 5))
    path.write_bytes(pickle.dumps((5, "ACDEF")))  # NumPy reads these too
    assert load_object(path) == (5, "ACDEF")
    np.save(path, np.arange(3))
    assert load_object(path).tolist() == [0, 1, 2]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_hostile_objects_run_nothing(tmp_path):
    path, canary = tmp_path / "x.npy", tmp_path / "canary"
    np.save(path, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeError, match=r"x\.npy: the pickle asks for (_?io)\.open"):
        load_object(path)
    path.write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(UnsafeError, match="asks for"):
        load_object(path)
    assert not canary.exists()
    header = b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (9,)}".ljust(63) + b"\n"
    path.write_bytes(header + pickle.dumps(np.array([None, 1], dtype=object)))
    with pytest.raises(DataError, match=r"does not hold the objects \(9,\)"):
        load_object(path)


def test_files_that_are_not_archives_are_named(tmp_path):
    for content, message in {
        b"<html>": "web page",
        b"PK\x03\x04": r"not a readable \.npz",
        b"abc": "not a readable",
    }.items():
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_arrays(tmp_path / "a.npz", ["x"])
    with pytest.raises(DataError, match="does not exist"):
        read_arrays(tmp_path / "b.npz", ["x"])


def test_every_flipped_or_cut_byte_ends_in_one_of_our_errors(tmp_path, reporter):
    good, path = tmp_path / "good.npz", tmp_path / "a.npz"
    np.savez_compressed(good, x=ARRAYS["x"], text=ARRAYS["text"])
    content, generator = good.read_bytes(), np.random.default_rng(0)
    for _ in range(80):
        damaged = bytearray(content)
        if generator.random() < 0.3:
            del damaged[generator.integers(len(damaged)) :]
        else:
            damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        for read in (lambda: read_arrays(path, ["x"]), lambda: mapped(path, ["x"], tmp_path / "cache", reporter)):
            try:
                found = read()
            except OrcaError as error:
                assert "\n" not in str(error)  # noqa: PT017 - any of our errors will do
            else:
                np.testing.assert_array_equal(found["x"], ARRAYS["x"])
