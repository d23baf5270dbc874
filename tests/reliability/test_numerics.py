"""Rows G1 to G3: no step on NaN or infinite values, no such distance between degenerate clouds, no made-up error."""

import dataclasses
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from orca_cli.config import parts
from orca_cli.config.configuration import choices
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_by_class import OTDDByClass
from orca_cli.runs.check import check
from tests.cli.conftest import results, run_folders
from tests.tiers import count

METRICS = sorted(set(choices("metric")) - {"none"})
ALIGN_FIGURE = "alignment steps with a distance or gradient not finite"


def points(n: int, d: int = 4, scale: float = 1, seed: int = 0, shift: float = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def cloud(x: torch.Tensor, classes: int = 2, used: int | None = None) -> Features:
    return Features(x, torch.arange(len(x)) % (used or min(classes, len(x))), classes)


LONELY = torch.tensor([0, 0, 0, 0, 0, 1])
# name -> (source, target); what a task can hand to a metric without being wrong
DEGENERATE = {
    "one_source_point": (points(1), points(6, seed=1)),
    "one_target_point": (points(6), points(1, seed=1)),
    "one_point_each": (points(1), points(1, seed=1)),
    "one_dimension": (points(6, 1), points(5, 1, seed=1)),
    "all_points_equal": (torch.ones(6, 4), torch.ones(5, 4)),
    "all_points_zero": (torch.zeros(6, 4), torch.zeros(5, 4)),
    "identical_clouds": (points(6), points(6)),
    "huge": (points(6, scale=1e20), points(5, scale=1e20, seed=1)),
    "huge_against_tiny": (points(6, scale=1e20), points(5, scale=1e-20, seed=1)),
    "empty_class": (cloud(points(6), classes=4, used=2), cloud(points(5, seed=1), classes=5, used=3)),
    "one_class": (cloud(points(6), classes=1), cloud(points(5, seed=1), classes=1)),
    "a_class_of_one_point": (Features(points(6), LONELY, 2), Features(points(5, seed=1), LONELY[1:], 2)),
    "more_dimensions_than_points": (points(4, 50), points(3, 50, seed=1)),
    "far_from_the_origin": (points(6, shift=1e6), points(5, shift=1e6, seed=1)),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("metric", METRICS)
def test_degenerate_clouds(metric, name, counted):
    """G2: a finite distance with a finite gradient, or an error of the program's own."""
    clouds = [value if isinstance(value, Features) else cloud(value) for value in DEGENERATE[name]]
    source, target = clouds[0], dataclasses.replace(clouds[1], x=clouds[1].x.clone().requires_grad_())
    built = parts.build(yaml.safe_load(choices("metric")[metric].read_text()), "metric")
    passed = True
    try:
        value = built.distance(source, built.prepare(source), target).value
        value.backward()
        gradient = target.x.grad
        passed = bool(value.isfinite()) and (gradient is None or bool(gradient.isfinite().all()))
    except OrcaError:
        pass  # one line that says what the metric needs
    counted("degenerate clouds, all metrics", passed, target.x.grad)


@pytest.mark.slow
def test_undefined_error_of_a_run_is_null_with_a_reason(orca, environment, tiny, tmp_path, counted):
    """G3: result.json and the report say so; the run is completed all the same."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 3)).astype(np.float32)
    split = np.repeat(["train", "validation", "test"], [30, 15, 15])
    y[split == "test"] = 0  # no positive: no precision
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(60, 2, 9)).astype(np.float32), y=y, split=split)
    words = ["task=arrays", "task.kind=labels", f"task.train={tmp_path / 'own.npz'}", f"body.checkpoint={tiny['bert']}"]
    words += ["task.error={_target_:orca_cli.scoring.multilabel.MeanAveragePrecision}", "metric=none"]
    code, _, err = orca("run", *words, "train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0")
    assert code == 0, err
    (run,), (result,) = run_folders(environment), results(environment)
    passed = result["error"]["value"] is None and "undefined" in result["error"]["reason"]
    counted("undefined errors are null with a reason", passed, result["error"])
    out = orca("report", "--format", "json")[1]
    assert "NaN" not in out + (run / "result.json").read_text()
    assert "undefined" in out


@pytest.fixture
def calls(monkeypatch):
    """Count calls by what is called; those of the optimizer are counted here. No steps are timed, so that counts are right."""
    numbers, update = Counter(), torch.optim.AdamW.step

    def noted(*words, **more):
        numbers["update"] += 1
        return update(*words, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr("orca_cli.stages.expected_time.measure", lambda *words: None)
    return numbers


TRAIN = ["metric=none", "train.checkpoint_s=0"]
BY_CLASS = ["metric=otdd_by_class", "align.epochs=4", "train.epochs=1", "train.warmup_epochs=0", "train.checkpoint_s=0"]


@pytest.fixture
def whole(orca, small, tmp_path):
    """Return a function that runs without a fault, apart from the others, and returns the result record."""

    def call(*words):
        assert orca("run", *small, *words, f"paths.runs={tmp_path / 'whole'}")[0] == 0
        return results(tmp_path / "whole")[0]

    return call


FAULTS = [("loss", math.nan, 9), ("gradient", math.inf, 9), ("gradient", math.nan, 0), ("loss", math.inf, 5)]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "value", "step"), FAULTS[: count(pr=2, nightly=4)])
def test_no_step_is_taken_with_values_that_are_not_finite(
    orca, environment, small, whole, monkeypatch, calls, counted, what, value, step
):
    """G1: the loss or the gradient of one step; code 32, no update, and what was saved goes on to the same weights."""
    expected = whole(*TRAIN)
    forward = torch.nn.CrossEntropyLoss.forward
    calls.clear()

    def faulty(self, outputs, targets):
        calls["loss"] += torch.is_grad_enabled()
        now = torch.is_grad_enabled() and calls["loss"] == step + 1
        if now and what == "gradient":
            outputs.register_hook(lambda gradient: gradient * value)
        return forward(self, outputs, targets) * (value if now and what == "loss" else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.CrossEntropyLoss, "forward", faulty)
        code, _, err = orca("run", *small, *TRAIN)
    assert code == 32, err
    assert re.search(rf"the {what} is (nan|-?inf) at step \d+, with a rate of", err)
    assert (calls["loss"], calls["update"]) == (step + 1, step)  # the step itself was not taken
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert orca("run", *small, *TRAIN)[0] == 0
    (again,) = results(environment)
    counted("steps with a loss or gradient that is not finite", again["weights_sha256"] == expected["weights_sha256"])
    assert run_folders(environment) == [run]


# (what, value, step, number of the problem in it); every class of digits is one problem of a step
ALIGN_FAULTS = [("distance", math.nan, 2, 3), ("gradient", math.inf, 2, 3), ("gradient", math.nan, 0, 0)]
ALIGN_FAULTS += [("distance", math.inf, 3, 9)]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "value", "step", "problem"), ALIGN_FAULTS[: count(pr=2, nightly=4)])
def test_no_alignment_step_is_taken_with_values_that_are_not_finite(
    orca, environment, small, whole, tmp_path, monkeypatch, calls, counted, what, value, step, problem
):
    """G1 in stage 2: code 32 before the update, the checkpoint before is whole, and the run goes on from it exactly."""
    words = ["run", *small, *BY_CLASS, f"paths.cache={tmp_path / 'cold'}"]
    expected = whole(*BY_CLASS)
    distance = OTDDByClass.distance
    calls.clear()

    def faulty(self, *clouds):
        calls["distance"] += torch.is_grad_enabled()
        if not torch.is_grad_enabled() or calls["distance"] != 10 * step + problem + 1:
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
        code, _, err = orca(*words)
    assert (code, calls["fault"], calls["update"]) == (32, 1, step), err
    fault = r"a feature is NaN or infinite" if what == "distance" else "the gradient of the distance is (nan|-?inf)"
    assert re.search(rf"orca: error: align, epoch {step}: {fault}.*, with a rate of 0.01; .*align\.lr", err), err
    (run,) = run_folders(environment)
    assert not check(run).damaged
    code, _, err = orca(*words)
    assert code == 0, err
    assert step == 0 or f"align: resumed at step {step} of 4" in err
    (again,) = results(environment)
    keys = ("weights_sha256", "metric_value", "alignment", "error")
    counted(ALIGN_FIGURE, all(again[key] == expected[key] for key in keys))
    assert run_folders(environment) == [run]


@pytest.mark.slow
def test_no_distance_that_is_not_finite_is_recorded(orca, environment, small, tmp_path, monkeypatch, counted):
    """I7: the distance after the last step is measured without a gradient; NaN would stand in result.json."""
    distance, after = OTDDByClass.distance, []

    def faulty(self, *clouds):
        measured = distance(self, *clouds)
        records = [path.read_text() for path in environment.glob("*/*/2_align/metrics.jsonl")]
        if torch.is_grad_enabled() or "".join(records).count("\n") < 4:
            return measured
        after.append(measured)
        return dataclasses.replace(measured, value=measured.value * math.nan)

    with monkeypatch.context() as patch:
        patch.setattr(OTDDByClass, "distance", faulty)
        code, _, err = orca("run", *small, *BY_CLASS, f"paths.cache={tmp_path / 'cold'}")
    assert after, err
    passed = code == 32 and "orca: error: align: the distance is nan" in err and not results(environment)
    counted("distances that are not finite / kept out of results", passed, err)
