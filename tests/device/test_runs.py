"""Whole runs on the emulated device: every stage, every metric, every family of bodies; resumed with the same bits."""

import json

import numpy as np
import pytest

from orca_cli import configuration
from tests.cli.conftest import results, run_folders
from tests.device.conftest import fail_at

METRICS = sorted(set(configuration.choices("metric")) - {"none"})


def curves(run):
    """Return what a run recorded on its way: distances of stage 2, losses and errors of stage 3."""
    found = []
    for stage, names in (("2_align", ("loss", "heldout", "heldout_exact")), ("3_finetune", ("train_loss",))):
        path = run / stage / "metrics.jsonl"
        read = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found += [[line[name] for name in names] for line in read]
    return found


def device_of(run):
    return json.loads((run / "1_build" / "fingerprint.json").read_text())["values"]["device"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_with_every_metric_agrees_with_the_cpu(orca, environment, words, on_device, on_cpu, tmp_path, metric):
    command = [*words("swin", (1, 8, 8)), f"metric={metric}"]
    code, _, err = orca(*command)
    assert code == 0, err
    with on_cpu():
        code, _, err = orca(*command, "--force", f"paths.cache={tmp_path / 'cold too'}")
    assert code == 0, err
    ours, theirs = run_folders(environment)
    assert (device_of(ours), device_of(theirs)) == (on_device.type, "cpu")
    for mine, other in zip(curves(ours), curves(theirs), strict=True):
        # The error is looked at less often than on the CPU, so that more iterations are taken.
        np.testing.assert_allclose(mine, other, rtol=2e-3)


@pytest.mark.parametrize(
    ("body", "shape", "targets", "more"),
    [
        ("bert", (2, 12), "classes", ["predictor.pooling=class_token"]),
        ("bert", (2, 12), "dense", ["align.features=pooled", "embedder=overlap"]),
        (
            "swin",
            (2, 12),
            "labels",
            ["metric=moments", "align.select=validation", "align.candidates=[0]", "align.probe_epochs=1"],
        ),
        ("swin", (3, 10, 10), "dense", ["align.features=sequence", "align.dtype=float64"]),
        ("vit", (1, 8, 8), "classes", ["finetune=layernorm", "metric=mmd", "embedder=multiscale"]),
        (
            "bert",
            (2, 12),
            "classes",
            ["embedder=multiscale", "train.members=2", "metric=minibatch_ot", "metric.size=16"],
        ),
    ],
)
def test_every_family_of_bodies_and_kind_of_targets(orca, environment, words, on_device, body, shape, targets, more):
    """With missing targets in what is not a class, losses are masked."""
    code, _, err = orca(*words(body, shape, targets, missing=0.3 if targets != "classes" else 0.0), *more)
    assert code == 0, err
    (run,) = run_folders(environment)
    assert device_of(run) == on_device.type
    assert np.isfinite(results(environment)[0]["error"]["value"])


@pytest.mark.parametrize(("stage", "step"), [("2_align", 3), ("3_finetune", 7)])
def test_a_resumed_run_has_the_same_bits(orca, environment, words, on_device, monkeypatch, tmp_path, stage, step):
    command = [*words("swin", (2, 12)), "metric=mmd", "train.checkpoint_s=0", "align.epochs=4"]
    code, _, err = orca(*command)
    assert code == 0, err
    (straight,) = run_folders(environment)
    (result,) = results(environment)
    straight.rename(environment / "aside")
    cold = f"paths.cache={tmp_path / 'colder'}"
    with monkeypatch.context() as patch:
        fail_at(patch, step)
        code, _, _ = orca(*command, cold)
    assert code != 0
    (stopped,) = run_folders(environment)
    assert list((stopped / stage / "checkpoints").glob("step-*"))
    code, out, err = orca(*command, cold)
    assert code == 0, err
    assert "resumed at step" in out + err
    (resumed,) = results(environment)
    assert resumed["weights_sha256"] == result["weights_sha256"]
    assert resumed["error"] == result["error"]
