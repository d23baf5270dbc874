"""Whole runs on the emulated device: every stage, every metric, every family of bodies; resumed with the same bits."""

import itertools
import json

import numpy as np
import pytest
import torch

from orca_cli import configuration
from orca_cli.exceptions import NonFiniteError
from tests.cli.conftest import results, run_folders

METRICS = sorted(set(configuration.choices("metric")) - {"none"})
RUN = [
    "source.size=120", "align.epochs=2", "align.source_points=60", "align.max_samples=6", "align.check_every=1",
    "align.classes_per_problem=0", "align.select=last", "train.epochs=2", "train.warmup_epochs=0", "train.batch_size=4",
    "train.accumulation=2", "train.clip=0.5", "train.lr=1e-3",
]  # fmt: skip


def _arrays(path, shape, targets, missing=0.0):
    """Write 40 samples; targets are classes, labels [n, 3], or a map of the input's extent."""
    draw = np.random.default_rng(0)
    classes = np.arange(40) % 2
    x = draw.normal(size=(40, *shape)).astype(np.float32) + classes.reshape(-1, *[1] * len(shape))
    if targets == "classes":
        y = classes
    elif targets == "labels":
        y = (draw.random((40, 3)) < 0.4).astype(np.float32)
    else:
        y = x.mean(1) * 3 + 1
    if missing:
        y[draw.random(y.shape) < missing] = np.nan
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def words(tiny, tmp_path):
    """Return a function that gives the command of a small run on arrays; computed features are not found in a cache."""

    def command(body="bert", shape=(2, 12), targets="classes", *, missing=0.0):
        file = _arrays(tmp_path / "arrays.npz", shape, targets, missing)
        group = {"bert": "minilm", "swin": "swin_tiny"}.get(body, body)
        source = "stdlib_docs" if body == "bert" else "digits"
        return [
            "run", "task=arrays", f"task.kind={targets}", f"task.train={file}", f"body={group}",
            f"body.checkpoint={tiny[body]}", f"source={source}", f"task.missing_targets={str(missing > 0).lower()}",
            f"paths.cache={tmp_path / 'cold'}", *RUN,
        ]  # fmt: skip

    return command


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
        ("swin", (2, 12), "labels", ["align.select=validation", "align.candidates=[0]", "align.probe_epochs=1"]),
        ("swin", (3, 10, 10), "dense", ["align.features=sequence", "align.dtype=float64"]),
        ("vit", (1, 8, 8), "classes", ["finetune=layernorm"]),
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
        patch.setattr(torch.optim.AdamW, "step", failing_at(torch.optim.AdamW.step, step))
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


def failing_at(step, number):
    """Return an optimizer's step of which call `number` fails."""
    calls = itertools.count(1)

    def broken(*words, **settings):
        if next(calls) == number:
            raise NonFiniteError("nan", where="test")
        return step(*words, **settings)

    return broken
