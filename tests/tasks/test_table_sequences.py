"""Sequences in tables: rows of one id as a series, sorted by time; texts as one-hot symbols."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.table.preprocessing import fit_symbols
from orca_cli.exceptions import DataError
from tests.properties import examples
from tests.tasks.builders import (
    check_inputs,
    check_same,
    every,
    in_parts,
    refused,
    reloaded,
    splits,
)

N = 30
ENDS = 1 + np.arange(N) % 7
DRAW = np.random.default_rng(0)
VALUES = [DRAW.normal(3, 2, (2, end)) for end in ENDS]


def long(values=VALUES, start=0, shuffled=True):
    """Return a table with the series of some values [2, l], their rows in any order."""
    frames = []
    for i, (a, b) in enumerate(values, start):
        columns = {"who": f"s{i}", "t": 10 * np.arange(len(a)) + i, "a": a, "b": b}
        frames.append(pd.DataFrame(columns | {"kind": ["yes", "no"][i % 2]}))
    table = pd.concat(frames, ignore_index=True)
    return table.sample(frac=1, random_state=0) if shuffled else table


@pytest.fixture
def read(tmp_path, build):
    def call(train, **settings):
        train.to_csv(tmp_path / "train.csv", index=False)
        return build(
            "table", **{"train": "train.csv", "id": "who", "time": "t", "target": "kind"} | settings
        )

    return call


def check_series(task):
    """Check that the splits hold each series once, in the order of time."""
    series_by_split = []
    for samples in splits(task):
        batch = every(samples)
        series_by_split.append([])
        for x, valid, y in zip(batch.x.numpy(), batch.valid.numpy(), batch.y, strict=True):
            end = valid.sum()
            assert valid[:end].all()
            assert (x[:, end:] == 0).all()
            series = next(
                i
                for i, values in enumerate(VALUES)
                if values.shape[1] == end and np.allclose(values, x[:, :end])
            )
            assert task.class_names[y] == ["yes", "no"][series % 2]
            series_by_split[-1].append(series)
    assert sorted(sum(series_by_split, [])) == list(range(N))


def with_stamps():
    """Return the series in any order, with points in time as text."""
    table = long()
    stamps = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["t"], unit="min")
    return table.assign(t=stamps.dt.strftime("%Y-%m-%dT%H:%M"))


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (long(), {}),
        (with_stamps(), {}),
        (long(shuffled=False), {"time": None, "ignore": ["t"]}),
    ],
    ids=["by number", "by time", "in their order"],
)
def test_rows_of_an_id_become_a_series(read, table, settings):
    task = read(table, normalize=False, **settings)
    assert task.input_shape == (2, 7)
    check_series(task)
    assert f"{ENDS.sum()} rows form 30 series; training series have 1 to 7 steps" in task.note


@pytest.mark.parametrize(
    ("column", "entry", "message"),
    [
        ("kind", "maybe", r"series 's\d+' has both '\w+' and '\w+'"),
        ("t", "", r"\[t\]: '' in row \d+ is not a time \(number of such rows: \d\)"),
    ],
)
def test_bad_series_are_named_in_one_line(read, column, entry, message):
    table = long()
    table[column] = table[column].where(table["t"] != 23, entry)
    with refused(message, DataError):
        read(table)


def test_a_finished_run_takes_new_series(read, reporter, tmp_path):
    new = long([DRAW.normal(3, 2, (2, end)) for end in (3, 9, 1, 8, 2, 5)] * 2, start=100)
    new.to_csv(tmp_path / "test.csv", index=False)
    task = read(long(), test="test.csv")
    preprocessing = reloaded(task, tmp_path / "run")
    opened = preprocessing.open(tmp_path / "test.csv", "INPUT")
    check_same(preprocessing, opened, task.open_test())
    assert (
        reporter.lines[-1] == "test split: 4 samples with more than 7 steps (the rest is cut off)"
    )
    assert opened.ids == list(dict.fromkeys(new["who"]))
    bare = preprocessing.given(new.drop(columns="kind"))
    assert (bare.ids, bare.targets()) == (opened.ids, None)
    check_inputs(in_parts(preprocessing, bare, 5), task.open_test())
    with refused("has no column 't'", DataError):
        preprocessing.given(new.drop(columns="t"))


def texts_of(x, valid, alphabet):
    """Return the texts that one-hot columns stand for, `.` where a step has no symbol."""
    texts = []
    for sample, is_valid in zip(x, valid, strict=True):
        assert (sample[:, ~is_valid] == 0).all()
        columns = sample[:, is_valid]
        assert set(np.unique(columns)) <= {0.0, 1.0}
        assert (columns.sum(0) <= 1).all()
        texts.append(
            "".join(alphabet[column.argmax()] if column.any() else "." for column in columns.T)
        )
    return texts


def test_new_texts_that_do_not_fit_are_reported_and_read(build, reporter, tmp_path):
    new = ["ACGT", "ANNA", "ACGTACGTACGTA", "xX", "T"]
    train = ["".join(DRAW.choice(list("ACGT"), 1 + i % 9)) for i in range(40)]
    for name, texts in (("train", train), ("test", new)):
        kinds = [["yes", "no"][i % 2] for i in range(len(texts))]
        pd.DataFrame({"dna": texts, "kind": kinds}).to_csv(tmp_path / f"{name}.csv", index=False)
    settings = {"train": "train.csv", "test": "test.csv", "sequence": "dna", "target": "kind"}
    task = build("table", **settings)
    preprocessing = reloaded(task, tmp_path / "run")
    raw = {"dna": np.array(new, dtype=object)}
    x, valid = preprocessing.inputs(raw)
    assert texts_of(x, valid, "ACGT") == ["ACGT", "A..A", "ACGTACGTA", "..", "T"]
    lines = {
        "with more than 9 symbols (the rest is cut off)": 1,
        "with symbols that do not occur in training (NXx) and are read as zeros": 2,
    }
    assert preprocessing.remarks(raw) == lines
    check_inputs((x, valid), task.open_test())
    assert reporter.lines[-2:] == [
        f"test split: {count} sample{'s'[: count - 1]} {line}" for line, count in lines.items()
    ]
    assert build("table", **settings, length=12).input_shape == (4, 12)


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
        expected = [
            "".join(c if c in symbols.alphabet else "." for c in text)[: symbols.length]
            for text in texts
        ]
        assert texts_of(*x.read(rows), symbols.alphabet) == expected
