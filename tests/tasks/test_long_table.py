"""Long tables: rows with one id are a series, sorted by time, masked where it is shorter than the longest."""

import numpy as np
import pandas as pd
import pytest

from orca_cli.exceptions import DataError
from tests.tasks.builders import check_inputs, check_same, every, in_parts, refused, reloaded, splits, write_tables

N = 30
ENDS = 1 + np.arange(N) % 7


DRAW = np.random.default_rng(0)
VALUES = [DRAW.normal(3, 2, (2, end)) for end in ENDS]


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
    def call(train, test=None, **settings):
        settings |= write_tables(tmp_path, train=train, test=test)
        return build("table", **{"id": "who", "time": "t", "target": "kind", "ignore": ["patient"]} | settings)

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
            series = next(i for i, one in enumerate(VALUES) if one.shape[1] == end and np.allclose(one, x[:, :end]))
            assert task.class_names[y] == ["yes", "no"][series % 2]
            series_by_split[-1].append(series)
    assert sorted(sum(series_by_split, [])) == list(range(N))


def test_rows_of_an_id_become_a_series_by_time(read):
    task = read(long(), normalize=False)
    assert task.input_shape == (2, 7)
    check_series(task)
    assert f"{ENDS.sum()} rows are 30 series of 1 to 7 steps" in task.note


def test_times_may_be_dates_and_no_time_keeps_the_order(read):
    stamps = long()
    stamps["t"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(stamps["t"], unit="min")
    stamps["t"] = stamps["t"].dt.strftime("%Y-%m-%dT%H:%M")
    check_series(read(stamps, normalize=False))
    check_series(read(long(shuffled=False), normalize=False, time=None, ignore=["t", "patient"]))


def test_bad_tables_are_named_in_one_line(read):
    table = long()
    for change, message in (
        ({"kind": table["kind"].where(table["t"] != 23, "maybe")}, r"series 's\d+' has '\w+' and '\w+'"),
        ({"t": table["t"].where(table["t"] != 23, "")}, r"\[t\]: '' in row \d+ is not a time \(\d rows"),
    ):
        with refused(message, DataError):
            read(table.assign(**change))


def test_a_finished_run_takes_new_series(read, reporter, tmp_path):
    new = long([DRAW.normal(3, 2, (2, end)) for end in (3, 9, 1, 8, 2, 5)] * 2, start=100)
    task = read(long(), new)
    preprocessing = reloaded(task, tmp_path / "run")
    opened = preprocessing.open(tmp_path / "test.csv", "INPUT")
    check_same(preprocessing, opened, task.open_test())
    assert reporter.lines[-1] == "test split: 4 samples longer than 7 steps and cut at the end"
    assert opened.ids == list(dict.fromkeys(new["who"]))
    bare = preprocessing.given(new.drop(columns=["kind", "patient"]))
    assert (bare.ids, bare.targets()) == (opened.ids, None)
    check_inputs(in_parts(preprocessing, bare, 5), task.open_test())
    with refused("has no column 't'", DataError):
        preprocessing.given(new.drop(columns="t"))
