"""Whole runs on the emulated device: every stage, every family of bodies; resumed with the same bits; predicted on both."""

import itertools
import json

import numpy as np
import pytest
import torch

import orca_cli
from orca_cli.prediction import network_outputs
from orca_cli.stages import expected_time
from orca_cli.training import engine
from tests.cli.conftest import curve, outputs, put_aside, run_folders


def curves(folder):
    distances = [
        [line[name] for name in ("loss", "heldout", "heldout_exact")]
        for line in curve(folder, "2_align")
    ]
    return [*distances, *([line["train_loss"]] for line in curve(folder))]


def device_of(run):
    return json.loads((run / "1_build" / "fingerprint.json").read_text())["values"]["device"]


def fail_at(patch, number):
    """Let optimizer step `number` of a run fail (timing steps not counted); a lower rate does not help."""
    patch.setattr(expected_time, "time_steps", lambda *words: None)
    calls, step = itertools.count(1), torch.optim.AdamW.step

    def broken(*words, **settings):
        if next(calls) == number:
            raise RuntimeError("test")
        return step(*words, **settings)

    patch.setattr(torch.optim.AdamW, "step", broken)


def test_a_run_agrees_with_the_cpu_and_predicts_on_both(
    run, orca, words, on_device, monkeypatch, tmp_path
):
    """What was trained there has the same bits there again; an export is made for both."""
    command = [*words("swin", (1, 8, 8)), "align.epochs=1", "train.epochs=1"]
    ours = run(*command).folder
    with monkeypatch.context() as patch:
        patch.setattr(engine, "choose_device", lambda setting: torch.device("cpu"))
        theirs = run(*command, "--force", f"paths.cache={tmp_path / 'cold too'}").folder
    assert (device_of(ours), device_of(theirs)) == (on_device.type, "cpu")
    for line, other in zip(curves(ours), curves(theirs), strict=True):
        np.testing.assert_allclose(line, other, rtol=2e-3)

    x, expected = np.load(tmp_path / "arrays.npz")["x"], outputs(ours)
    with monkeypatch.context() as patch:
        patch.setattr(network_outputs, "choose_device", lambda setting: on_device)
        there = orca_cli.load(ours)
        predicted = there.outputs(x)
        assert next(there.loaded.model.parameters()).device == on_device
        code, _, err = orca("export", ours, tmp_path / "model")
        assert code == 0, err
    rows = [any(np.allclose(one, other, atol=1e-6) for other in predicted) for one in expected]
    assert all(rows), "the test split is among the samples"
    here = orca_cli.load(ours, device="cpu").outputs(x)
    np.testing.assert_allclose(here, predicted, rtol=1e-4, atol=1e-4 * np.abs(predicted).max())
    assert np.array_equal(orca_cli.load(tmp_path / "model", device="cpu").outputs(x), here)


COMBINATIONS = [
    (
        "bert",
        (2, 12),
        "dense",
        ["align.features=pooled", "embedder=overlap", "metric=minibatch_ot", "metric.size=16"],
    ),
    ("vit", (1, 8, 8), "labels", ["finetune=layernorm", "metric=mmd", "embedder=multiscale", "train.members=2"]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shape", "targets", "more"), COMBINATIONS)
def test_every_family_of_bodies_and_kind_of_targets(
    run, words, on_device, body, shape, targets, more
):
    """With missing targets, so that losses are masked."""
    done = run(*words(body, shape, targets, missing=0.3), *more, "train.epochs=1", "align.epochs=1")
    assert device_of(done.folder) == on_device.type
    assert np.isfinite(done.result["error"]["value"])


@pytest.mark.slow
def test_a_run_resumed_in_both_stages_has_the_same_bits(
    orca, run, environment, words, on_device, monkeypatch, tmp_path
):
    command = [*words("bert", (2, 12)), "metric=mmd", "train.checkpoint_s=0", "align.epochs=4"]
    run(*command)
    whole = put_aside(environment)
    cold = f"paths.cache={tmp_path / 'colder'}"
    for stage, step in (("2_align", 3), ("3_finetune", 6)):
        with monkeypatch.context() as patch:
            fail_at(patch, step)
            assert orca("run", *command, cold)[0] != 0
        (stopped,) = run_folders(environment)
        assert list((stopped / stage / "checkpoints").glob("step-*"))
    resumed = run(*command, cold)
    assert "resumed at step" in resumed.out + resumed.err
    for key in ("weights_sha256", "error"):
        assert resumed.result[key] == whole[key], key
