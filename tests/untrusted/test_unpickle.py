"""Other people's pickles: real forms are read as pickle reads them, hostile ones are refused.

Nothing of them runs.
"""

import gzip
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.untrusted.pickle import read_bytes_here, unpickle, unpickle_bytes
from orca_cli.exceptions import DataError, UnsafeError
from tests.properties import examples
from tests.tasks.builders import refused

# Calls of the system, in all forms, are in tests/reliability/payloads.py.
PAYLOADS = {
    "a state": pickle.dumps(SimpleNamespace(a=1), protocol=2),
    "getattr": b"c__builtin__\ngetattr\n(cnumpy\ndtype\nS'mro'\ntR.",
    "an attribute of a dtype": b"cnumpy\ndtype\n(S'f8'\nI00\nI01\ntR.",
    "another encoding": b"c_codecs\nencode\n(Vtouch\nVrot13\ntR.",
    "a buffer out of band": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_instructions_that_data_do_not_need_are_refused(name, tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(PAYLOADS[name])
    with refused(r"data\.pkl", UnsafeError):
        unpickle(path)


def test_large_pickles_are_refused(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(bytes(200)))
    with refused("limit of 100", UnsafeError):
        unpickle(path, max_bytes=100)


def nested_tuples(depth: int, between: bytes = b"") -> bytes:
    body = b"".join(b"\x86" + between + b"q" + bytes([i]) + b"h" + bytes([i]) for i in range(depth))
    return b"\x80\x04}K\x00K\x00" + body + b"\x86K\x01s."


def objects(*entries):
    array = np.empty(len(entries), object)
    array[:] = entries
    return array


_PART = [np.arange(2)]
VALUES = {
    "numbers": [1, -5, 2**70, 3.5, True, False, None, b"\x00\xff", b"", "é", ()],
    "dtypes": [np.arange(3).astype(t) for t in ("u1", "i2", ">i4", "f2", ">f8", "?", "c8", "U3", "S2")],
    "orders": [np.asfortranarray(np.eye(3)), np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), np.array(3.0)],
    "empty": [np.empty(0), np.empty((0, 3), "f4"), np.array([""])],
    "scalars": [np.float32(1.5), np.int64(-1), np.bool_(True), np.str_("ab"), np.bytes_(b"ab"), np.complex64(1j)],
    "records": {"data": objects(np.arange(5, dtype="i2"), np.arange(3.0)), "label": np.array(["N", "~"])},
    "objects": objects("a", None, 5, np.eye(2), [np.ones(1)], {"x": np.float64(1)}),
    "shared": [_PART, _PART, {"again": _PART}],
}  # fmt: skip


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (actual.shape, actual.dtype.str) == (expected.shape, expected.dtype.str)
        if expected.dtype == object:
            assert_same(list(actual.ravel()), list(expected.ravel()))
        else:
            np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, dict):
        assert_same([*actual.items()], [*expected.items()])
    elif isinstance(expected, list | tuple):
        for actual_entry, expected_entry in zip(actual, expected, strict=True):
            assert_same(actual_entry, expected_entry)
    else:
        assert actual == expected


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_all_protocols_are_read_as_pickle_reads_them(name, protocol):
    content = pickle.dumps(VALUES[name], protocol=protocol)
    assert_same(unpickle_bytes(content, "memory"), pickle.loads(content))


# Later protocols say the length of names.
@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize("name", VALUES)
def test_pickles_of_numpy_1_are_read(name, protocol):
    content = pickle.dumps(VALUES[name], protocol=protocol).replace(b"numpy._core", b"numpy.core")
    assert_same(unpickle_bytes(content, "memory"), pickle.loads(content))


@examples(50)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_plain_values_come_back(value, protocol):
    assert_same(read_bytes_here(pickle.dumps(value, protocol=protocol), "memory"), value)


def test_compressed_pickles_are_read(tmp_path):
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(pickle.dumps(VALUES["records"])))
    assert_same(unpickle(path, gzipped=True), VALUES["records"])


def test_the_checksum_of_compressed_pickles_is_compared(tmp_path):
    path = tmp_path / "data.gz"
    content = bytearray(gzip.compress(pickle.dumps(VALUES["records"])))
    content[-5] ^= 1
    path.write_bytes(content)
    with refused(r"data\.gz", DataError):
        unpickle(path, gzipped=True)


def state(shape, dtype: bytes, content: bytes) -> bytes:
    """An array by hand: its dtype and content are pickled pieces."""
    shape = b"(" + b"".join(b"I%d\n" % n for n in shape) + b"t"
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    return start + b"(I1\n" + shape + dtype + b"I00\n" + content + b"tb."


def dtype(code: bytes, rest: bytes = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00") -> bytes:
    return b"cnumpy\ndtype\n(S'" + code + b"'\nI00\nI01\ntR(I3\nS'<'\n" + rest + b"tb"


@pytest.mark.parametrize(
    "content",
    [
        state((10**10,), dtype(b"O8"), b"]"),  # 80 GB of pointers for no item
        state((2,), dtype(b"f8"), b"(NNl"),  # numbers as pointers
        state((2,), dtype(b"O8"), b"C\x10" + b"A" * 16),  # pointers as numbers
        state((-1,), dtype(b"f8"), b"C\x08" + b"A" * 8),
        state((1,), dtype(b"S99"), b"C\x01A"),
        state((1,), dtype(b"f8", b"NNNI9\nI-1\nK\x00"), b"C\x08" + b"A" * 8),
        state((1,), dtype(b"V8", b"N(S'a'\nt}NNK\x00"), b"C\x08" + b"A" * 8),
        state((1,), dtype(b"f8,O"), b"C\x08" + b"A" * 8),
        b"cnumpy.core.multiarray\nscalar\n(" + dtype(b"O8") + b"C\x08" + b"A" * 8 + b"tR.",
        b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(C\x08"
        + b"A" * 8
        + dtype(b"O8")
        + b"(K\x01tS'C'\ntR.",
        # Lists of twice the list before: few bytes, 2**60 values for whoever walks through them.
        b"(]q\x00" + b"".join(b"]q%ch%cah%ca" % (i, i - 1, i - 1) for i in range(1, 60)) + b"l.",
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"}(" + b")\x85" * 3 + b"Nu.",
    ],
)
def test_arrays_that_lie_are_refused(content):
    with refused(r"memory: the pickle .*; no code of the pickle was run", UnsafeError):
        read_bytes_here(content, "memory")


def test_flags_of_a_dtype_are_not_taken_from_the_file():
    """Flag 1 makes NumPy treat numbers as pointers to objects, and crash."""
    content = state(
        (1,), dtype(b"f8", b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f"), b"C\x08" + b"A" * 8
    )
    array = unpickle_bytes(content, "memory")
    assert array.dtype.flags == 0
    assert array.tobytes() == b"A" * 8
