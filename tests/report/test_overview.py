"""The report on a terminal: data sets one below the other, on one screen."""

import pytest
from rich.console import Console

from orca_cli.report.collect import collect
from orca_cli.report.overview import by_data_set, overview
from tests.commands.called import read_json, read_text, refused
from tests.report.trees import add_arms, add_run

NAMES = ["watch", "my", "rain", "bees", "splice", "fish", "leaf", "sound"]


@pytest.fixture
def afternoon(tmp_path, monkeypatch):
    """Eight data sets with eight methods each, and two dozen failures."""
    for number, name in enumerate(NAMES):
        for rate in ("1e-4", "2e-4", "5e-4", "1e-3"):
            variant = {"task.train": f"/data/{name}.npz", "train.lr": rate}
            arms = {"otdd": [0.1, 0.2], "none": [0.3, 0.4]}
            add_arms(tmp_path, task="arrays", data=name, variant=variant, arms=arms)
        for seed in range(3):
            variant = {"task.train": f"/data/{name}.npz", "train.lr": str(number)}
            add_run(tmp_path, task="arrays", data=name, seed=seed, variant=variant, state="failed")
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    return tmp_path


def printed(folder, width, height):
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(*overview(collect([folder]), console, "orca report"), sep="\n")
    return captured.get()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (140, 50)])
def test_an_afternoon_of_trials_fits_on_a_screen(afternoon, width, height):
    lines = printed(afternoon, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_newest_data_set_comes_first_and_failures_are_one_count(afternoon):
    text = printed(afternoon, 80, 60)
    assert text.index("sound") < text.index("leaf") < text.index("fish")
    assert "older data set" in text
    assert "Runs that are not part of any mean: 24 failed" in text
    assert "NonFiniteError" not in text


def test_the_best_methods_of_a_data_set_are_shown(tmp_path):
    for name in ("a", "b"):
        arms = {metric: [error] for metric, error in zip("cdefgh", range(1, 7), strict=True)}
        variant = {"task.train": f"{name}.npz"}
        add_arms(tmp_path, task="arrays", data=name, variant=variant, arms=arms)
    text = printed(tmp_path, 80, 60)
    assert [metric for metric in "cdefgh" if f"  {metric} " in text] == list("cdef")
    assert text.count("2 further methods") == 2


def test_runs_are_selected_by_data_set(afternoon):
    assert list(by_data_set(collect([afternoon]))) == NAMES[::-1]
    assert {column["data"] for column in read_json("report", "--last")["columns"]} == {"sound"}
    assert {column["data"] for column in read_json("report", "--name", "my")["columns"]} == {"my"}
    refusal = refused(11, "report", "--name", "fsh")
    assert "--name: no run uses the data set 'fsh'; did you mean 'fish'?" in refusal


@pytest.mark.parametrize("words", [["--format", "table"], ["--compare"]])
def test_one_table_of_all_data_sets_can_be_asked_for(afternoon, words):
    text = read_text("report", *words)
    assert "older data sets" not in text


@pytest.mark.parametrize("words", [[], ["--last"]])
def test_a_selection_without_runs_is_said_to_be_empty(afternoon, words):
    assert read_text("report", "--where", "state=dead", *words) == "no run meets the conditions\n"


def test_many_data_sets_with_long_names_keep_to_the_screen(tmp_path):
    for number in range(60):
        name = f"set {number} " + 30 * "long"
        add_run(tmp_path, task="arrays", data=name, variant={"task.train": f"{number}.npz"})
    lines = printed(tmp_path, 80, 24).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_files_of_one_name_with_other_test_data_are_no_pair(tmp_path, monkeypatch):
    for path, metric, digit in (("a/my.npz", "none", "1"), ("b/my.npz", "otdd", "2")):
        add_run(
            tmp_path,
            task="arrays",
            data="my",
            metric=metric,
            variant={"task.train": path},
            splits={"test": {"n": 9, "sha256": digit * 64}},
        )
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    names = [f"my {path}" for path in ("a/my.npz", "b/my.npz")]
    assert [column["data"] for column in read_json("report")["columns"]] == names
    assert read_json("report", "--compare")["standings"] == []
