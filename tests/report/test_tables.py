"""Tables computed by hand: means, deviations and separate groups; the runs of a study by its axes."""

import math

import pytest

from orca_cli.report.collect import collect
from orca_cli.report.layout import layout_of, notes_of
from orca_cli.report.paired import compare
from orca_cli.report.selection import select_study
from orca_cli.report.table import Reference, build_table
from orca_cli.runs import studies
from tests.report.trees import RELATIVE, add_arms, add_run, compared, report, table_of


def rows(table):
    return [(str(row.method), *(cell.mean for cell in row.cells)) for row in table.rows]


def test_two_methods_two_tasks_by_hand(tmp_path):
    add_arms(tmp_path, arms={"otdd": [0.10, 0.12, 0.17], "none": [0.20, 0.22, 0.24]})
    add_arms(tmp_path, arms={"otdd": 0.5, "none": 0.4}, task="darcy", error=RELATIVE)
    table = table_of(tmp_path)
    assert [column.task for column in table.columns] == ["darcy", "digits"]
    none, otdd = table.rows
    assert otdd.cells[1].mean == pytest.approx(0.13)
    # Squares of the deviations: 9 + 1 + 16 (1e-4); sample variance 13e-4.
    assert otdd.cells[1].deviation == pytest.approx(math.sqrt(13e-4))
    assert otdd.cells[0].deviation is None
    assert [cell.best for cell in none.cells] == [True, False]
    assert [cell.best for cell in otdd.cells] == [False, True]
    assert table.references["trivial"] == [Reference(low=0.9, high=0.9)] * 2


def test_runs_without_an_error_are_counted_by_what_they_lack(tmp_path):
    for seed, (value, error) in enumerate(
        [(0.3, None), (None, {"n": 0}), (None, {"n": 0, "skipped": 5})]
    ):
        add_run(tmp_path, seed=seed, value=value, error=error, trivial_error=None)
    for seed, state in enumerate(("failed", "finetune", "interrupted"), start=4):
        add_run(tmp_path, seed=seed, state=state)
    add_run(tmp_path, task="ecg", state="failed")
    table = table_of(tmp_path)
    (row,) = table.rows
    digits, ecg = row.cells
    # A run whose test split stayed closed is not called undefined.
    assert (digits.error_by_seed, digits.best, table.references) == ({0: 0.3}, True, {})
    missing = {"undefined": 1, "not tested": 1, "failed": 1, "dead": 1, "interrupted": 1}
    assert digits.missing == missing
    assert (ecg.mean, ecg.best, ecg.missing) == (None, False, {"failed": 1})
    (line,) = layout_of(table).rows
    assert "+1 undefined +1 not tested" in line.entries[0].rest
    states = sorted(run.state for run in table.unfinished)
    assert states == ["dead", "failed", "failed", "interrupted"]


def test_runs_that_differ_in_a_setting_are_never_averaged(tmp_path):
    add_run(tmp_path, value=0.1, settings="a" * 64)
    # A default was changed between two seeds.
    add_run(tmp_path, value=0.2, seed=1, settings="b" * 64)
    add_run(tmp_path, seed=1, value=0.3, variant={"train.epochs": "3"})
    add_run(tmp_path, seed=2, state="failed", variant={"train.epochs": "3"})
    for source, value in (("cifar10", 0.2), ("digits", 0.6)):
        add_run(tmp_path, value=value, body="swin", source=source, variant={"train.lr": "1"})
    table = table_of(tmp_path)
    assert rows(table) == [
        ("minilm otdd full settings=aaaaaaaa", 0.1),
        ("minilm otdd full settings=bbbbbbbb", 0.2),
        ("minilm otdd full train.epochs=3", 0.3),
        ("swin otdd full train.lr=1", 0.2),
        ("swin otdd full train.lr=1", 0.6),
    ]
    assert [row.method.source for row in table.rows[3:]] == ["cifar10", "digits"]
    assert table.rows[2].cells[0].missing["failed"] == 1


@pytest.mark.parametrize(
    "fields", [{"protocol": "paper"}, {"error": {"name": "f1"}}, {"synthetic": True}]
)
def test_errors_of_another_kind_get_a_column_of_their_own(tmp_path, fields):
    add_run(tmp_path, value=0.0)
    add_run(tmp_path, value=0.1, seed=1, **fields)
    ((_, *means),) = rows(table_of(tmp_path))
    assert sorted(means) == [0.0, 0.1]


def add_data_sets(root, names):
    """Write two runs on each data set; each data set has its own test data."""
    for number, name in enumerate(names, start=1):
        variant = {"task.train": f"/data/{name}.npz", "task.kind": "classes"}
        splits = {"test": {"n": 497, "sha256": str(number) * 64}}
        arms = {"none": 0.5, "otdd": 0.3 + number / 10}
        add_arms(root, task="arrays", arms=arms, variant=variant, splits=splits, data=name)


def test_own_data_sets_are_columns_of_their_own(tmp_path):
    add_data_sets(tmp_path, ["watch", "my", "ecg"])
    columns = table_of(tmp_path).columns
    assert [(column.name, column.task) for column in columns] == [
        ("ecg", "arrays"),
        ("my", "arrays"),
        ("watch", "arrays"),
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/a.npz", "a"), ("x/watch/train.npz", "watch"), ("/data/train.npz", "arrays")],
)
def test_older_runs_are_named_by_the_file_that_was_typed(tmp_path, path, name):
    add_run(tmp_path, task="arrays", variant={"task.train": path})
    assert [column.name for column in table_of(tmp_path).columns] == [name]


def test_own_data_sets_are_sets_that_arms_are_judged_by(tmp_path):
    add_data_sets(tmp_path, ["a", "b", "c"])
    (otdd,) = compared(tmp_path).overall
    assert (otdd.sets, otdd.wins, otdd.ties, otdd.losses) == (3, 1, 1, 1)


def test_runs_that_kept_no_alignment_step_are_shown_as_such(tmp_path):
    for seed, steps in enumerate((0, 20, 60, 0)):
        add_run(tmp_path, seed=seed, alignment={"steps": steps})
        add_run(tmp_path, seed=seed, metric="none", alignment={"steps": 0})
    text = report(tmp_path)
    assert "2 of 4 unaligned" in text
    assert text.count("unaligned") == 1  # not of metric=none


def test_the_newest_of_equal_experiments_counts(tmp_path):
    for value, state in ((0.5, "completed"), (0.3, "completed"), (0.1, "failed")):
        add_run(tmp_path, value=value, state=state)
    add_run(tmp_path, seed=1, value=0.5, identity="1" * 64)  # one seed with two identities
    add_run(tmp_path, seed=1, value=0.4, identity="2" * 64)
    table = table_of(tmp_path)
    (cell,) = table.rows[0].cells
    assert (cell.error_by_seed, cell.missing, len(table.superseded)) == (
        {0: 0.3, 1: 0.4},
        {"failed": 1},
        1,
    )
    notes = " ".join(notes_of(table))
    assert "number of older attempts, which are not part of any mean" in notes
    assert "seed 1: several runs have equal settings but differ in something else" in notes


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"seed": 4}, "methods have different seeds: 0, except minilm otdd full (4)"),
        ({"splits": {"test": {"n": 497, "sha256": "b" * 64}}}, "methods differ in test data"),
    ],
)
def test_what_limits_a_comparison_is_said(tmp_path, change, note):
    add_run(tmp_path, metric="none")
    add_run(tmp_path, metric="otdd", **change)
    assert note in " ".join(notes_of(table_of(tmp_path)))


def test_a_comparison_without_limits_has_no_note(tmp_path):
    add_arms(tmp_path)
    assert notes_of(table_of(tmp_path)) == []


def test_one_method_is_one_row_however_its_settings_are_typed(tmp_path):
    """Six seeds of each metric; `none` was set in four ways, one of them without the defaults."""
    typed = (
        {"train.lr": "1e-3"},
        {"train.lr": "0.001"},
        {"train.lr": "1.0e-3", "train.clip": "1.0"},
        {},
    )
    for seed in range(6):
        for metric, value, variant in (("none", 0.4, typed[seed % 4]), ("otdd", 0.3, typed[2])):
            settings = metric.ljust(64, "0")
            add_run(
                tmp_path, metric=metric, seed=seed, value=value, settings=settings, variant=variant
            )
    add_run(tmp_path, metric="none", value=0.5, variant={"train.lr": "1e-4", "train.clip": "1.0"})
    assert [
        (str(row.method), len(row.cells[0].error_by_seed)) for row in table_of(tmp_path).rows
    ] == [
        ("minilm none full train.lr=0.0001", 1),
        ("minilm none full train.lr=0.001", 6),
        ("minilm otdd full train.lr=0.001", 6),
    ]
    (otdd,) = compared(tmp_path).overall
    assert (otdd.pairs, otdd.gain.mean) == (6, pytest.approx(10))


def test_a_mark_is_earned_by_six_pairs_with_every_other(tmp_path):
    def marks(metric, value, seeds):
        add_arms(tmp_path, arms={metric: value}, seeds=seeds)
        cell = next(row.cells[0] for row in table_of(tmp_path).rows if row.method.metric == "a")
        return cell.best, cell.earned

    assert marks("a", 0.1, range(6)) == (True, False)  # alone
    assert marks("b", 0.2, range(6, 12)) == (True, False)  # other seeds
    assert marks("b", 0.2, range(5)) == (True, False)
    assert marks("b", 0.2, [5]) == (True, True)
    assert marks("c", 0.3, range(6)) == (True, False)  # then p is 2 * 2/2^6 = 0.0625
    marks("a", 0.1, [6])
    assert marks("c", 0.3, [6]) == (True, True)  # 2 * 2/2^7 = 0.031


def add(root, identity, labels, **fields):
    """Write a run, unless its fields are left out, and add it to the study."""
    if fields:
        add_run(root, identity=identity, **fields)
    labels = {"set": "digits", "seed": "0"} | labels
    studies.add(root, "small", [studies.Member(identity=identity, labels=labels)])


def study_table(root):
    return build_table(select_study(collect([root]), [root], "small"))


def means(root):
    return {row.method.metric: [cell.mean for cell in row.cells] for row in study_table(root).rows}


def test_sets_are_columns_and_arms_are_rows(tmp_path):
    """Two data sets of one task, the arms none and gaussian (metric moments), and an unrelated run."""
    for set_, file, shift in (("arrows", "a.npz", 0.0), ("leaves", "b.npz", 0.2)):
        for arm, metric, value in (("none", "none", 0.5), ("gaussian", "moments", 0.4)):
            variant = {"task.train": file, "source.noise": arm, "embedder.max_tokens": "9"}
            fields = {
                "task": "arrays",
                "metric": metric,
                "value": value + shift,
                "variant": variant,
            }
            add(
                tmp_path,
                f"{set_}-{arm}",
                {"set": set_, "metric": arm, "embedder": "patch"},
                **fields,
            )
    add_run(tmp_path, task="arrays", metric="otdd", value=0.01, variant={"task.train": "a.npz"})
    assert [column.task for column in study_table(tmp_path).columns] == ["arrows", "leaves"]
    assert means(tmp_path) == {"none": [0.5, 0.7], "gaussian": [0.4, pytest.approx(0.6)]}
    # Settings without effect do not name a run: with and without them, it is the same run.
    arrows = {"set": "arrows", "embedder": "patch"}
    for arm, typed in (
        ("none", {}),
        ("gaussian", {"keep_weights": "true"}),
        ("gaussian", {"baselines": "none"}),
    ):
        add(tmp_path, f"arrows-{arm}", arrows | {"metric": arm} | typed)
    table = study_table(tmp_path)  # the embedder is the same, and files belong to the data set
    assert all(
        row.method.settings == () and not any(cell.hidden for cell in row.cells)
        for row in table.rows
    )
    (gaussian,) = compare(table, "metric", "none").overall
    assert (gaussian.arm, gaussian.sets, gaussian.pairs) == ("gaussian", 2, 2)
    # An axis that differs and has no own field is a setting.
    add(tmp_path, "arrows-none", arrows | {"metric": "none", "embedder": "overlap"})
    settings = {(row.method.metric, *row.method.settings) for row in study_table(tmp_path).rows}
    assert {("none", ("embedder", "overlap")), ("none", ("embedder", "patch"))} <= settings


def test_seeds_that_draw_their_samples_are_one_row(tmp_path):
    """Every seed has its own test data and settings; task.split_seed={seed} sets them."""
    for seed in range(3):
        for arm, value in (("none", 0.5), ("otdd", 0.4 + 0.01 * seed)):
            fields = {"metric": arm, "seed": seed, "value": value, "settings": f"{arm}{seed}" * 9}
            fields["splits"] = {"test": {"n": 9, "sha256": f"test{seed}"}}
            fields["variant"] = {"task.split_seed": str(seed)}
            add(tmp_path, f"{arm}{seed}", {"metric": arm, "seed": str(seed)}, **fields)
    table = study_table(tmp_path)
    assert rows(table) == [("minilm none full", 0.5), ("minilm otdd full", pytest.approx(0.41))]
    (otdd,) = compare(table, "metric", "none").overall
    assert (otdd.sets, otdd.pairs) == (1, 3)
    assert not any("differ in" in note for note in notes_of(table))


def test_arms_of_a_study_are_pairs_whatever_they_set(tmp_path):
    """A body is not part of an arm; an arm whose runs with another metric have only begun has no partner."""
    for arm, metric, finetune, source, value in (
        ("naive", "none", "full", "docs", 0.5),
        ("fpt", "none", "layernorm", "docs", 0.6),
        ("other_proxy", "otdd", "full", "tweets", 0.4),
    ):
        for body in ("minilm", "bert"):
            fields = {
                "body": body,
                "metric": metric,
                "finetune": finetune,
                "source": source,
                "value": value,
            }
            add(tmp_path, f"{arm}-{metric}-{body}", {"arm": arm, "body": body}, **fields)
    add(
        tmp_path,
        "begun",
        {"arm": "naive", "body": "bert", "metric": "zzz"},
        body="bert",
        metric="zzz",
        state="failed",
    )
    comparison = compare(study_table(tmp_path), "arm", "naive")
    gains = {(block.arm, dict(block.others)["body"]): block.gains for block in comparison.blocks}
    expected = {"fpt": -10.0, "other_proxy": 10.0}
    assert gains == {
        (arm, body): [pytest.approx(expected[arm])]
        for arm in expected
        for body in ("minilm", "bert")
    }
    assert comparison.unpaired == 0
