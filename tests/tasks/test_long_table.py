"""Long tables: rows with one id are a series, sorted by time, masked where it is shorter than the longest."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.table.series import group_by
from orca_cli.exceptions import ConfigError, DataError
from tests.properties import examples
from tests.tasks.builders import check_same, every, in_parts, refused, reloaded, splits, write_tables

N = 30
ENDS = 1 + np.arange(N) % 7


def drawn(ends, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(3, 2, (2, end)) for end in ends]


VALUES = drawn(ENDS)


def long(values=VALUES, start=0, shuffled=True, **more):
    """Return a table with the series of some values [2, l], their rows in any order."""
    frames = []
    for i, one in enumerate(values, start):
        columns = {"who": f"s{i}", "t": 10 * np.arange(one.shape[1]) + i, "a": one[0], "b": one[1]}
        columns |= {"kind": ["yes", "no"][i % 2], "patient": f"p{i // 3}"}
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True).assign(**more)
    return table.sample(frac=1, random_state=0) if shuffled else table


@pytest.fixture
def read(tmp_path, build):
    def call(train, test=None, suffix="csv", **settings):
        settings |= write_tables(tmp_path, suffix, train=train, test=test)
        return build("table", **{"id": "who", "time": "t", "target": "kind", "ignore": ["patient"]} | settings)

    return call


def check_series(task, values=VALUES):
    """Check that the splits hold each series once, in the order of time; returns the series of each split."""
    series_by_split = []
    for samples in splits(task):
        batch = every(samples)
        series_by_split.append([])
        for x, valid, y in zip(batch.x.numpy(), batch.valid.numpy(), batch.y, strict=True):
            end = valid.sum()
            assert valid[:end].all()
            assert (x[:, end:] == 0).all()
            series = next(i for i, one in enumerate(values) if one.shape[1] == end and np.allclose(one, x[:, :end]))
            assert task.class_names[y] == ["yes", "no"][series % 2]
            series_by_split[-1].append(series)
    assert sorted(sum(series_by_split, [])) == list(range(len(values)))
    return series_by_split


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_of_an_id_become_a_series_by_time(read, suffix):
    task = read(long(), suffix=suffix, normalize=False)
    assert task.input_shape == (2, 7)
    check_series(task)
    assert f"{ENDS.sum()} rows are 30 series of 1 to 7 steps" in task.note
    assert "22 training and 4 validation series" in task.note


def test_times_may_be_dates_and_no_time_keeps_the_order(read):
    stamps = long()
    stamps["t"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(stamps["t"], unit="min")
    stamps["t"] = stamps["t"].dt.strftime("%Y-%m-%dT%H:%M")
    check_series(read(stamps, normalize=False))
    check_series(read(long(shuffled=False), normalize=False, time=None, ignore=["t", "patient"]))


@examples(50)
@given(rows=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=30))
def test_every_row_is_in_its_series_once(rows):
    ids, times = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    grouped = group_by({"id": ids, "t": times.astype(str).astype(object)}, "id", "t", "t.csv", ".")
    assert list(grouped.names) == list(dict.fromkeys(ids))
    assert sorted(grouped.order) == list(range(len(rows)))
    for name, start, end in zip(grouped.names, grouped.starts, grouped.ends, strict=True):
        chosen = grouped.order[start:end]
        assert (ids[chosen] == name).all()
        keys = list(zip(times[chosen], chosen, strict=True))
        assert keys == sorted(keys)


BAD = {
    "varying target": (
        lambda t: t.assign(kind=np.where(t["t"] == 23, "maybe", t["kind"])),
        r"\[kind\]: series 's\d+' has 'maybe' and|series 's\d+' has '\w+' and 'maybe'",
    ),
    "no id": (lambda t: t.assign(who=np.where(t["a"] > 3, "", t["who"])), r"\[who\]: \d+ rows have no series, the first"),
    "no time": (lambda t: t.assign(t=np.where(t["t"] == 23, "", t["t"])), r"\[t\]: '' in row \d+ is not a time \(\d rows"),
    "odd time": (lambda t: t.assign(t=np.where(t["t"] == 13, "noon", "2024-01-01")), r"'noon' in row .* 2024-05-31"),
    "few series": (lambda t: t.assign(who=np.where(t["a"] > 3, "x", "y"), kind="yes"), r"too few series: 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_named_in_one_line(read, name):
    change, message = BAD[name]
    with refused(message, DataError):
        read(change(long()))


def test_equal_times_are_reported_and_contradicting_roles_refused(read):
    assert "rows have the t of another row of their series; their order in the file is kept" in read(long(t=1)).note
    with refused("'who' is given two roles", ConfigError):
        read(long(), time="who")
    with refused(r"task\.features: 't' is to be predicted, or says what belongs together", ConfigError):
        read(long(), features=["t"], ignore=None)


def test_a_finished_run_takes_new_series(read, reporter, tmp_path):
    values = drawn((3, 9, 1, 8, 2, 5), 1) * 2
    new = long(values, start=100)
    task = read(long(), new)
    preprocessing = reloaded(task, tmp_path / "run")
    opened = preprocessing.open(tmp_path / "test.csv", "INPUT")
    check_same(preprocessing, opened, task.open_test())
    assert reporter.lines[-1] == "test split: 4 samples longer than 7 steps and cut at the end"
    assert opened.ids == list(dict.fromkeys(new["who"]))
    x, _ = in_parts(preprocessing, opened)
    scale = np.array([[one.mean, one.std] for one in preprocessing.columns[:2]])[..., None]
    for row, name in enumerate(opened.ids):
        one = values[int(name[1:]) - 100][:, :7]
        expected = (one - scale[:, 0]) / scale[:, 1]
        np.testing.assert_allclose(x[row, :, : one.shape[1]].numpy(), expected, rtol=1e-4, atol=1e-5)
    bare = preprocessing.given(new.drop(columns=["kind", "patient"]))
    assert (bare.ids, bare.targets()) == (opened.ids, None)
    assert torch.equal(in_parts(preprocessing, bare, 5)[0], x)
    for rows, message in ((np.zeros((4, 2)), "is a ndarray, which"), (new.drop(columns="t"), "has no column 't'")):
        with refused(message, DataError):
            preprocessing.given(rows)
