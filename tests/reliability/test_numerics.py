"""Rows G1 to G3: no step on NaN or infinite values, no such distance between degenerate clouds, no made-up error."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
import yaml

from orca_cli import storage
from orca_cli.config import parts
from orca_cli.config.configuration import choices
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_by_class import OTDDByClass
from tests.cli.conftest import results, run_folders
from tests.scaled import Scaled, break_loss
from tests.tiers import count

METRICS = sorted(set(choices("metric")) - {"none"})


def points(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cloud(x: torch.Tensor, classes: int = 2, used: int | None = None) -> Features:
    return Features(x, torch.arange(len(x)) % (used or min(classes, len(x))), classes)


# name -> (source, target); what a task can hand to a metric without being wrong
DEGENERATE = {
    "one_source_point": lambda: (cloud(points(1, 4, 0)), cloud(points(6, 4, 1))),
    "one_target_point": lambda: (cloud(points(6, 4, 0)), cloud(points(1, 4, 1))),
    "one_point_each": lambda: (cloud(points(1, 4, 0)), cloud(points(1, 4, 1))),
    "one_point_each_and_equal": lambda: (cloud(torch.ones(1, 4)), cloud(torch.ones(1, 4))),
    "one_dimension": lambda: (cloud(points(6, 1, 0)), cloud(points(5, 1, 1))),
    "constant_features": lambda: (cloud(torch.ones(6, 4)), cloud(torch.full((5, 4), 2.0))),
    "all_points_equal": lambda: (cloud(torch.ones(6, 4)), cloud(torch.ones(5, 4))),
    "all_points_zero": lambda: (cloud(torch.zeros(6, 4)), cloud(torch.zeros(5, 4))),
    "identical_clouds": lambda: (cloud(points(6, 4, 0)), cloud(points(6, 4, 0))),
    "huge": lambda: (cloud(points(6, 4, 0) * 1e20), cloud(points(5, 4, 1) * 1e20)),
    "tiny": lambda: (cloud(points(6, 4, 0) * 1e-20), cloud(points(5, 4, 1) * 1e-20)),
    "huge_against_tiny": lambda: (cloud(points(6, 4, 0) * 1e20), cloud(points(5, 4, 1) * 1e-20)),
    "empty_class": lambda: (cloud(points(6, 4, 0), classes=4, used=2), cloud(points(5, 4, 1), classes=5, used=3)),
    "one_class": lambda: (cloud(points(6, 4, 0), classes=1), cloud(points(5, 4, 1), classes=1)),
    "a_class_of_one_point": lambda: (
        Features(points(6, 4, 0), torch.tensor([0, 0, 0, 0, 0, 1]), 2),
        Features(points(5, 4, 1), torch.tensor([0, 0, 0, 0, 1]), 2),
    ),
    "more_dimensions_than_points": lambda: (cloud(points(4, 50, 0)), cloud(points(3, 50, 1))),
    "far_from_the_origin": lambda: (cloud(points(6, 4, 0) + 1e6), cloud(points(5, 4, 1) + 1e6)),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("metric", METRICS)
def test_degenerate_clouds(metric, name, scorecard):
    """G2: a finite distance with a finite gradient, or an error of the program's own."""
    node = yaml.safe_load(choices("metric")[metric].read_text())
    source, target = DEGENERATE[name]()
    target.x.requires_grad_()
    built = parts.build(node, "metric")
    what = ""
    try:
        value = built.distance(source, built.prepare(source), target).value
        value.backward()
        if not math.isfinite(float(value.detach())):
            what = f"the distance is {float(value)}"
        elif target.x.grad is not None and not bool(target.x.grad.isfinite().all()):
            what = "the gradient is not finite"
    except OrcaError:
        pass  # one line that says what the metric needs
    scorecard.add("degenerate clouds, all metrics", cases=1, passed=int(not what), target=1)
    assert not what


# name -> (the error, its settings, shape of outputs, targets)
UNDEFINED = {
    "zero_one_without_a_class": ("classification.ZeroOne", {}, (5, 3), torch.full((5,), -100)),
    "macro_f1_without_a_class": ("classification.MacroF1", {}, (5, 3), torch.full((5,), -100)),
    "auroc_all_negative": ("multilabel.MeanAUROC", {}, (5, 3), torch.zeros(5, 3)),
    "auroc_all_positive": ("multilabel.MeanAUROC", {}, (5, 3), torch.ones(5, 3)),
    "auroc_all_missing": ("multilabel.MeanAUROC", {}, (5, 3), torch.full((5, 3), torch.nan)),
    "precision_without_positives": ("multilabel.MeanAveragePrecision", {}, (5, 3), torch.zeros(5, 3)),
    "precision_all_missing": ("multilabel.MeanAveragePrecision", {}, (5, 3), torch.full((5, 3), torch.nan)),
    "relative_error_of_zero": ("regression.RelativeL2", {}, (5, 1, 4, 4), torch.zeros(5, 1, 4, 4)),
    "relative_error_all_missing": ("regression.RelativeL2", {}, (5, 1, 4, 4), torch.full((5, 1, 4, 4), torch.nan)),
    "no_pair_within_the_threshold": ("distances.LongRangeMAE", {}, (2, 1, 40, 40), torch.full((2, 1, 40, 40), 99.0)),
    "mask_of_one_kind": ("masks.MaskError", {"report": "auroc"}, (2, 1, 4, 4), torch.zeros(2, 1, 4, 4)),
    "no_frame": ("sequences.NatsPerFrame", {}, (2, 88, 5), torch.full((2, 88, 5), torch.nan)),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_undefined_errors(name, scorecard):
    """G3: an error that is undefined is None, never 0 or NaN."""
    target, settings, shape, targets = UNDEFINED[name]
    error = parts.build({"_target_": f"orca_cli.scoring.{target}", **settings}, "task.error")
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    score = error(outputs.numpy(), targets.numpy())
    scorecard.add("undefined errors are null with a reason", cases=1, passed=int(score.value is None), target=1)
    assert score.value is None
    assert score.skipped > 0


@pytest.mark.slow
def test_undefined_error_of_a_run_is_null_with_a_reason(orca, environment, tiny, tmp_path, counted):
    """G3: result.json and the report say so; the run is completed all the same."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 3)).astype(np.float32)
    split = np.array(["train"] * 30 + ["validation"] * 15 + ["test"] * 15)
    y[split == "test"] = 0  # no positive: no precision
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(60, 2, 9)).astype(np.float32), y=y, split=split)
    words = ["task=arrays", "task.kind=labels", f"task.train={tmp_path / 'own.npz'}", f"body.checkpoint={tiny['bert']}"]
    words += ["task.error={_target_:orca_cli.scoring.multilabel.MeanAveragePrecision}", "metric=none"]
    code, _, err = orca("run", *words, "train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0")
    assert code == 0, err
    (result,) = results(environment)
    passed = result["error"]["value"] is None and "undefined" in result["error"]["reason"]
    counted("undefined errors are null with a reason", passed, result["error"])
    (run,) = run_folders(environment)
    assert "NaN" not in (run / "result.json").read_text()
    code, out, err = orca("report", "--format", "json")
    assert code == 0, err
    assert "NaN" not in out
    assert "undefined" in out


def count_updates(patch, calls):
    update = torch.optim.AdamW.step

    def counted(self, *args, **kwargs):
        calls["update"] += 1
        return update(self, *args, **kwargs)

    patch.setattr(torch.optim.AdamW, "step", counted)


FAULTS = [(what, value, step) for step in (9, 0, 5) for what in ("loss", "gradient") for value in (math.nan, math.inf)]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "value", "step"), FAULTS[: count(pr=2, nightly=12)])
def test_no_step_is_taken_with_values_that_are_not_finite(
    orca, environment, small, tmp_path, monkeypatch, counted, what, value, step
):
    """G1: the loss or the gradient of one step; code 32, no update, and what was saved goes on to the same weights."""
    words = ["run", *small, "metric=none", "train.checkpoint_s=0"]
    assert orca(*words, f"paths.runs={tmp_path / 'whole'}")[0] == 0
    (whole,) = results(tmp_path / "whole")
    forward, calls = torch.nn.CrossEntropyLoss.forward, {"loss": 0, "update": 0}

    def faulty(self, outputs, targets):
        calls["loss"] += torch.is_grad_enabled()
        now = torch.is_grad_enabled() and calls["loss"] == step + 1
        if now and what == "gradient":
            outputs.register_hook(lambda gradient: gradient * value)
        return forward(self, outputs, targets) * (value if now and what == "loss" else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.CrossEntropyLoss, "forward", faulty)
        count_updates(patch, calls)
        code, _, err = orca(*words)
    assert code == 32, err
    assert re.search(rf"the {what} is (nan|-?inf) at step \d+, with a rate of", err)
    assert calls == {"loss": step + 1, "update": step}  # the step itself was not taken
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert orca(*words)[0] == 0
    (again,) = results(environment)
    passed = again["weights_sha256"] == whole["weights_sha256"]
    counted("steps with a loss or gradient that is not finite", passed)
    assert run_folders(environment) == [run]


# (what, value, step, number of the problem in it); every class of digits is one problem of a step
ALIGN_FAULTS = [
    (what, value, step, problem)
    for step, problem in ((2, 3), (0, 0), (3, 9))
    for value in (math.nan, math.inf)
    for what in ("distance", "gradient")
]
ALIGN = ["align.epochs=4", "train.epochs=1", "train.warmup_epochs=0", "train.checkpoint_s=0"]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "value", "step", "problem"), ALIGN_FAULTS[: count(pr=2, nightly=12)])
def test_no_alignment_step_is_taken_with_values_that_are_not_finite(
    orca, environment, small, tmp_path, monkeypatch, counted, what, value, step, problem
):
    """G1 in stage 2: code 32 before the update, the checkpoint before is whole, and the run goes on from it exactly."""
    monkeypatch.setattr("orca_cli.stages.expected_time.measure", lambda *words: None)  # calls are counted
    words = ["run", *small, *ALIGN, "metric=otdd_by_class", f"paths.cache={tmp_path / 'cold'}"]
    assert orca("run", *small, *ALIGN, "metric=otdd_by_class", f"paths.runs={tmp_path / 'whole'}")[0] == 0
    (whole,) = results(tmp_path / "whole")
    distance = OTDDByClass.distance
    calls = {"distance": 0, "update": 0, "fault": 0}

    def faulty(self, *clouds):
        if not torch.is_grad_enabled():
            return distance(self, *clouds)
        calls["distance"] += 1
        if calls["distance"] != 10 * step + problem + 1:
            return distance(self, *clouds)
        calls["fault"] += 1
        if what == "distance":
            *others, target = clouds
            return distance(self, *others, dataclasses.replace(target, x=target.x * value))
        measured = distance(self, *clouds)
        measured.value.register_hook(lambda gradient: gradient * value)
        return measured

    with monkeypatch.context() as patch:
        patch.setattr(OTDDByClass, "distance", faulty)
        count_updates(patch, calls)
        code, _, err = orca(*words)
    assert calls["fault"] == 1
    assert code == 32, err
    (line,) = [line for line in err.splitlines() if line.startswith("orca: error: ")]
    fault = r"a feature is NaN or infinite" if what == "distance" else "the gradient of the distance is (nan|-?inf)"
    assert re.search(rf"align, epoch {step}: {fault}.*, with a rate of 0.01; .*align\.lr", line), line
    assert what == "gradient" or f"in problem {problem} " in line
    assert calls["update"] == step
    (run,) = run_folders(environment)
    kept = sorted((run / "2_align" / "checkpoints").glob("step-*"))
    assert [path.name for path in kept] == [f"step-{number:08d}" for number in range(max(1, step - 1), step + 1)]
    for path in kept:
        storage.verify_folder(path)
    code, _, err = orca(*words)
    assert code == 0, err
    assert step == 0 or f"align: resumed at step {step} of 4" in err
    (again,) = results(environment)
    passed = all(again[key] == whole[key] for key in ("weights_sha256", "metric_value", "alignment", "error"))
    counted("alignment steps with a distance or gradient not finite", passed)
    assert run_folders(environment) == [run]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["otdd", "mmd"])
def test_an_absurd_rate_of_alignment_is_reported(orca, environment, small, counted, metric):
    """G1: weights that the first step made absurd are met at the second, whatever the metric."""
    code, _, err = orca("run", *small, *ALIGN, f"metric={metric}", "align.lr=1e30", "align.largest_step=null")
    passed = code == 32 and "orca: error: align, epoch 1: " in err and "Traceback" not in err
    counted("alignment steps with a distance or gradient not finite", passed, err)


@pytest.mark.slow
def test_no_distance_that_is_not_finite_is_recorded(orca, environment, small, tmp_path, monkeypatch, counted):
    """I7: the distance after the last step is measured without a gradient; NaN would stand in result.json."""
    calls = {"after": 0}
    distance = OTDDByClass.distance

    def faulty(self, *clouds):
        measured = distance(self, *clouds)
        records = [path.read_text() for path in environment.glob("*/*/2_align/metrics.jsonl")]
        if torch.is_grad_enabled() or "".join(records).count("\n") < 4:
            return measured
        calls["after"] += 1
        return dataclasses.replace(measured, value=measured.value * math.nan)

    with monkeypatch.context() as patch:
        patch.setattr(OTDDByClass, "distance", faulty)
        code, _, err = orca("run", *small, *ALIGN, "metric=otdd_by_class", f"paths.cache={tmp_path / 'cold'}")
    assert calls["after"], err
    passed = code == 32 and "orca: error: align: the distance is nan" in err and not results(environment)
    counted("distances that are not finite / kept out of results", passed, err)
    assert orca("run", *small, *ALIGN, "metric=otdd_by_class")[0] == 0


@pytest.mark.slow
def test_the_scale_of_gradients_is_gone_on_from(orca, environment, small, tmp_path, monkeypatch, counted):
    """A6 for fp16: with the scaler on the CPU, a run that stops at a step goes on with the scale that it had."""
    monkeypatch.setattr("orca_cli.training.engine.Engine", Scaled)
    monkeypatch.setattr("orca_cli.stages.expected_time.measure", lambda *words: None)  # calls are counted
    words = ["run", *small, "metric=none", "train.checkpoint_s=0"]
    assert orca(*words, f"paths.runs={tmp_path / 'whole'}")[0] == 0
    (whole,) = results(tmp_path / "whole")
    with monkeypatch.context() as patch:
        break_loss(patch, 6)
        assert orca(*words)[0] == 32
    (saved,) = environment.glob("*/*/3_finetune/checkpoints/step-00000005/trainer.json")
    scaler = json.loads(saved.read_text())["scaler"]
    assert scaler["scale"] == pytest.approx(1000 * 1.7**2)  # the premise: it is not the first one
    assert scaler["_growth_tracker"] == 1
    code, _, err = orca(*words)
    assert code == 0, err
    (again,) = results(environment)
    passed = again["weights_sha256"] == whole["weights_sha256"]
    counted("fp16's gradient scale / gone on from exactly", passed)
