"""Rows merged by keys, their order, runs found by any setting, and which best error is marked."""

import json

import pytest

from orca_cli.cli import main
from orca_cli.report.records.collect import collect
from orca_cli.report.records.filters import Values, where
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import notes_of
from orca_cli.report.tables.rows import merged, ordered
from orca_cli.report.tables.table import build_table
from tests.report.trees import add_run

CONFIG = """\
train:
  epochs: 5
  lr: 0.0001
  betas:
  - 0.9
  - 0.99
align:
  lr: 0.3
  note: "#5: x"
  select: null
task:
  lr: {a: 1}
  data:
    shape: 8 x 8
device: auto
"""


def by(root, text):
    return merged(collect([root]), text, Values())


def names(table):
    return [row[0] for row in layout_of(table).rows if row[0][0] not in ("trivial", "best baseline")]


@pytest.fixture
def tree(tmp_path):
    """Two metrics with two learning rates; seed 2 is there for one rate only."""
    for lr, shift in (("1e-3", 0.0), ("1e-4", 0.2)):
        for metric, base in (("none", 0.4), ("otdd", 0.3)):
            for seed in range(3 if lr == "1e-3" else 2):
                value = base + shift + seed / 100
                add_run(tmp_path, metric=metric, seed=seed, value=value, variant={"train.lr": lr}, seconds=times(value))
    return tmp_path


def times(value):
    return {"build": 1.0, "align": 2.0, "finetune": 10 * (1 - value), "baselines": 100.0}


def test_a_merged_error_is_the_mean_over_settings_of_seeds_that_all_have(tree):
    table = by(tree, "metric")
    assert names(table) == [["none"], ["otdd"]]
    none, otdd = (row.cells[0] for row in table.rows)
    assert none.by_seed == {0: pytest.approx(0.5), 1: pytest.approx(0.51)}  # means of 0.40 and 0.60, 0.41 and 0.61
    assert (none.parts, none.partial, none.seeds) == (2, 1, [0, 1])
    assert otdd.mean == pytest.approx((0.4 + 0.41) / 2)
    assert "over 2 settings +1 of unmatched seeds" in str(layout_of(table).rows[0])
    assert any(note.endswith("merged: train.lr") for note in notes_of(table))
    assert not any("with care" in note for note in notes_of(table))
    assert [row.rank for row in table.rows] == [2.0, 1.0]
    # Seeds that no two settings share leave a hole; rows of unlike settings are to be compared with care.
    add_run(tree, metric="mmd", body="swin", seed=0, variant={"train.lr": "1"})
    add_run(tree, metric="mmd", body="swin", seed=1, variant={"train.lr": "2"})
    table = by(tree, "metric")
    assert table.rows[0].cells[0].mean is None
    assert "+2 of unmatched seeds" in str(layout_of(table).rows[0])
    (note,) = [note for note in notes_of(table) if "with care" in note]
    assert note == "rows are not of the same settings besides metric, so compare them with care: digits"


def test_rows_by_a_setting_and_a_group_in_the_order_that_is_typed(tree):
    table = by(tree, "train.lr,metric")
    assert layout_of(table).names == ["train.lr", "metric"]
    assert names(table) == [["1e-3", "none"], ["1e-4", "none"], ["1e-3", "otdd"], ["1e-4", "otdd"]]
    assert all(row.cells[0].parts == 1 for row in table.rows)
    assert not any("merged" in note for note in notes_of(table))
    assert len(by(tree, "seed").rows) == 3


def test_rows_are_sorted_by_a_task_a_rank_or_a_time(tree):
    add_run(tree, task="ecg", metric="none", value=0.1, variant={"train.lr": "1e-4"}, seconds={"build": 1.0})
    add_run(tree, task="ecg", metric="otdd", value=0.2, variant={"train.lr": "1e-4"}, seconds={"build": 1.0})
    table = build_table(collect([tree]))

    def order(key):
        return [(row.method.metric, dict(row.method.settings)["train.lr"]) for row in ordered(table, key).rows]

    assert order("digits") == [("otdd", "1e-3"), ("none", "1e-3"), ("otdd", "1e-4"), ("none", "1e-4")]
    assert order("ecg")[:2] == [("none", "1e-4"), ("otdd", "1e-4")]  # those without come last
    assert order("rank")[:2] == [("none", "1e-4"), ("otdd", "1e-4")]
    assert order("time") == [("none", "1e-4"), ("otdd", "1e-4"), ("none", "1e-3"), ("otdd", "1e-3")]
    (note,) = [note for note in notes_of(ordered(table, "time")) if "mean time" in note]
    assert note.startswith("rows by the mean time of a run's stages: minilm none full train.lr=1e-4 6.95 s")
    assert order("name") == [(row.method.metric, dict(row.method.settings)["train.lr"]) for row in table.rows]


@pytest.fixture
def composed(tmp_path):
    """Runs that typed a setting, decided it, and left it as it was composed."""
    for metric, fields in (
        ("typed", {"variant": {"train.lr": "1e-3"}}),
        ("decided", {"decided": {"train.lr": {"value": 2e-4, "why": "data"}, "align.select": {"value": "last"}}}),
        ("left", {}),
        ("damaged", {}),
    ):
        for seed in (0, 1):
            path = add_run(tmp_path, metric=metric, seed=seed, **fields)
            (path / "config.yaml").write_text(CONFIG if metric != "damaged" else "train: [")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("train.lr=0.001", {"typed"}),
        ("train.lr=2e-4", {"decided"}),
        ("train.lr=1e-4", {"left"}),
        ("train.lr=0.0001,2e-4", {"decided", "left"}),
        ("align.select=null", {"typed", "left"}),
        ("align.select=last", {"decided"}),
        ("train.betas=[0.9,0.99]", {"typed", "decided", "left"}),
        ("task.data.shape=8 x 8", {"typed", "decided", "left"}),
    ],
)
def test_runs_are_found_by_any_setting(composed, text, metrics):
    assert {run.metric for run in where(collect([composed]), text).runs} == metrics
    assert names(by(composed, "train.lr")) == [["-"], ["0.0001"], ["0.0002"], ["1e-3"]]


def test_settings_are_read_once_for_runs_that_differ_in_the_seed(composed, monkeypatch):
    read = []
    monkeypatch.setattr("orca_cli.report.records.filters.settings.setting", lambda path, key: read.append(path) or 1)
    where(collect([composed]), "align.lr=1")
    assert len(read) == 4  # not 8


def test_settings_without_an_effect_are_read_of_every_run(tmp_path):
    for seed, value in enumerate(("true", "false")):
        (add_run(tmp_path, seed=seed) / "config.yaml").write_text(f"keep_weights: {value}\n")
    for seed, value in enumerate(("true", "false")):
        assert [run.seed for run in where(collect([tmp_path]), f"keep_weights={value}").runs] == [seed]


def test_one_method_is_one_row_however_its_settings_are_typed(tmp_path):
    """One experiment of six seeds for each metric; that of `none` was typed in four ways, one without the defaults."""
    typed = ({"train.lr": "1e-3"}, {"train.lr": "0.001"}, {"train.lr": "1.0e-3", "train.clip": "1.0"}, {})
    for metric, base in (("none", 0.4), ("otdd", 0.3)):
        for seed in range(6):
            variant = typed[seed % 4] if metric == "none" else {"train.lr": "0.001", "train.clip": "1.0"}
            add_run(tmp_path, metric=metric, seed=seed, value=base, settings=metric.ljust(64, "0"), variant=variant)
    add_run(tmp_path, metric="none", value=0.5, variant={"train.lr": "1e-4", "train.clip": "1.0"})
    table = build_table(collect([tmp_path]))
    assert [(str(row.method), len(row.cells[0].values)) for row in table.rows] == [
        ("minilm none full train.lr=1e-3", 6),
        ("minilm none full train.lr=1e-4", 1),
        ("minilm otdd full train.lr=1e-3", 6),
    ]
    (otdd,) = compare(table, "metric", "none", 0.5).overall
    assert (otdd.pairs, otdd.points.mean) == (6, pytest.approx(10))
    assert [row.cells[0].parts for row in by(tmp_path, "metric").rows] == [2, 1]


def test_all_options_together(tree, capsys):
    words = ["report", str(tree), "--by", "metric,train.lr", "--where", "train.lr=1e-3", "--sort", "digits", "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in record["rows"]] == ["otdd", "none"]
    assert record["rows"][0]["settings"] == {"train.lr": "1e-3"}
    assert record["rows"][0]["cells"][0]["merged"] == 1
    assert main(["report", str(tree), "--by", "metric", "--compare"]) == 0
    assert "otdd" in capsys.readouterr().out


def best(root):
    return {row.method.metric: (row.cells[0].best, row.cells[0].earned) for row in build_table(collect([root])).rows}


def add_seeds(root, metric, values, first=0):
    for seed, value in enumerate(values, first):
        add_run(root, metric=metric, seed=seed, value=value)


def test_the_lowest_error_earns_its_mark_by_six_pairs_with_every_other(tmp_path):
    add_seeds(tmp_path, "a", [0.1] * 6)
    assert best(tmp_path)["a"] == (True, False)  # alone
    assert not any("fewer than 6" in note for note in notes_of(build_table(collect([tmp_path]))))
    add_seeds(tmp_path, "b", [0.2] * 6, first=6)  # other seeds
    assert best(tmp_path)["a"] == (True, False)
    add_seeds(tmp_path, "b", [0.2] * 5)
    assert best(tmp_path)["a"] == (True, False)
    add_seeds(tmp_path, "b", [0.2], first=5)
    assert best(tmp_path) == {"a": (True, True), "b": (False, False)}
    add_seeds(tmp_path, "c", [0.3] * 6)  # then p is 2 * 2/2^6 = 0.0625
    assert best(tmp_path)["a"] == (True, False)
    for metric, value in (("a", 0.1), ("c", 0.3)):
        add_seeds(tmp_path, metric, [value], first=6)
    assert best(tmp_path)["a"] == (True, True)  # 2 * 2/2^7 = 0.031
    add_seeds(tmp_path, "d", [0.1] * 7)  # as good as a
    assert best(tmp_path)["a"] == (True, False)


def test_fewer_than_six_seeds_are_warned_of(tmp_path):
    add_seeds(tmp_path, "a", [0.1] * 6)
    add_seeds(tmp_path, "b", [0.2] * 3)
    (note,) = [note for note in notes_of(build_table(collect([tmp_path]))) if "fewer than 6" in note]
    assert note.startswith("fewer than 6 seeds in 1 of 2 cells")
