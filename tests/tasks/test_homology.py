"""Remote homology: proteins of TAPE's files; vocabulary, over-length, splits; damaged files."""

import pickle

import numpy as np
import pytest

from orca_cli.benchmarks.homology import VOCABULARY, encode, load
from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks.builders import Attack, refused

PROTEINS = {
    "train": [("MKV", 0), ("ACDEFGHIKLMNPQRSTVWY", 7), ("BOUXZ", 1194)],
    "valid": [("GG", 7), ("AAAA", 3)],
    "test_fold_holdout": [("WWW", 0), ("MKVMKVMKV", 7)],
    "test_family_holdout": [("AY", 1194)],
}
CHANNELS = {
    "pad": 0,
    "mask": 1,
    "cls": 2,
    "sep": 3,
    "unk": 4,
    "A": 5,
    "K": 14,
    "X": 27,
    "Y": 28,
    "Z": 29,
}


def record(sequence, fold):
    # TAPE's dictionaries hold more than is read.
    evolutionary = np.zeros((len(sequence), 20), np.float32)
    return {"primary": sequence, "fold_label": fold, "evolutionary": evolutionary, "id": b"d1abc__"}


def write_lmdb(folder, proteins=PROTEINS, change=lambda contents: None):
    lmdb = pytest.importorskip(
        "lmdb", reason="the package lmdb, which writes the database of this test, is absent"
    )
    for split, pairs in proteins.items():
        contents = {str(index): pickle.dumps(record(*pair)) for index, pair in enumerate(pairs)}
        contents["num_examples"] = pickle.dumps(len(pairs))
        change(contents)
        place = folder / f"remote_homology_{split}.lmdb"
        place.mkdir(parents=True, exist_ok=True)
        with (
            lmdb.open(str(place), map_size=2**20) as database,
            database.begin(write=True) as transaction,
        ):
            for key, value in contents.items():
                transaction.put(key.encode(), value)
    return folder


@pytest.fixture
def data(tmp_path):
    """Write the databases; return what `paths.data` names."""
    write_lmdb(tmp_path / "homology")
    return tmp_path


def words(samples, index):
    batch = samples.batch(np.array([index]))
    assert (batch.x.sum(dim=1) == batch.valid).all()
    return [VOCABULARY[i] for i in batch.x[0].argmax(dim=0)[batch.valid[0]]]


def test_the_proteins_of_the_databases_are_the_samples(data):
    task = load(data)
    assert task.input_shape == (30, 1419)
    assert words(task.train, 0) == ["cls", "M", "K", "V", "sep"]
    assert task.train.targets().tolist() == [0, 7, 1194]


def test_databases_may_lie_as_the_archive_has_them(data, tmp_path):
    write_lmdb(tmp_path / "unpacked" / "homology" / "remote_homology")
    assert load(tmp_path / "unpacked").train.digest() == load(data).train.digest()


def test_the_test_split_is_the_one_that_is_asked_for(data):
    assert load(data).open_test().targets().tolist() == [0, 7]
    assert load(data, test="family_holdout").open_test().targets().tolist() == [1194]


def test_the_vocabulary_has_the_ids_of_tape():
    assert {name: VOCABULARY.index(name) for name in CHANNELS} == CHANNELS


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [("aJZ", ["A", "unk", "Z"]), ("K-é*", ["K", "unk", "unk", "unk"]), ("", [])],
    ids=["small-and-J", "no-letters", "empty"],
)
def test_letters_that_are_not_in_the_vocabulary_are_unknown(sequence, expected):
    assert [VOCABULARY[i] for i in encode(sequence, 10)] == ["cls", *expected, "sep"]


def test_residue_z_needs_the_thirtieth_symbol(data):
    with refused(r"remote_homology_train.*residue Z.*use task.symbols=30", DataError):
        load(data, symbols=29)


def test_long_proteins_are_cut(data):
    task = load(data, length=7)
    assert words(task.train, 1) == ["cls", "A", "C", "D", "E", "F", "sep"]
    assert words(task.train, 2) == ["cls", "B", "O", "U", "X", "Z", "sep"]  # just fits
    assert task.open_test().targets().tolist() == [0, 7]


def test_long_proteins_are_dropped_on_request(data):
    task = load(data, length=7, over_length="drop")
    assert task.train.targets().tolist() == [0, 1194]
    assert task.open_test().targets().tolist() == [0]


def test_validation_is_merged_on_request_alone(data):
    merged = load(data, train_on_validation=True)
    assert merged.train.targets().tolist() == [0, 7, 1194, 7, 3]
    assert merged.validation.targets().tolist() == load(data).validation.targets().tolist()


def test_padding_is_unmarked_on_request(data):
    batch = load(data, mask_padding=False).validation.batch(np.array([1]))
    assert batch.valid is None
    assert [VOCABULARY[i] for i in batch.x[0, :, :6].argmax(dim=0)] == ["cls", *"AAAA", "sep"]


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("1", None, DataError, "is missing, although .* 3 proteins"),
        ("0", record("MK", 1195), DataError, r"must be in 0\.\.1194, got 1195"),
        ("1", "attack", UnsafeError, r"data.mdb\[1\]"),
    ],
    ids=["missing", "fold", "code"],
)
def test_wrong_databases_are_refused_and_run_nothing(key, value, error, message, data, tmp_path):
    canary = tmp_path / "canary"

    def change(contents):
        contents.pop(key)
        if value is not None:
            content = Attack(canary) if value == "attack" else value
            contents[key] = pickle.dumps(content)

    (data / "homology" / "remote_homology_train.lmdb" / "data.mdb").unlink()
    write_lmdb(data / "homology", {"train": PROTEINS["train"]}, change)
    with refused(f"remote_homology_train.*{message}", error):
        load(data)
    assert not canary.exists()


def test_a_database_without_proteins_is_refused(data):
    (data / "homology" / "remote_homology_valid.lmdb" / "data.mdb").unlink()
    write_lmdb(data / "homology", {"valid": []})
    with refused("remote_homology_valid.lmdb: contains no proteins", DataError):
        load(data)
