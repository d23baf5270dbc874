"""Stage 2 through the command line: what is compared, early stop, selection, diagnostics."""

import itertools
import json

import pytest

from orca_cli.stages.problem import Problem
from tests.cli.conftest import results, run_folders


def lines(environment):
    (run,) = run_folders(environment)
    return [json.loads(line) for line in (run / "2_align" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("features", ["tokens", "pooled", "sequence"])
def test_each_kind_of_point_is_aligned(orca, environment, small, features):
    code, _, err = orca("run", *small, f"align.features={features}", "align.epochs=6", "train.epochs=1")
    assert code == 0, err
    (result,) = results(environment)
    assert result["metric_value"]["after"] < result["metric_value"]["before"]


@pytest.mark.parametrize("number", [0, 3])
def test_several_classes_in_one_problem(orca, environment, small, number):
    code, _, err = orca("run", *small, f"align.classes_per_problem={number}", "align.epochs=6", "train.epochs=1")
    assert code == 0, err
    (result,) = results(environment)
    assert result["metric_value"]["after"] < result["metric_value"]["before"]


def test_every_epoch_is_recorded_with_diagnostics_and_now_and_then_with_the_exact_distance(orca, environment, small):
    assert orca("run", *small, "align.epochs=6", "align.check_every=5", "train.epochs=1")[0] == 0
    found = lines(environment)
    always = {
        "epoch",
        "loss",
        "lr",
        "gradient_norm",
        "iterations",
        "marginal_error",
        "seconds",
        "token_variance",
        "effective_rank",
    }
    assert all(always <= set(line) for line in found)
    assert [line["epoch"] for line in found if "heldout_exact" in line] == [0, 5]
    assert found[5]["heldout_exact"] < found[0]["heldout_exact"]
    assert found[5]["heldout"] < found[0]["heldout"]
    (result,) = results(environment)
    for name, values in result["alignment"]["collapse"].items():
        assert values["before"] == found[0][name]
        assert values["after"] != values["before"]


def test_float32_and_float64_agree(orca, environment, small):
    for dtype in ("float32", "float64"):
        assert orca("run", *small, f"align.dtype={dtype}", "align.epochs=2", "train.epochs=1")[0] == 0
    single, double = (result["metric_value"] for result in results(environment))
    assert single["before"] == pytest.approx(double["before"], rel=1e-4)
    assert single["after"] == pytest.approx(double["after"], rel=1e-2)


def test_patience_ends_an_alignment_that_does_not_move(orca, environment, small, monkeypatch):
    """Rounding may let the distance fall a little at every measurement; that is no progress."""
    measure, calls = Problem.value, itertools.count()
    monkeypatch.setattr(Problem, "value", lambda *words: measure(*words) * (1 - 1e-8 * next(calls)))
    still = ["align.lr=1e-30", "align.check_every=2", "align.patience=2", "align.epochs=40", "train.epochs=1"]
    assert orca("run", *small, *still)[0] == 0
    assert len(lines(environment)) == 5  # checks at 0, 2 and 4; the last two are no better than the first
    assert results(environment)[0]["alignment"]["steps"] == 5


def test_selection_by_validation_takes_the_best_probe_and_says_what_was_tried(orca, environment, small):
    settings = ["align.select=validation", "align.candidates=[0,2]", "align.probe_epochs=2", "align.epochs=4"]
    code, _, err = orca("run", *small, *settings)
    assert code == 0, err
    (result,) = results(environment)
    tried = result["alignment"]["tried"]
    assert set(tried) == {"0", "2", "4"}
    chosen = tried[str(result["alignment"]["steps"])]
    assert chosen == min(tried.values())
    assert result["test_reads"] == 1
    # A probe is the beginning of stage 3, bit for bit.
    (run,) = run_folders(environment)
    epochs = [json.loads(line) for line in (run / "3_finetune" / "metrics.jsonl").read_text().splitlines()]
    assert chosen == min(epoch["validation_error"] for epoch in epochs[:2])


def test_an_alignment_that_hurts_is_not_taken(orca, environment, small):
    """A rate that throws the embedder far away: the probe must prefer 0 steps, and the run be as without alignment."""
    wild = ["align.lr=1e3", "align.epochs=1", "align.candidates=[0]", "train.epochs=4", "train.lr=3e-3"]
    assert orca("run", *small, *wild, "align.select=validation", "align.probe_epochs=4")[0] == 0
    assert orca("run", *small, "metric=none", "train.epochs=4", "train.lr=3e-3")[0] == 0
    guarded, without = results(environment)
    assert guarded["alignment"]["steps"] == 0
    assert guarded["weights_sha256"] == without["weights_sha256"]


FALLS_TO = 0.8  # of the exact distance before alignment


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["otdd", "otdd_exact", "otdd_reference", "otdd_gaussian"])
@pytest.mark.parametrize("task", ["digits", "darcy"])
def test_every_dataset_distance_lowers_the_exact_one_on_held_out_data(orca, environment, small, tiny, task, metric):
    if task == "darcy":
        sizes = ["task.num_train=60", "task.num_validation=40", "task.num_test=20", "task.nodes=41", "source.size=200"]
        words = ["task=darcy", f"body.checkpoint={tiny['swin']}", "source=digits", *sizes, "train.batch_size=8"]
        words += ["align.source_points=200", "align.max_samples=32"]
    else:
        words = small
    settings = ["align.epochs=31", "align.check_every=10", "align.lr=1e-2", "train.epochs=1"]
    code, _, err = orca("run", *words, f"metric={metric}", *settings)
    assert code == 0, err
    exact = [line["heldout_exact"] for line in lines(environment) if "heldout_exact" in line]
    assert len(exact) == 4
    assert exact[-1] < FALLS_TO * exact[0], exact
