"""Whole runs on the emulated device: every stage, every metric, every family of bodies; resumed with the same bits."""

import json

import numpy as np
import pytest

from orca_cli.config import configuration
from tests.cli.conftest import curve, put_aside, run_folders
from tests.device.conftest import fail_at

METRICS = sorted(set(configuration.choices("metric")) - {"none"})


def curves(folder):
    """Return what a run recorded on its way: distances of stage 2, losses of stage 3."""
    align = curve(folder, "2_align") if (folder / "2_align" / "metrics.jsonl").exists() else []
    distances = [[line[name] for name in ("loss", "heldout", "heldout_exact")] for line in align]
    return [*distances, *([line["train_loss"]] for line in curve(folder))]


def device_of(run):
    return json.loads((run / "1_build" / "fingerprint.json").read_text())["values"]["device"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_with_every_metric_agrees_with_the_cpu(run, words, on_device, on_cpu, tmp_path, metric):
    command = [*words("swin", (1, 8, 8)), f"metric={metric}"]
    ours = run(*command).folder
    with on_cpu():
        theirs = run(*command, "--force", f"paths.cache={tmp_path / 'cold too'}").folder
    assert (device_of(ours), device_of(theirs)) == (on_device.type, "cpu")
    for line, other in zip(curves(ours), curves(theirs), strict=True):
        # The error is looked at less often than on the CPU, so that more iterations are taken.
        np.testing.assert_allclose(line, other, rtol=2e-3)


COMBINATIONS = [
    ("bert", (2, 12), "classes", ["predictor.pooling=class_token"]),
    ("bert", (2, 12), "dense", ["align.features=pooled", "embedder=overlap"]),
    ("swin", (2, 12), "labels", ["metric=moments"]),
    ("swin", (3, 10, 10), "dense", ["align.features=sequence"]),
    ("vit", (1, 8, 8), "classes", ["finetune=layernorm", "metric=mmd", "embedder=multiscale"]),
    ("bert", (2, 12), "classes", ["embedder=multiscale", "train.members=2", "metric=minibatch_ot", "metric.size=16"]),
]


@pytest.mark.parametrize(("body", "shape", "targets", "more"), COMBINATIONS)
def test_every_family_of_bodies_and_kind_of_targets(run, words, on_device, body, shape, targets, more):
    """With missing targets in what is not a class, losses are masked."""
    done = run(*words(body, shape, targets, missing=0.3 if targets != "classes" else 0.0), *more)
    assert device_of(done.folder) == on_device.type
    assert np.isfinite(done.result["error"]["value"])


@pytest.mark.parametrize(("stage", "step"), [("2_align", 3), ("3_finetune", 7)])
def test_a_resumed_run_has_the_same_bits(orca, run, environment, words, on_device, monkeypatch, tmp_path, stage, step):
    command = [*words("swin", (2, 12)), "metric=mmd", "train.checkpoint_s=0", "align.epochs=4"]
    run(*command)
    whole = put_aside(environment)
    cold = f"paths.cache={tmp_path / 'colder'}"
    with monkeypatch.context() as patch:
        fail_at(patch, step)
        assert orca("run", *command, cold)[0] != 0
    (stopped,) = run_folders(environment)
    assert list((stopped / stage / "checkpoints").glob("step-*"))
    resumed = run(*command, cold)
    assert "resumed at step" in resumed.out + resumed.err
    for key in ("weights_sha256", "error"):
        assert resumed.result[key] == whole[key], key
