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
from orca_cli.runs.integrity import check
from tests.cli.conftest import results, run_folders
from tests.metrics.generators import distance
from tests.tiers import count

METRICS = sorted(set(choices("metric")) - {"none"})


def points(n: int, d: int = 4, scale: float = 1, seed: int = 0, shift: float = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def cloud(x: torch.Tensor, classes: int = 2, used: int | None = None) -> Features:
    return Features(x, torch.arange(len(x)) % (used or min(classes, len(x))), classes)


LONELY = torch.tensor([0, 0, 0, 0, 0, 1])
# name -> (source, target); what a task can hand to a metric without being wrong
DEGENERATE = {
    "one_source_point": (points(1), points(6, seed=1)),
    "one_target_point": (points(6), points(1, seed=1)),
    "one_dimension": (points(6, 1), points(5, 1, seed=1)),
    "all_points_equal": (torch.ones(6, 4), torch.ones(5, 4)),
    "identical_clouds": (points(6), points(6)),
    "huge_against_tiny": (points(6, scale=1e20), points(5, scale=1e-20, seed=1)),
    "empty_class": (cloud(points(6), classes=4, used=2), cloud(points(5, seed=1), classes=5, used=3)),
    "one_class": (cloud(points(6), classes=1), cloud(points(5, seed=1), classes=1)),
    "a_class_of_one_point": (Features(points(6), LONELY, 2), Features(points(5, seed=1), LONELY[1:], 2)),
    "more_dimensions_than_points": (points(4, 50), points(3, 50, seed=1)),
    "far_from_the_origin": (points(6, shift=1e6), points(5, shift=1e6, seed=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("metric", METRICS)
def test_degenerate_clouds(metric, name, counted):
    """G2: a finite distance with a finite gradient, or an error of the program's own."""
    clouds = [value if isinstance(value, Features) else cloud(value) for value in DEGENERATE[name]]
    source, target = (
        clouds[0],
        dataclasses.replace(clouds[1], x=clouds[1].x.clone().requires_grad_()),
    )
    built = parts.build(yaml.safe_load(choices("metric")[metric].read_text()), "metric")
    passed = True
    try:
        value = distance(built, source, target).value
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
    np.savez(
        tmp_path / "own.npz", x=rng.normal(size=(60, 2, 9)).astype(np.float32), y=y, split=split
    )
    words = [
        "task=arrays",
        "task.kind=labels",
        f"task.train={tmp_path / 'own.npz'}",
        f"body.checkpoint={tiny['bert']}",
    ]
    words += [
        "task.error={_target_:orca_cli.scoring.multilabel.MeanAveragePrecision}",
        "metric=none",
    ]
    code, _, err = orca(
        "run", *words, "train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0"
    )
    assert code == 0, err
    (run,), (result,) = run_folders(environment), results(environment)
    passed = result["error"]["value"] is None and "undefined" in result["error"]["reason"]
    counted("undefined errors are null with a reason", passed, result["error"])
    out = orca("report", "--format", "json")[1]
    assert "NaN" not in out + (run / "result.json").read_text()
    assert "undefined" in out


BY_CLASS = [
    "metric=otdd_by_class",
    "align.epochs=4",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.checkpoint_s=0",
]
WORDS = {"finetune": ["metric=none", "train.checkpoint_s=0"], "align": BY_CLASS}
FIGURES = {"finetune": "steps with a loss or gradient that is not finite",
           "align": "alignment steps with a distance or gradient not finite"}  # fmt: skip
# (stage, what, value, step, call in it: every class of digits is one distance of a step of alignment)
FAULTS = [("finetune", "loss", math.nan, 9, 0), ("finetune", "gradient", math.inf, 9, 0)]
FAULTS += [("align", "distance", math.nan, 2, 3), ("align", "gradient", math.inf, 2, 3)]
FAULTS += [("finetune", "gradient", math.nan, 0, 0), ("align", "gradient", math.nan, 0, 0)][
    : count(pr=0, nightly=2)
]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "what", "value", "step", "place"), FAULTS)
def test_no_step_is_taken_with_values_that_are_not_finite(
    orca, environment, small, tmp_path, monkeypatch, counted, stage, what, value, step, place
):
    """G1: code 32 before the update, the checkpoint before is whole, and the run goes on from it exactly."""
    assert orca("run", *small, *WORDS[stage], f"paths.runs={tmp_path / 'whole'}")[0] == 0
    words = ["run", *small, *WORDS[stage], f"paths.cache={tmp_path / 'cold'}"]
    loss, distance, update = (
        torch.nn.CrossEntropyLoss.forward,
        OTDDByClass.distance,
        torch.optim.AdamW.step,
    )
    calls = Counter()

    def is_now(in_a_step, before=0):
        calls["all"] += torch.is_grad_enabled()
        number = before + in_a_step * step + place + 1
        now = torch.is_grad_enabled() and calls["all"] == number
        calls["fault"] += now
        return now

    def faulty_loss(self, outputs, targets):
        now = is_now(1, before=1)  # a call before training checks that it is a loss
        if now and what == "gradient":
            outputs.register_hook(lambda gradient: gradient * value)
        return loss(self, outputs, targets) * (value if now and what == "loss" else 1.0)

    def faulty_distance(self, *clouds):
        now = is_now(10)
        if now and what == "distance":
            clouds = (*clouds[:-1], dataclasses.replace(clouds[-1], x=clouds[-1].x * value))
        measured = distance(self, *clouds)
        if now and what == "gradient":
            measured.value.register_hook(lambda gradient: gradient * value)
        return measured

    def counted_update(*words, **more):
        calls["update"] += 1
        return update(*words, **more)

    monkeypatch.setattr(
        "orca_cli.stages.expected_time.time_steps", lambda *words: None
    )  # its steps would be counted
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted_update)
        if stage == "finetune":
            patch.setattr(torch.nn.CrossEntropyLoss, "forward", faulty_loss)
        else:
            patch.setattr(OTDDByClass, "distance", faulty_distance)
        code, _, err = orca(*words)
    assert (code, calls["fault"], calls["update"]) == (32, 1, step), (
        err
    )  # the step itself was not taken
    where = f"the {what} is" if stage == "finetune" else f"align, epoch {step}: "
    assert re.search(rf"orca: error: .*{where}.*(nan|inf).*, with a learning rate of", err), err
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert not check(run).damaged
    code, _, err = orca(*words)
    assert code == 0, err
    assert step == 0 or f"{stage}: resumed at step {step}" in err
    (again,), (whole,) = results(environment), results(tmp_path / "whole")
    keys = ("weights_sha256", "metric_value", "alignment", "error")
    counted(FIGURES[stage], all(again.get(key) == whole.get(key) for key in keys))
    assert run_folders(environment) == [run]


@pytest.mark.slow
def test_no_distance_that_is_not_finite_is_recorded(
    orca, environment, small, tmp_path, monkeypatch, counted
):
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
    passed = (
        code == 32 and "orca: error: align: the distance is nan" in err and not results(environment)
    )
    counted("distances that are not finite / kept out of results", passed, err)
