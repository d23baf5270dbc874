"""MATLAB files are read as they were written; unsupported ones are refused in one line."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from orca_cli.data.untrusted import matlab
from orca_cli.exceptions import DataError
from tests.tasks.builders import refused


def cells(*arrays, shape=(1, -1)):
    cell = np.empty(len(arrays), object)
    cell[:] = arrays
    return cell.reshape(shape)


RNG = np.random.default_rng(0)
VALUES = {
    "maps": RNG.normal(size=(3, 4, 5)),
    "large": RNG.normal(size=(300, 500)).astype(np.float32),
    "small": np.arange(6, dtype=np.int16).reshape(2, 3),
    "logical": np.array([[True, False]]),
    "none": np.zeros((0, 3)),
    "songs": cells(np.eye(2, dtype="u1"), np.arange(5.0)[None], np.zeros((0, 0))),
    "nested": cells(cells(np.ones((1, 1)), np.ones((2, 1))), np.ones((1, 2)), shape=(2, 1)),
}
VALUES |= {"text": np.array(["hello"]), "rows": np.array(["ab ", "cdé"])}


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    if expected.dtype == object:
        for actual_cell, expected_cell in zip(actual.ravel(), expected.ravel(), strict=True):
            assert_same(actual_cell, expected_cell)
    else:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.fixture
def saved(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", VALUES, do_compression=True)
    return tmp_path / "a.mat"


@pytest.mark.parametrize("name", VALUES)
def test_arrays_come_back_as_they_were_saved(name, saved):
    arrays = matlab.read(saved, [name])
    assert list(arrays) == [name]
    assert_same(arrays[name], VALUES[name])


def test_arrays_come_back_in_the_requested_order(saved):
    names = list(reversed(VALUES))
    assert list(matlab.read(saved, names)) == names


def test_another_version_is_refused(saved):
    with open(saved, "r+b") as file:
        file.seek(124)
        # As files of version 7.3 have it.
        file.write(b"\x00\x02")
    with refused("is not a valid MATLAB 5 file; provide a MATLAB 5 file", DataError):
        matlab.read(saved, ["songs"])


def element(kind, content, order="<"):
    return struct.pack(f"{order}II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def variable(name, shape, content, kind=6, order="<"):
    head = element(6, struct.pack(f"{order}II", kind, 0), order)
    head += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order) + element(
        1, name.encode(), order
    )
    return element(14, head + content, order)


def mat5(path, *variables, order="<"):
    mark = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + mark + b"".join(variables))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_double_is_read_in_both_orders_of_bytes(order, tmp_path):
    stored = element(3, np.array([1, -2, 3], f"{order}i2").tobytes(), order)
    path = mat5(tmp_path / "a.mat", variable("x", (1, 3), stored, order=order), order=order)
    assert_same(matlab.read(path, ["x"])["x"], np.array([[1.0, -2.0, 3.0]]))


def test_short_elements_are_read(tmp_path):
    """As MATLAB itself writes them."""
    head = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<2i", 1, 1))
    name = b"\x01\x00\x01\x00x\0\0\0"
    content = b"\x02\x00\x01\x00\x07\0\0\0"
    path = mat5(tmp_path / "a.mat", element(14, head + name + content))
    assert matlab.read(path, ["x"])["x"].tolist() == [[7.0]]


def deflated(content):
    packed = zlib.compress(content)
    return struct.pack("<II", 15, len(packed)) + packed


NOT_PLAIN = {
    r"'{name}(\{{\.\.\.\}})*' is a struct": {"a": 1},
    r"'{name}(\{{\.\.\.\}})*' is a csc_": scipy.sparse.csc_array(np.eye(2)),
    "complex": np.array([[1 + 2j]]),
}


@pytest.mark.parametrize("message", NOT_PLAIN)
@pytest.mark.parametrize("name", ["x", "y"])
def test_other_kinds_are_refused_also_in_cells(name, message, tmp_path):
    path = tmp_path / "a.mat"
    inner = NOT_PLAIN[message]
    scipy.io.savemat(path, {"x": inner, "y": cells(np.eye(2), cells(inner, np.eye(2)))})
    with refused(rf"a\.mat: .*{message.format(name=name)}", DataError):
        matlab.read(path, [name])
