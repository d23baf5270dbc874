"""`orca report --study`: the runs of a study under the names of its axes."""

import pytest

from orca_cli.report.records.collect import collect
from orca_cli.report.records.study_members import select_study
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.notes import notes_of
from orca_cli.report.tables.table import build_table
from orca_cli.runs import studies
from tests.report.trees import add_run


@pytest.fixture
def tree(tmp_path):
    """Two sets of one task, the arms none and gaussian (a run of the metric moments), a seed each; and a foreign run."""
    members = []
    for set_, file, shift in (("arrows", "a.npz", 0.0), ("leaves", "b.npz", 0.2)):
        for arm, metric, value in (("none", "none", 0.5), ("gaussian", "moments", 0.4)):
            variant = {"task.train": file, "source.noise": arm, "embedder.max_tokens": "9"}
            identity = f"{set_}-{arm}"
            add_run(tmp_path, task="arrays", metric=metric, value=value + shift, variant=variant, identity=identity)
            members.append(studies.Member(identity, {"set": set_, "metric": arm, "embedder": "patch", "seed": "0"}))
    add_run(tmp_path, task="arrays", metric="otdd", value=0.01, variant={"task.train": "a.npz"})
    studies.add(tmp_path, "small", members)
    return tmp_path


def table_of(root):
    return build_table(select_study(collect([root]), [root], "small"))


def means(root):
    return {row.method.metric: [cell.mean for cell in row.cells] for row in table_of(root).rows}


def test_sets_are_columns_and_arms_are_rows(tree):
    table = table_of(tree)
    assert [column.task for column in table.columns] == ["arrows", "leaves"]
    assert means(tree) == {"none": [0.5, 0.7], "gaussian": [0.4, pytest.approx(0.6)]}
    assert all(row.method.settings == () for row in table.rows)  # the embedder is the same, and files are the set's
    # What has no effect names no run: the same run, typed with and without it, is one.
    for arm, typed in (("none", {}), ("gaussian", {"keep_weights": "true"}), ("gaussian", {"baselines": "none"})):
        labels = {"set": "arrows", "metric": arm, "embedder": "patch", "seed": "0"} | typed
        studies.add(tree, "small", [studies.Member(f"arrows-{arm}", labels)])
    table = table_of(tree)
    assert all(row.method.settings == () and not any(cell.hidden for cell in row.cells) for row in table.rows)
    (gaussian,) = compare(table, "metric", "none", 0.5).overall
    assert (gaussian.arm, gaussian.sets, gaussian.pairs) == ("gaussian", 2, 2)
    # One run under two names is in both rows.
    studies.add(tree, "small", [studies.Member("arrows-none", {"set": "leaves", "metric": "again", "seed": "0"})])
    assert means(tree) == {"none": [0.5, 0.7], "gaussian": [0.4, pytest.approx(0.6)], "again": [None, 0.5]}


def test_an_axis_that_differs_and_has_no_field_of_its_own_is_a_setting(tree):
    overlap = studies.Member("arrows-none", {"set": "arrows", "metric": "none", "embedder": "overlap", "seed": "0"})
    studies.add(tree, "small", [overlap])
    settings = {(row.method.metric, *row.method.settings) for row in table_of(tree).rows}
    assert {("none", ("embedder", "overlap")), ("none", ("embedder", "patch"))} <= settings


def test_a_run_counts_once_though_a_value_of_the_study_was_typed_for_it(tmp_path):
    for seed in range(3):
        for arm, value in (("none", 0.5), ("otdd", 0.4)):
            identity, labels = f"{arm}{seed}", {"set": "digits", "metric": arm, "seed": str(seed), "baselines": "none"}
            add_run(tmp_path, metric=arm, seed=seed, value=value, identity=identity, settings=arm * 20)
            typed = [labels | {"train.lr": "2e-4"}] + ([labels] if seed < 2 else [])
            studies.add(tmp_path, "small", [studies.Member(identity, member_labels) for member_labels in typed])
    collection = select_study(collect([tmp_path]), [tmp_path], "small")
    assert len(collection.runs) == 6
    assert [len(row.cells[0].values) for row in build_table(collection).rows] == [3, 3]


@pytest.mark.parametrize("changed", [False, True])
def test_seeds_that_draw_their_samples_are_one_row(tmp_path, changed):
    """Every seed has its own test data and settings; two test sets for one seed mean that a file has changed."""
    for seed in range(3):
        for arm, value in (("none", 0.5), ("otdd", 0.4 + 0.01 * seed)):
            identity, labels = f"{arm}{seed}", {"set": "digits", "metric": arm, "seed": str(seed)}
            test = f"other{seed}" if changed and arm == "otdd" else f"test{seed}"
            names = {"metric": arm, "seed": seed, "identity": identity, "settings": identity * 9}
            add_run(tmp_path, value=value, splits={"test": {"n": 9, "sha256": test}}, **names)
            studies.add(tmp_path, "small", [studies.Member(identity, labels)])
    table = table_of(tmp_path)
    if changed:
        assert all("test_set" in dict(row.method.settings) for row in table.rows)
        return
    assert means(tmp_path) == {"none": [0.5], "otdd": [pytest.approx(0.41)]}
    (otdd,) = compare(table, "metric", "none", 0.5).overall
    assert (otdd.sets, otdd.pairs) == (1, 3)
    assert not any("test sets" in note for note in notes_of(table))
    assert sorted(row.rank for row in table.rows) == [1, 2]


def test_arms_of_a_study_are_pairs_whatever_they_set(tmp_path):
    """A body is no part of an arm."""
    members = []
    for arm, metric, finetune, source, value in (
        ("naive", "none", "full", "docs", 0.5),
        ("fpt", "none", "layernorm", "docs", 0.6),
        ("other_proxy", "otdd", "full", "tweets", 0.4),
    ):
        for body in ("minilm", "bert"):
            identity = f"{arm}-{metric}-{body}"
            names = {"body": body, "metric": metric, "finetune": finetune, "source": source, "identity": identity}
            add_run(tmp_path, value=value, **names)
            members.append(studies.Member(identity, {"set": "digits", "arm": arm, "body": body, "seed": "0"}))
    studies.add(tmp_path, "small", members)
    comparison = compare(table_of(tmp_path), "arm", "naive", 0.5)
    gains = {(block.arm, dict(block.others)["body"]): block.gains for block in comparison.blocks}
    expected = {"fpt": -10.0, "other_proxy": 10.0}
    bodies = ("minilm", "bert")
    assert gains == {(arm, body): [pytest.approx(gain)] for arm, gain in expected.items() for body in bodies}
    assert comparison.unpaired == 0


def test_an_arm_that_is_only_begun_with_another_metric_is_nobody_s_partner(tmp_path):
    members = []
    for arm, metric, value in (("default", "otdd", 0.5), ("default", "zzz", None), ("thorough", "otdd", 0.4)):
        identity = f"{arm}-{metric}"
        add_run(tmp_path, metric=metric, state="completed" if value else "failed", value=value, identity=identity)
        members.append(studies.Member(identity, {"set": "digits", "arm": arm, "seed": "0", "metric": metric}))
    studies.add(tmp_path, "small", members)
    comparison = compare(table_of(tmp_path), "arm", "default", 0.5)
    assert [block.gains for block in comparison.blocks] == [[pytest.approx(10.0)]]
