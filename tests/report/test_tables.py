"""Means, deviations, ranks and what is kept apart, against numbers computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from orca_cli.report.records.collect import Collection, Run, Score, collect
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import notes_of, seeds_text
from orca_cli.report.tables.table import Cell, Column, Method, belongs_to, build_table, table_of
from tests.properties import examples
from tests.report.trees import add_run


def _table(root):
    return build_table(collect([root]))


def _scored(seed, value):
    score = Score("zero_one", value, 10, 0, True, 0.9, False, "")
    return Run(Path(str(seed)), "t", "b", "s", "m", "f", seed, "clean", str(seed), "completed", score=score)


def test_a_small_deviation_is_shown_as_more_than_zero(tmp_path):
    for seed in range(2):
        add_run(tmp_path, seed=seed, value=0.25 + seed * 0.00002)
        add_run(tmp_path, seed=seed, value=0.5, metric="none")
        add_run(tmp_path, seed=seed, value=0.3 + seed * 1e-14, task="rounded")
    none, otdd = (row[1] for row in layout_of(_table(tmp_path)).rows[:2])
    assert [entry.main for entry in otdd] == ["25.001 \u00b1 0.001 (2)", "30.0 \u00b1 0.0 (2)"]
    assert none[0].main == "50.000 \u00b1 0.000 (2)"


def test_two_methods_two_tasks_by_hand(tmp_path):
    for seed, value in enumerate((0.10, 0.12, 0.17)):
        add_run(tmp_path, seed=seed, value=value)
    for seed, value in enumerate((0.20, 0.22, 0.24)):
        add_run(tmp_path, seed=seed, value=value, metric="none")
    add_run(tmp_path, task="darcy", value=0.5, error={"percent": False, "name": "relative_l2"})
    add_run(tmp_path, task="darcy", value=0.4, error={"percent": False, "name": "relative_l2"}, metric="none")
    table = _table(tmp_path)
    assert [column.task for column in table.columns] == ["darcy", "digits"]
    none, otdd = table.rows
    assert (none.method.metric, otdd.method.metric) == ("none", "otdd")
    assert otdd.cells[1].mean == pytest.approx(0.13)
    # Squares of the deviations: 9 + 1 + 16 (1e-4); sample variance 13e-4.
    assert otdd.cells[1].deviation == pytest.approx(math.sqrt(13e-4))
    assert otdd.cells[0].deviation is None
    assert [len(cell.values) for cell in otdd.cells] == [1, 3]
    assert [cell.best for cell in otdd.cells] == [False, True]
    assert [cell.best for cell in none.cells] == [True, False]
    assert (none.rank, otdd.rank) == (1.5, 1.5)
    assert table.trivial == [(0.9, 0.9), (0.9, 0.9)]


def test_runs_whose_test_split_stayed_closed_are_not_called_undefined(tmp_path):
    for seed, (value, error) in enumerate([(0.3, None), (None, {"n": 0}), (None, {"n": 0, "skipped": 5})]):
        add_run(tmp_path / "all", seed=seed, value=value, error=error, trivial_error=None)
        if seed < 2:
            add_run(tmp_path / "closed", seed=seed, value=value, error=error)
    (row,) = (table := _table(tmp_path / "all")).rows
    (cell,) = row.cells
    assert (cell.values, cell.untested, cell.undefined, cell.partial, cell.best) == ([0.3], 1, 1, 0, True)
    assert (cell.seeds, table.trivial) == ([0], [None])
    assert layout_of(table).rows[0][1][0].rest == "+1 undefined +1 not tested"
    assert "numbers of items" not in str(notes_of(_table(tmp_path / "closed")))


def test_unfinished_runs_are_counted_and_listed(tmp_path):
    add_run(tmp_path, value=0.1)
    for seed, state in enumerate(("failed", "finetune", "interrupted"), start=1):
        add_run(tmp_path, seed=seed, state=state)
    add_run(tmp_path, task="ecg", state="failed")
    table = _table(tmp_path)
    (row,) = table.rows
    assert dict(row.cells[0].unfinished) == {"failed": 1, "dead": 1, "interrupted": 1}
    assert (row.cells[0].values, row.cells[1].mean, row.cells[1].best) == ([0.1], None, False)
    assert table.columns[1].error_name == ""
    assert dict(row.cells[1].unfinished) == {"failed": 1}
    assert sorted(run.state for run in table.unfinished) == ["dead", "failed", "failed", "interrupted"]
    assert any("became NaN" in run.reason for run in table.unfinished)


def test_runs_that_differ_in_a_setting_are_never_averaged(tmp_path):
    add_run(tmp_path, value=0.1, settings="a" * 64)
    add_run(tmp_path, value=0.2, seed=1, settings="b" * 64)  # a default was changed between two seeds
    add_run(tmp_path, seed=1, value=0.3, variant={"train.epochs": "3"})
    add_run(tmp_path, seed=2, state="failed", variant={"train.epochs": "3"})
    add_run(tmp_path, value=0.2, body="swin", source="cifar10", variant={"train.lr": "1"})
    add_run(tmp_path, value=0.6, body="swin", source="digits", variant={"train.lr": "1"})
    table = _table(tmp_path)
    assert [(str(row.method), row.method.source, row.cells[0].mean) for row in table.rows] == [
        ("minilm otdd full settings=aaaaaaaa", "stdlib_docs", 0.1),
        ("minilm otdd full settings=bbbbbbbb", "stdlib_docs", 0.2),
        ("minilm otdd full train.epochs=3", "stdlib_docs", 0.3),
        ("swin otdd full train.lr=1", "cifar10", 0.2),
        ("swin otdd full train.lr=1", "digits", 0.6),
    ]
    assert table.rows[2].cells[0].unfinished["failed"] == 1
    add_run(tmp_path / "shared", variant={"train.epochs": "3"})
    add_run(tmp_path / "shared", task="ecg")
    assert len(_table(tmp_path / "shared").rows) == 1
    assert "digits: all runs with train.epochs=3" in notes_of(_table(tmp_path / "shared"))


def test_protocols_error_names_and_synthetic_data_get_columns_of_their_own(tmp_path):
    add_run(tmp_path, value=0.1)
    add_run(tmp_path, value=0.2, protocol="paper")
    add_run(tmp_path, value=0.3, seed=1, error={"name": "f1"})
    add_run(tmp_path, value=0.4, seed=2, synthetic=True)
    (row,) = _table(tmp_path).rows
    assert sorted(cell.mean or 0.0 for cell in row.cells) == [0.1, 0.2, 0.3, 0.4]


def test_own_data_sets_are_columns_of_their_own(tmp_path):
    def add(name, path, data, **fields):
        test = {"splits": {"test": {"n": 497, "sha256": data * 64}}}
        variant = {"task.train": path, "task.kind": "classes"}
        add_run(tmp_path / name, task="arrays", variant=variant, **test, **fields)

    def columns(name):
        return [column.name for column in _table(tmp_path / name).columns]

    for path, data in (("x/a.npz", "1"), ("x/b.npz", "2"), ("y/b.npz", "3")):
        for metric, value in (("none", 0.5), ("otdd", 0.3 + int(data) / 10)):
            add("arrays", path, data, metric=metric, value=value)
    assert columns("arrays") == ["arrays a.npz", "arrays x/b.npz", "arrays y/b.npz"]
    table = _table(tmp_path / "arrays")
    assert [row.cells[0].mean for row in table.rows if row.cells[0].runs] == [0.5, 0.4]
    (otdd,) = compare(table, "metric", "none", 0.5).overall
    assert (otdd.sets, otdd.wins, otdd.ties, otdd.losses) == (3, 1, 1, 1)
    assert otdd.worst == ("arrays y/b.npz", pytest.approx(-10))
    for path in ("x/a.npz", "./x/a.npz"):
        add("one", path, "a")
    assert columns("one") == ["arrays"]
    for path, data in (("m/a.npz", "1"), ("m/c.npz", "1"), ("m/z.npz", "2")):  # the first two: the same test data
        add("named", path, data)
    assert columns("named") == ["arrays a.npz", "arrays z.npz"]
    # A file whose name ends like another's is not of its column.
    column = Column("arrays", "clean", "0-1 error", True, False, data="a.npz")
    paths = ("x/a.npz", "a.npz", "xa.npz")
    runs = [replace(_scored(0, 0.1), task="arrays", variant={"task.train": path}) for path in paths]
    assert [belongs_to(one, column) for one in runs] == [True, True, False]


def test_the_newest_of_equal_experiments_counts(tmp_path):
    add_run(tmp_path, value=0.5)
    add_run(tmp_path, value=0.3)
    add_run(tmp_path, value=0.1, state="failed")
    add_run(tmp_path, seed=1, value=0.5, identity="1" * 64)  # one seed with two identities
    add_run(tmp_path, seed=1, value=0.4, identity="2" * 64)
    table = _table(tmp_path)
    (cell,) = table.rows[0].cells
    assert (cell.values, dict(cell.unfinished)) == ([0.3, 0.4], {"failed": 1})
    assert len(table.superseded) == 1
    assert any("1 older attempt does not count" in note for note in notes_of(table))
    assert any("seed 1: runs differ in something that no setting shows" in note for note in notes_of(table))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "methods have different seeds: 0, but minilm otdd full (4)"),
        ({"error": {"n": 400}}, "different numbers of items (400, 497)"),
        ({"splits": {"test": {"n": 497, "sha256": "b" * 64}}}, "2 different test sets"),
        ({"error": {"skipped": 2}}, "could not be scored"),
        ({"value": 0.95}, "not better than the best constant predictor: minilm otdd full"),
    ],
)
def test_what_limits_a_comparison_is_said(tmp_path, change, words):
    add_run(tmp_path, metric="none")
    add_run(tmp_path, metric="otdd")
    assert not any(words in note for note in notes_of(_table(tmp_path)))
    add_run(tmp_path / "other", metric="none")
    add_run(tmp_path / "other", metric="otdd", **change)
    assert any(words in note for note in notes_of(_table(tmp_path / "other")))


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=6))
@examples(40)
def test_ranks_agree_with_scipy(values):
    columns = [Column(str(place), "clean", "e", True, False) for place in range(3)]
    cells = {
        (Method(str(place), "", "", ""), column): Cell(runs=[_scored(0, value / 10)])
        for place, line in enumerate(values)
        for column, value in zip(columns, line, strict=True)
    }
    cells[Method("x", "", "", ""), columns[0]] = Cell(runs=[_scored(0, 0.0)])
    *rows, incomplete = table_of(Collection([], [], []), cells, columns).rows
    expected = rankdata(np.array(values), axis=0).mean(axis=1)
    assert [row.rank for row in rows] == pytest.approx(list(expected))
    assert incomplete.rank is None


@pytest.mark.parametrize(("seeds", "text"), [([0, 1, 2, 5], "0-2,5"), ([3], "3"), ([4, 2], "2,4"), ([], "")])
def test_seeds_text(seeds, text):
    assert seeds_text(seeds) == text
