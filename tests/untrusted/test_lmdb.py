"""LMDB: what the library writes is read by our own code, and damage ends in one of our errors and never in a crash."""

import random
from contextlib import suppress

import pytest

from orca_cli.exceptions import DataError, OrcaError, UnsafeError
from orca_cli.untrusted.lmdb import Records

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


def test_records_come_back(database):
    folder, expected = database
    for path in (folder, folder / "data.mdb"):
        with Records(path) as records:
            assert len(records) == len(expected)
            assert list(records.items()) == sorted(expected.items())
            assert all(records.get(key) == value for key, value in expected.items())
            for absent in ("", "nothing", "~", "0000", "9999999"):
                assert records.get(absent) is None


def test_an_empty_database_holds_nothing(tmp_path):
    lmdb.open(str(tmp_path), map_size=2**20).close()
    with Records(tmp_path) as records:
        assert (len(records), records.get("0"), list(records.items())) == (0, None, [])


def test_values_beyond_the_bound_are_refused(database):
    folder, expected = database
    large = next(key for key, value in expected.items() if len(value) == 20_000)
    with (
        Records(folder, max_value=10_000) as records,
        pytest.raises(UnsafeError, match=r"data\.mdb: a value has 20,000 bytes"),
    ):
        records.get(large)


def test_a_cut_file_is_told_at_once(database, tmp_path):
    folder, _ = database
    content = (folder / "data.mdb").read_bytes()
    for size in (10, 5000, len(content) // 2, len(content) - 4096):
        (tmp_path / "data.mdb").write_bytes(content[:size])
        with pytest.raises(DataError, match=r"data\.mdb: is (cut off|no LMDB)"):
            Records(tmp_path)


def test_other_files_are_told(tmp_path):
    for content, message in {b"<html>": "web page", b"": "empty", bytes(9000): "no LMDB database"}.items():
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(DataError, match=message):
            Records(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        Records(tmp_path / "absent")


def test_databases_in_the_database_are_no_records(tmp_path):
    with (
        lmdb.open(str(tmp_path), map_size=2**20, max_dbs=1) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0", b"x", db=environment.open_db(b"named", txn=transaction))
    with Records(tmp_path) as records, pytest.raises(DataError, match="no plain value"):
        list(records.items())


def test_damaged_files_give_errors_of_ours_or_values(tmp_path):
    write(tmp_path / "good", 1)
    content, draw = (tmp_path / "good/data.mdb").read_bytes(), random.Random(0)
    path = tmp_path / "data.mdb"
    path.write_bytes(content)
    heads = range(0, len(content), 4096)
    refused = 0
    with open(path, "r+b") as file:
        for _ in range(400):
            # Half of the changes hit the headers of pages, which are a small part of the file.
            place = draw.choice(heads) + draw.randrange(160) if draw.random() < 0.5 else draw.randrange(len(content))
            file.seek(place)
            file.write(bytes([draw.choice([0, 1, 0x7F, 0xFF, draw.randrange(256)])]))
            file.flush()
            try:
                with Records(path) as records:
                    with suppress(OrcaError):
                        records.get(str(draw.randrange(10**6)))
                    for _ in records.items():
                        pass
            except OrcaError:
                refused += 1
            file.seek(place)
            file.write(content[place : place + 1])
            file.flush()
    assert refused > 20
