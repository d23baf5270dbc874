"""MATLAB files are read as they were written; damaged or hostile files end in one line, and this process lives on."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from orca_cli.data.untrusted import matlab
from orca_cli.exceptions import DataError
from tests.tasks.builders import refused


def cells(*items, shape=(1, -1)):
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


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
TEXTS = {"text": np.array(["hello"]), "rows": np.array(["ab ", "cdé"])}


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    if expected.dtype == object:
        for one, other in zip(actual.ravel(), expected.ravel(), strict=True):
            assert_same(one, other)
    else:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_arrays_come_back_as_they_were_saved(tmp_path):
    path, values = tmp_path / "a.mat", VALUES | TEXTS
    scipy.io.savemat(path, values, do_compression=True)
    arrays = matlab.read(path, values)
    assert list(arrays) == list(values)
    for name, value in values.items():
        assert_same(arrays[name], value)
    assert list(matlab.read(path, ["songs"])) == ["songs"]
    with open(path, "r+b") as file:
        file.seek(124)
        file.write(b"\x00\x02")  # as 7.3 has it
    with refused("of another version; a MATLAB 5 file is needed", DataError):
        matlab.read(path, ["songs"])


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
def test_both_orders_of_bytes_and_smaller_types_are_read(order, tmp_path):
    stored = element(3, np.array([1, -2, 3], f"{order}i2").tobytes(), order)
    path = mat5(tmp_path / "a.mat", variable("x", (1, 3), stored, order=order), order=order)
    assert_same(matlab.read(path, ["x"])["x"], np.array([[1.0, -2.0, 3.0]]))  # a double is a double
    body = (
        element(6, struct.pack("<II", 6, 0))
        + element(5, struct.pack("<2i", 1, 1))
        + b"\x01\x00\x01\x00x\0\0\0"
    )
    mat5(
        path, element(14, body + b"\x02\x00\x01\x00\x07\0\0\0")
    )  # short elements, as real tools write
    assert matlab.read(path, ["x"])["x"].tolist() == [[7.0]]


def deflated(content):
    packed = zlib.compress(content)
    return struct.pack("<II", 15, len(packed)) + packed


NOT_PLAIN = {
    r"'{name}(\{{\.\.\.\}})*' is a struct": {"a": 1},
    r"'{name}(\{{\.\.\.\}})*' is a csc_": scipy.sparse.csc_array(np.eye(2)),
    "complex": np.array([[1 + 2j]]),
}


def test_what_is_not_a_plain_array_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    for message, inner in NOT_PLAIN.items():
        scipy.io.savemat(path, {"x": inner, "y": cells(np.eye(2), cells(inner, np.eye(2)))})
        for name in ("x", "y"):
            with refused(rf"a\.mat: .*{message.format(name=name)}", DataError):
                matlab.read(path, [name])
