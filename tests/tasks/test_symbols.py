"""A column of symbols: one-hot over the training alphabet, masked, and what new texts that do not fit become."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.table.symbols import fit_symbols
from orca_cli.exceptions import ConfigError, DataError
from tests.properties import examples
from tests.tasks.builders import check_inputs, check_same, every, refused, reloaded, splits, write_tables

N = 40
DRAW = np.random.default_rng(0)
TEXTS = ["".join(DRAW.choice(list("ACGT"), 1 + i % 9)) for i in range(N)]


def table(texts, **more):
    return pd.DataFrame({"dna": texts, "kind": np.array(["yes", "no"])[np.arange(len(texts)) % 2], **more})


@pytest.fixture
def read(tmp_path, build):
    def call(train, test=None, **settings):
        settings |= write_tables(tmp_path, train=train, test=test)
        return build("table", **{"sequence": "dna", "target": "kind"} | settings)

    return call


def texts_of(x, valid, alphabet):
    """Return the texts that one-hot columns stand for, `.` where a step has no symbol."""
    texts = []
    for one, known in zip(x.numpy(), valid.numpy(), strict=True):
        assert (one[:, ~known] == 0).all()
        columns = one[:, known]
        assert set(np.unique(columns)) <= {0.0, 1.0}
        assert (columns.sum(0) <= 1).all()
        texts.append("".join(alphabet[column.argmax()] if column.any() else "." for column in columns.T))
    return texts


def test_texts_become_masked_one_hot_columns(read):
    task = read(table(TEXTS, weight=np.arange(N)))
    assert task.input_shape == (4, 9)
    batches = [every(samples) for samples in splits(task)]
    assert sorted(sum((texts_of(batch.x, batch.valid, "ACGT") for batch in batches), [])) == sorted(TEXTS)
    assert "4 symbols in 'dna' (ACGT), 1 to 9 a row" in task.note
    assert "not read beside the sequence: weight" in task.note


def test_texts_may_be_longer_than_the_module_csv_reads_by_itself(read):
    assert read(table(["A" * 140_000, *TEXTS]), length=5).input_shape == (4, 5)


def test_new_texts_that_do_not_fit_are_reported_and_read(read, reporter, tmp_path):
    new = ["ACGT", "ANNA", "ACGTACGTACGTA", "xX", "T"]
    task = read(table(TEXTS), table(new))
    preprocessing = reloaded(task, tmp_path / "run")
    raw = {"dna": np.array(new, dtype=object)}
    x, valid = preprocessing.inputs(raw)
    assert texts_of(x, valid, "ACGT") == ["ACGT", "A..A", "ACGTACGTA", "..", "T"]
    lines = {
        "longer than 9 symbols and cut at the end": 1,
        **{f"with the symbol '{name}', which training lacks: read as none of its symbols": 1 for name in "NXx"},
    }
    assert preprocessing.remarks(raw) == lines
    assert preprocessing.remarks({"dna": np.array(["ACGT"], dtype=object)}) == {}
    check_inputs((x, valid), task.open_test())
    assert reporter.lines[-4:] == [f"test split: 1 sample {line}" for line in lines]
    assert read(table(TEXTS), length=12).input_shape == (4, 12)
    assert "train split: " in read(table(TEXTS), length=3).note


def test_new_texts_are_opened_alone_in_their_file_or_given_as_a_list(read, tmp_path):
    new = ["ACGT", "ANNA", "ACGTACGTACGTA", "T"] * 5
    task = read(table(TEXTS), table(new))
    preprocessing = task.preprocessing
    check_same(preprocessing, preprocessing.open(tmp_path / "test.csv", "INPUT"), task.open_test())
    (tmp_path / "alone.csv").write_text("\n".join(["dna", *new]))
    for opened in (preprocessing.open(tmp_path / "alone.csv", "INPUT"), preprocessing.given(new)):
        check_inputs(preprocessing.inputs(opened.inputs(0, 20)), task.open_test())
        assert opened.targets() is None
    (tmp_path / "other.csv").write_text("rna\nACGU\n")
    with refused(r"other\.csv: has no column 'dna'.*trained on dna", DataError):
        preprocessing.open(tmp_path / "other.csv", "INPUT")


@examples(50)
@given(
    train=st.lists(st.text("abcAé𝔊", min_size=1, max_size=8), min_size=1, max_size=8),
    new=st.lists(st.text("abcAé𝔊xyz", min_size=1, max_size=12), min_size=1, max_size=8),
)
def test_any_text_comes_back(train, new):
    symbols, _ = fit_symbols("s", np.array(train, dtype=object), np.arange(len(train)), None, "t")
    assert symbols.alphabet == "".join(sorted(set("".join(train))))
    for texts in (train, new):
        x = symbols.encode(np.array(texts, dtype=object), "t")
        rows = np.arange(len(texts))
        expected = ["".join(c if c in symbols.alphabet else "." for c in text)[: symbols.length] for text in texts]
        assert texts_of(torch.from_numpy(x[rows]), torch.from_numpy(x.valid(rows)), symbols.alphabet) == expected


def test_only_training_rows_make_the_alphabet(read):
    texts = [text + symbol for text, symbol in zip(TEXTS, map(chr, range(ord("a"), ord("a") + N)), strict=True)]
    task = read(table(texts), validation_fraction=0.3, test_fraction=0.3)
    symbols, batch = task.preprocessing.symbols, every(task.train)
    assert len(symbols.alphabet) == 4 + len(task.train)
    assert set().union(*texts_of(batch.x, batch.valid, symbols.alphabet)) == set(symbols.alphabet)
    assert task.note.count("validation split: 1 sample with the symbol") == 5
    assert "validation split: 7 samples with other symbols that training lacks" in task.note


def test_small_and_capital_letters_are_warned_of(read):
    mixed = [text.lower() if i % 2 else text for i, text in enumerate(TEXTS)]
    assert "small and capital letters are different symbols, such as a and A" in read(table(mixed)).note


@pytest.mark.parametrize(
    ("texts", "settings", "error", "message"),
    [
        ([*TEXTS[1:], ""], {}, DataError, r"train\.csv\[dna\]: 1 rows have no sequence, the first is row 40"),
        (["".join(map(chr, range(300, 480)))] * N, {}, DataError, "holds 180 different characters, at most 128"),
        (TEXTS, {"features": ["weight"]}, ConfigError, r"task\.features: does not go with task\.sequence"),
        (TEXTS, {"sequence": None, "length": 5}, ConfigError, r"task\.length: applies to series .*task\.id=COLUMN"),
    ],
)
def test_bad_columns_and_contradicting_settings_are_refused(read, texts, settings, error, message):
    with refused(message, error):
        read(table(texts, weight=np.arange(N)), **settings)
