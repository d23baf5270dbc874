"""What runs are expected to take, by hand."""

import json

import pytest

from orca_cli.runs.directory import RunName
from orca_cli.runs.durations import History, in_words
from tests.report.trees import add_run


def name(metric="otdd", finetune="full", task="digits", **variant):
    settings = {key.replace("__", "."): value for key, value in variant.items()}
    return RunName(task, "minilm", "stdlib_docs", metric, finetune, 7, "clean", "i", "s", settings)


def add(root, metric, finetune, align, rest, seed=0, **more):
    seconds = {"build": 1.0, "align": align, "finetune": rest - 1.0}
    return add_run(root, metric=metric, finetune=finetune, seed=seed, seconds=seconds, **more)


@pytest.fixture
def history(tmp_path):
    add(tmp_path, "otdd", "full", 30.0, 20.0)
    add(tmp_path, "otdd", "full", 10.0, 24.0, seed=1)
    add(tmp_path, "none", "layernorm", 0.0, 10.0)
    add(tmp_path, "none", "full", 0.0, 40.0, variant={"train.epochs": "9"})
    add(tmp_path, "none", "full", 0.0, 1000.0, state="interrupted")
    (add(tmp_path, "none", "full", 0.0, 900.0, seed=3) / "result.json").write_text("{")
    damaged = add(tmp_path, "none", "full", 0.0, 900.0, seed=4) / "result.json"
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | {"seconds": "long"}))
    return History([tmp_path / "digits", tmp_path / "absent"])


@pytest.mark.parametrize(
    ("run", "seconds", "like"),
    [
        (name(), 20 + 22, 2),
        (name(metric="none"), 22, 2),  # stage 3 is that of the aligned runs
        (name(finetune="layernorm"), 20 + 10, 3),  # stage 2 of two runs, stage 3 of a third
        (name(metric="none", train__epochs="9", train__lr="1e-3"), 40, 1),  # a rate costs nothing
        (name(align__epochs="0"), 22, 2),
    ],
)
def test_stages_take_what_they_took_in_finished_runs_with_the_same_settings(history, run, seconds, like):
    expected = history.expected(run)
    assert expected.seconds == pytest.approx(seconds)
    assert len(expected.like) == like


def test_nothing_is_expected_of_a_run_without_its_like(history):
    unknown = [name(task="ecg"), name(metric="mmd"), name(metric="none", train__epochs="8"), name(finetune="head")]
    assert [history.expected(run) for run in unknown] == [None] * 4


def test_times_in_words():
    assert [in_words(seconds) for seconds in (42.4, 700, 12600)] == ["42 s", "12 min", "3.5 h"]
