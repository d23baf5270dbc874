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


def record(sequence, fold):
    evolutionary = np.zeros(
        (len(sequence), 20), np.float32
    )  # TAPE's dictionaries hold more than is read
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


def words(samples, index):
    batch = samples.batch(np.array([index]))
    assert (batch.x.sum(dim=1) == batch.valid).all()
    return [VOCABULARY[i] for i in batch.x[0].argmax(dim=0)[batch.valid[0]]]


def test_the_proteins_of_the_databases_are_the_samples(tmp_path):
    write_lmdb(tmp_path / "a" / "homology")
    write_lmdb(tmp_path / "b" / "homology" / "remote_homology")
    beside, unpacked = load(tmp_path / "a"), load(tmp_path / "b")
    assert beside.input_shape == (30, 1419)
    assert beside.train.digest() == unpacked.train.digest()
    assert words(beside.train, 0) == ["cls", "M", "K", "V", "sep"]
    assert load(tmp_path / "b", test="family_holdout").open_test().targets().tolist() == [1194]


def test_the_vocabulary_has_the_ids_of_tape(tmp_path):
    known = {
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
    assert {name: VOCABULARY.index(name) for name in known} == known
    assert [VOCABULARY[i] for i in encode("aJZ", 10)] == ["cls", "A", "unk", "Z", "sep"]
    write_lmdb(tmp_path / "homology")
    with refused(r"remote_homology_train.*residue Z.*use task.symbols=30", DataError):
        load(tmp_path, symbols=29)


def test_long_proteins_are_cut_or_dropped(tmp_path):
    write_lmdb(tmp_path / "homology")
    cut, dropped = (load(tmp_path, length=7, over_length=word) for word in ("truncate", "drop"))
    assert words(cut.train, 1) == ["cls", "A", "C", "D", "E", "F", "sep"]
    assert words(cut.train, 2) == ["cls", "B", "O", "U", "X", "Z", "sep"]  # just fits
    assert cut.open_test().targets().tolist() == [0, 7]
    assert dropped.train.targets().tolist() == [0, 1194]
    assert dropped.open_test().targets().tolist() == [0]


def test_validation_is_merged_on_request_alone(tmp_path):
    write_lmdb(tmp_path / "homology")
    merged = load(tmp_path, train_on_validation=True, mask_padding=False)
    assert merged.train.targets().tolist() == [0, 7, 1194, 7, 3]
    batch = merged.train.batch(np.array([4]))
    assert batch.valid is None
    assert [VOCABULARY[i] for i in batch.x[0, :, :6].argmax(dim=0)] == ["cls", *"AAAA", "sep"]
    assert merged.validation.targets().tolist() == load(tmp_path).validation.targets().tolist()


def test_wrong_databases_are_refused_and_run_nothing(tmp_path):
    canary = tmp_path / "canary"
    for number, (change, error, message) in enumerate(
        (
            (lambda held: held.pop("1"), DataError, "has no protein 1 of 3"),
            (
                lambda held: held.update({"0": pickle.dumps(record("MK", 1195))}),
                DataError,
                r"allowed: 0\.\.1194",
            ),
            (
                lambda held: held.update({"1": pickle.dumps(Attack(canary))}),
                UnsafeError,
                r"data.mdb\[1\]",
            ),
        )
    ):
        folder = tmp_path / str(number)
        write_lmdb(folder / "homology", {"train": PROTEINS["train"]}, change)
        write_lmdb(
            folder / "homology", {name: PROTEINS[name] for name in ("valid", "test_fold_holdout")}
        )
        with refused(f"remote_homology_train.*{message}", error):
            load(folder)
    assert not canary.exists()
