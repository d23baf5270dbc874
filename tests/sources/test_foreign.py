"""Other people's files: real forms are read, hostile ones are refused before anything runs."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_cli.exceptions import DataError, OrcaError, UnsafeError
from orca_cli.foreign import unpickle
from orca_cli.foreign.npz import read_npz
from orca_cli.sources import cifar10


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's str, as the files of CIFAR-10 have them."""

    dispatch = pickle._Pickler.dispatch | {
        bytes: lambda self, b: (self.write(b"T" + struct.pack("<i", len(b)) + b), self.memoize(b)),
        str: lambda self, s: (self.write(b"U" + bytes([len(s)]) + s.encode("latin1")), self.memoize(s)),
    }


def python2_bytes(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def batch(i: int, n: int = 40) -> dict:
    rng = np.random.default_rng(i)
    return {
        "batch_label": f"training batch {i} of 5",
        "labels": [j % 10 for j in range(n)],
        "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        "filenames": [f"image_{j}.png" for j in range(n)],
    }


def write_batches(folder, dump):
    folder = folder / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(dump(batch(i)))
    return folder


@pytest.mark.parametrize("dump", [python2_bytes, pickle.dumps], ids=["python2", "python3"])
def test_torchvision_files_are_read(tmp_path, dump):
    write_batches(tmp_path, dump)
    data = cifar10.load(None, 0, tmp_path)
    expected = np.concatenate([batch(i)["data"].reshape(-1, 3, 32, 32) for i in range(1, 6)])
    np.testing.assert_array_equal(np.round(data.inputs * 255), expected)
    assert data.labels.tolist() == [j % 10 for j in range(40)] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"labels": b["labels"]}, "no 'data'"),
        (lambda b: b | {"data": b["data"][:, :100]}, r"shape \(40, 100\)"),
        (lambda b: b | {"labels": b["labels"][:-1]}, r"integers \(40,\)"),
        (lambda b: b | {"labels": [[0], [1, 2]]}, r"integers \(40,\)"),
        (lambda b: [b], "not a batch"),
    ],
)
def test_wrong_batches_are_named(tmp_path, change, message):
    folder = write_batches(tmp_path, pickle.dumps)
    (folder / "data_batch_3").write_bytes(pickle.dumps(change(batch(3))))
    with pytest.raises(DataError, match=message) as caught:
        cifar10.load(None, 0, tmp_path)
    assert "data_batch_3" in str(caught.value)


class Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(canary: str) -> dict[str, bytes]:
    command = f"touch {canary}"
    found = {
        f"{function.__name__}-{protocol}": pickle.dumps(Call(function, argument), protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        for function, argument in ((os.system, command), (eval, f"open({canary!r}, 'w')"))
    }
    shadow = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x13_core.os.system_ext\x93."
    return found | {
        "inside-a-batch": pickle.dumps(batch(1) | {"extra": Call(os.system, command)}),
        "text": shadow,
        "dotted": dotted,
        "load": pickle.dumps(Call(np.load, "x")),
        "inst": f"(S'{command}'\niposix\nsystem\n.".encode(),
        "obj": f"(cposix\nsystem\nS'{command}'\no.".encode(),
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pname\n.",
        "ordered": pickle.dumps(collections.OrderedDict(a=1)),
        "set": pickle.dumps({1, 2}, protocol=4),
    }


NAMES = list(payloads(""))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_pickles_run_nothing(tmp_path, name):
    canary = tmp_path / "canary"
    path = tmp_path / "data.pkl"
    path.write_bytes(payloads(str(canary))[name])
    with pytest.raises(UnsafeError) as caught:
        unpickle.load(path)
    assert not canary.exists()
    assert "data.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_payload_would_have_fired(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(payloads(str(canary))["system-4"])
    assert canary.exists()


def test_an_unsafe_batch_ends_the_source(tmp_path):
    folder = write_batches(tmp_path, pickle.dumps)
    (folder / "data_batch_2").write_bytes(payloads("x")["system-4"])
    with pytest.raises(UnsafeError, match=r"data_batch_2.*posix\.system|data_batch_2.*nt\.system"):
        cifar10.load(None, 0, tmp_path)


def test_large_pickles_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(batch(1)))
    with pytest.raises(UnsafeError, match="more than 100 bytes"):
        unpickle.load(path, max_bytes=100)
    monkeypatch.setattr(unpickle, "_MAX_OPCODES", 20)
    with pytest.raises(UnsafeError, match="too many instructions"):
        unpickle.load(path)


def nested_tuples(depth: int, between: bytes = b"") -> bytes:
    body = b"".join(b"\x86" + between + b"q" + bytes([i]) + b"h" + bytes([i]) for i in range(depth))
    return b"\x80\x04}K\x00K\x00" + body + b"\x86K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\x00\x00\x00\x01.",  # a memo of 2**24 entries
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",  # a string of 2**40 bytes
        nested_tuples(60),  # its hash takes 2**60 steps
        nested_tuples(60, b"\x95" + bytes(8)),
        nested_tuples(60, b"Nb"),
        nested_tuples(60, b"(u"),
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x06"
        + b"\x00" * 5
        + b"\x40\x85C\x01b\x87R.",
        b"\x80\x02N",
        b"",
        b"<html>not found</html>",
    ],
    ids=["memo", "string", "tuples", "tuples-framed", "tuples-built", "tuples-filled", "array", "cut", "empty", "html"],
)
def test_bombs_and_rubbish_are_refused_cheaply(tmp_path, content):
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises((UnsafeError, DataError)):
            unpickle.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pickles_give_an_error_of_ours_or_a_value(tmp_path_factory, data):
    content = bytearray(pickle.dumps(batch(1, n=2)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 120) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "data.pkl"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with suppress(OrcaError):  # anything else escapes and fails the test
        unpickle.load(path)


def npz_with(path, header: str, content: bytes = b"") -> None:
    raw = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + content)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", UnsafeError),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", UnsafeError),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", UnsafeError),
        ("__import__('os').system('true')", DataError),
        ("{'descr': '<f8'}", DataError),
    ],
)
def test_hostile_npz_headers_are_refused(tmp_path, header, kind):
    path = tmp_path / "a.npz"
    npz_with(path, header, b"12345678")
    with pytest.raises(kind, match=r"a\.npz"):
        read_npz(path, ["x"])


def test_npz_arrays_are_read_as_numpy_reads_them(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(6.0).reshape(2, 3), "y": np.asfortranarray(np.arange(6).reshape(2, 3)), "z": np.array(3)}
    np.savez_compressed(path, **arrays)
    for name, value in read_npz(path, arrays).items():
        np.testing.assert_array_equal(value, arrays[name])
    with pytest.raises(DataError, match=r"no array 'w'; it holds: x, y, z"):
        read_npz(path, ["w"])


def test_files_that_are_no_archive_are_told(tmp_path):
    (tmp_path / "a.npz").write_text("<html>")
    with pytest.raises(DataError, match="not a readable .npz"):
        read_npz(tmp_path / "a.npz", ["x"])
    with pytest.raises(DataError, match="does not exist"):
        read_npz(tmp_path / "b.npz", ["x"])
