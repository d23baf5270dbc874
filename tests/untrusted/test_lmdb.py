"""LMDB: values come back as the library wrote them; damage ends in one of our errors, and this process lives on."""

import random

import pytest

from orca_cli.data.untrusted import lmdb as reader
from orca_cli.exceptions import UnsafeError
from tests.tasks.builders import refused

lmdb = pytest.importorskip("lmdb")


def write(folder, rounds):
    """Write and delete records in several transactions, so that pages are freed and used again."""
    draw, expected = random.Random(0), {}
    with lmdb.open(str(folder), map_size=2**26) as environment:
        for _ in range(rounds):
            with environment.begin(write=True) as transaction:
                for i in range(800):
                    key = str(draw.randrange(10**6))
                    value = draw.randbytes(draw.choice([0, 5, 3000, 20_000]) if i % 40 == 0 else 60)
                    transaction.put(key.encode(), value)
                    expected[key] = value
                for key in draw.sample(sorted(expected), 100):
                    transaction.delete(key.encode())
                    del expected[key]
    return expected


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmdb") / "train.lmdb"
    return folder, write(folder, 3)


def test_values_come_back_and_nothing_is_written(database):
    folder, expected = database
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    first, large = next(iter(expected)), next(key for key, value in expected.items() if len(value) == 20_000)
    for path in (folder, folder / "data.mdb"):
        assert dict(zip(expected, reader.read(path, expected), strict=True)) == expected
        absent = ["nothing", "~", "0000", first, "9999999"]
        assert list(reader.read(path, absent)) == [None, None, None, expected[first], None]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with refused(r"data\.mdb: a value has 20,000 bytes", UnsafeError):
        list(reader.read(folder, [large], max_value=10_000))


def test_large_values_are_fetched_a_few_at_a_time(tmp_path):
    keys = list("abcdefghijkl")
    with lmdb.open(str(tmp_path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key.encode(), key.encode() * 2**20)
    assert len(reader.read_here(str(tmp_path / "data.mdb"), keys, 2**28)) == 8
    assert [value[:1].decode() for value in reader.read(tmp_path, keys)] == keys
