"""Stage 2 through the command line: what is compared, early stop, selection, diagnostics."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
    exactly = ["align.exact=true", "align.largest_step=null", "train.epochs=1"]
    assert orca("run", *small, "metric=otdd", "align.epochs=6", "align.check_every=5", *exactly)[0] == 0
    found = lines(environment)
    always = {"epoch", "loss", "lr", "gradient_norm", "iterations", "marginal_error", "seconds"}
    measured = {"token_variance", "effective_rank", "variance_within", "variance_between", "heldout", "heldout_exact"}
    for line in found:
        assert set(line) == (always | measured if line["epoch"] in (0, 5) else always)
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
    still = [
        "align.lr=1e-30",
        "align.check_every=2",
        "align.patience=2",
        "align.epochs=40",
        "train.epochs=1",
    ]
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


def test_probes_that_are_judged_on_test_count_as_reads_of_it(orca, environment, small):
    settings = ["align.select=validation", "align.candidates=[0]", "align.probe_epochs=2", "align.epochs=1"]
    code, _, err = orca("run", *small, *settings, "train.validate_on=test", "train.epochs=3")
    assert code == 0, err
    assert results(environment)[0]["test_reads"] == 2 * 2 + 3 + 1  # two probes of two epochs, three epochs, and the end


def test_an_alignment_that_hurts_is_not_taken(orca, environment, small):
    """A rate that throws the embedder far away: the probe must prefer 0 steps, and the run be as without alignment."""
    wild = ["align.lr=1e3", "align.largest_step=null", "align.epochs=1", "align.candidates=[0]"]
    wild += ["train.epochs=4", "train.lr=3e-3"]
    assert orca("run", *small, *wild, "align.select=validation", "align.probe_epochs=4")[0] == 0
    assert orca("run", *small, "metric=none", "train.epochs=4", "train.lr=3e-3")[0] == 0
    guarded, without = results(environment)
    assert guarded["alignment"]["steps"] == 0
    assert guarded["weights_sha256"] == without["weights_sha256"]


def test_the_distance_is_told_on_the_scale_of_the_source(orca, environment, small):
    """Beside before and after: what fresh source points score, and the variance of the source's tokens."""
    code, _, err = orca("run", *small, "metric=otdd", "align.epochs=2", "train.epochs=1")
    assert code == 0
    (result,) = results(environment)
    floor = result["metric_value"]["floor"]
    assert floor["points"] == 16
    assert 0 < floor["deviation"] < floor["mean"] < result["metric_value"]["before"]
    assert f"fresh source points score {floor['mean']:.4g}" in err
    for name in ("variance_within", "variance_between"):
        assert set(result["alignment"]["collapse"][name]) == {"before", "after", "source"}


def test_alignment_below_the_floor_is_warned_of_and_can_stop_there(orca, environment, small):
    """Biased transport draws the target together: its distance falls below that of the source's own points."""
    far = [
        *small,
        "metric=otdd",
        "align.epochs=60",
        "align.lr=3e-2",
        "train.epochs=1",
        "embedder=patch",
        "align.check_every=100",
    ]
    code, _, err = orca("run", *far)
    assert code == 0
    assert "below what fresh source points score" in err
    code, _, err = orca("run", *far, "align.stop=floor")
    assert code == 0
    assert "below what fresh source points score" not in err
    whole, stopped = results(environment)
    assert whole["metric_value"]["after"] < whole["metric_value"]["floor"]["mean"]
    assert 0 < stopped["alignment"]["steps"] < 60


def test_one_rate_serves_metrics_whose_gradients_differ(orca, environment, small):
    """Under SGD a first step is as long as its gradient: without a scale, metrics would differ by their units."""
    sgd = ["align.optimizer=sgd", "align.momentum=0", "align.lr=1e-2", "align.largest_step=null", "align.epochs=1"]
    moved = {}
    for unit in (True, False):
        for metric in ("otdd", "euclidean", "moments", "transrate", "minibatch_ot"):
            assert orca("run", *small, *sgd, f"metric={metric}", f"align.unit_gradient={unit}")[0] == 0
            before, after = embedder(environment, steps=0), embedder(environment, steps=1)
            change = torch.cat([(after[name] - before[name]).flatten() for name in before])
            moved[unit, metric] = change.norm().item()
    units, raw = ([value for (unit, _), value in moved.items() if unit is wanted] for wanted in (True, False))
    assert units == pytest.approx([1e-2] * len(units), rel=1e-3)
    assert max(raw) > 30 * min(raw)


def embedder(environment, steps):
    """Return the embedder's parameters after some steps of the last run, from the shared alignment."""
    run = max(run_folders(environment))
    key = json.loads((run / "2_align" / "summary.json").read_text())["trajectory"]
    tensors = load_file(Path(os.environ["ORCA_HOME"]) / "cache" / "alignments" / key / "tensors.safetensors")
    return {name.removeprefix(f"{steps}."): value for name, value in tensors.items() if name.startswith(f"{steps}.")}


def test_runs_of_several_seeds_share_the_source(orca, environment, small, tmp_path):
    cache = tmp_path / "cache"
    for seed in (0, 1):
        assert orca("run", *small, f"seed={seed}", "train.epochs=1", "align.epochs=1", f"paths.cache={cache}")[0] == 0
    for kind in ("source_features", "metric_sources", "floors"):
        assert len([path for path in (cache / kind).iterdir() if path.is_dir()]) == 1, kind
    assert orca("run", *small, "seed=1", "align.source_seed=null", "align.epochs=1", f"paths.cache={cache}")[0] == 0
    assert len([path for path in (cache / "source_features").iterdir() if path.is_dir()]) == 2


METRICS = "otdd,otdd_exact,otdd_reference,otdd_gaussian,minibatch_ot,mmd,transrate,euclidean,moments,none"


@pytest.mark.slow
def test_all_metrics_are_one_sweep(orca, environment, small):
    """The paper's ablation (Table 7): metrics that compare classes get several in a problem, the others one."""
    code, _, err = orca("run", "-m", *small, f"metric={METRICS}", "align.epochs=2", "train.epochs=1")
    assert code == 0, err
    found = {result["metric"]: result["metric_value"]["before"] for result in results(environment)}
    assert sorted(found) == sorted(METRICS.split(","))
    assert found.pop("none") is None
    assert all(value != 0 for value in found.values())


@pytest.mark.parametrize(("share", "steps"), [(0.99, 0), (1.01, 2)])
def test_a_target_within_a_standard_deviation_of_the_source_is_not_aligned(
    orca, environment, small, monkeypatch, share, steps
):
    """The run then is, bit for bit, as without alignment; align.select=last aligns nonetheless."""

    def value(problem, *words):
        return share * float(problem.source.x.double().var(0, correction=0).sum()) / 2

    monkeypatch.setattr(Problem, "value", value)
    few = ["align.epochs=2", "train.epochs=1", f"align.lr={share / 50}"]  # no other test's, which would be in the cache
    code, _, err = orca("run", *small, *few)
    assert code == 0
    assert ("align: left out, since the target is near" in err) == (steps == 0)
    others = (["metric=moments"], ["metric=mmd", "metric.unbiased=true"])  # which measure something else
    for words in (["metric=none"], ["align.select=last"], *others):
        assert orca("run", *small, *few, *words)[0] == 0
    chosen, without, last, *rest = results(environment)
    assert [run["alignment"]["steps"] for run in (chosen, last, *rest)] == [steps, 2, 2, 2]
    assert (chosen["weights_sha256"] == without["weights_sha256"]) == (steps == 0)


def test_stopping_at_a_floor_that_cannot_be_measured_is_refused(orca, small):
    """Pooled points are as many as examples: all of them are the source, and none is left to measure with."""
    code, _, err = orca("run", *small, "align.features=pooled", "align.stop=floor")
    assert code == 10
    assert "align.stop=floor" in err
    assert "align.source_points" in err


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
    settings = [
        "align.epochs=31",
        "align.check_every=10",
        "align.exact=true",
        "align.largest_step=null",
        "train.epochs=1",
    ]
    code, _, err = orca("run", *words, f"metric={metric}", *settings)
    assert code == 0, err
    exact = [line["heldout_exact"] for line in lines(environment) if "heldout_exact" in line]
    assert len(exact) == 4
    assert exact[-1] < FALLS_TO * exact[0], exact
