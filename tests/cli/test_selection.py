"""Selection in whole runs: who is trained on, what judges, and that several models predict and are exported as one."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import orca_cli
from orca_cli import seeding
from orca_cli.data.splits import draw
from orca_cli.models.ensemble import averaged
from orca_cli.scoring.classification import ZeroOne
from orca_cli.stages.align import Trainer
from orca_cli.training.averaging import RunningMean
from tests.cli.conftest import curve, outputs, results, run_folders

N, TEST = 40, 10
QUICK = [
    "task=arrays", "task.train=train.npz", "task.test=test.npz", "source.size=160", "metric=none", "train.epochs=3",
    "train.warmup_epochs=1", "train.batch_size=8", "train.lr=1e-3", "train.eval_batch_size=8",
]  # fmt: skip
# Members of runs with these have embedders of their own, whose filters differ, and align them.
ALIGNED = [
    "metric=minibatch_ot", "metric.size=16", "align.epochs=4", "align.source_points=100", "align.max_samples=16",
    "embedder=multiscale", "embedder.filters=4", "embedder.token_filters=4",
]  # fmt: skip


def targets(kind, x, y):
    if kind == "classes":
        return np.array(["low", "mid", "high"])[y]
    if kind == "labels":
        return np.stack([y == 0, y > 0], axis=1).astype(int)
    return 50 + 7.5 * x.mean(axis=(1, 2)) if kind == "values" else (x[:, 0] > 1).astype(int)


@pytest.fixture
def run(orca, environment, tmp_path, tiny):
    """Return a function that makes a run on files of some kind: (kind, settings) -> its folder and its result."""

    def make(kind="classes", *settings, data=None):
        y = np.arange(N + TEST) % 3
        x = np.random.default_rng(0).normal(size=(N + TEST, 2, 20)) + y[:, None, None]
        x, y = (x, targets(kind, x, y)) if data is None else data
        np.savez("train.npz", x=x[:N], y=y[:N])
        np.savez("test.npz", x=x[N:], y=y[N:])
        words = [*QUICK, f"task.kind={'dense' if kind == 'class maps' else kind}", f"body.checkpoint={tiny['bert']}"]
        code, out, err = orca("run", *words, *settings)
        assert code == 0, err
        make.shown, make.err = out, err
        path = run_folders(environment)[-1]
        return path, json.loads((path / "result.json").read_text())

    return make


def test_a_small_set_chooses_nothing_and_trains_on_all_its_samples(orca, run, environment):
    path, result = run()
    assert (result["validation_error"], result["selected"]["on"], result["selected"]["by"]) == (None, "nothing", "last")
    assert result["selected"]["learned"] == N
    assert result["splits"]["train"]["n"] + result["splits"]["val"]["n"] == N
    assert "fewer than" in result["decided"]["train.select"]["why"]
    assert "trained on the validation samples too" in run.shown
    assert {folder.name for folder in (path / "3_finetune").iterdir() if folder.is_dir()} == {"last"}
    assert {line["validation_error"] for line in result["curves"]["finetune"]} == {None}
    # Each step of 8 takes a fifth of 40 samples; without a refit 34 make as many steps.
    assert result["curves"]["finetune"][-1]["step"] == 3 * 5
    assert orca("predict", path, "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))
    code, _, err = orca("predict", environment, "test.npz", "--best", "--out", "p.npz")
    assert code == 0, err
    assert "the only run" in err
    run("classes", "seed=1")
    code, out, err = orca("predict", environment, "test.npz", "--best")
    assert (code, out) == (11, "")
    assert "all 2 runs trained on their validation samples, so that no validation error compares them" in err
    assert "run them with train.folds=5 (or train.refit=false), or give one by its folder" in err
    run("classes", "train.refit=false")
    code, out, err = orca("predict", environment, "test.npz", "--best", "--out", "p.npz")
    assert code == 0, err
    assert "the lowest of 1 runs; 2 that trained on their validation samples are left out" in err


def test_a_sample_of_validation_changes_the_weights_after_a_refit_alone(run):
    y = np.arange(N + TEST) % 3
    x = np.random.default_rng(0).normal(size=(N + TEST, 2, 20))
    rows, _ = draw(N, {"test"}, {"validation": 0.15, "test": 0.15}, 0, y[:N], None, lambda: x[:N].sum((1, 2)))
    changed = x.copy()
    changed[rows["validation"][0]] += 1
    for refit in ("auto", "false"):
        settings = ["task.normalize=false", "train.select=last", f"train.refit={refit}"]
        weights = {run("classes", *settings, data=(inputs, y))[1]["weights_sha256"] for inputs in (x, changed)}
        assert len(weights) == (2 if refit == "auto" else 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("labels", ["train.folds=2", "precision=bf16"]),
        ("class maps", ["train.members=2", "train.average=0.5", "finetune=layernorm"]),
    ],
)
def test_several_models_predict_and_are_exported_with_the_bits_of_the_run(orca, run, tmp_path, kind, settings):
    path, result = run(kind, *settings)
    count = int(settings[0][-1])
    names = [f"{'fold' if 'folds' in settings[0] else 'member'}-{i}" for i in range(count)]
    assert {folder.name for folder in (path / "3_finetune").iterdir() if folder.is_dir()} == set(names)
    weights = [load_file(path / "3_finetune" / name / "model.safetensors") for name in names]
    assert len({tensors["predictor.linear.weight"].sum().item() for tensors in weights}) == count
    assert orca("predict", path, "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))
    code, _, err = orca("export", path, tmp_path / "model")
    assert code == 0, err
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) == count
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"the outputs of {count} models are averaged" in card
    shutil.move(path, tmp_path / "gone")
    assert orca("predict", tmp_path / "model", "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(tmp_path / "gone"))


def test_members_beside_the_first_draw_and_align_an_embedder_of_their_own(run):
    """With a rate of nothing each member is what it starts from: that of a run with its seed, and the same source examples."""
    still = [*ALIGNED, "train.lr=1e-30", "train.epochs=1"]
    path, _ = run("classes", *still, "train.members=2")
    for number, seed in enumerate((0, seeding.derive(0, "finetune", "member", 1) % 2**31)):
        alone, _ = run("classes", *still, "align.source_seed=0", f"seed={seed}")
        single = load_file(alone / "3_finetune" / "last" / "model.safetensors")
        member = load_file(path / "3_finetune" / f"member-{number}" / "model.safetensors")
        assert single.keys() == member.keys()
        for name, value in single.items():
            torch.testing.assert_close(member[name], value, rtol=0, atol=1e-20, msg=name)


def test_folds_judge_every_training_sample_by_the_model_that_has_not_seen_it(orca, run, environment, tmp_path):
    """Identical inputs, here pairs, are in one fold."""
    y = np.arange(N + TEST) % 3
    x = np.random.default_rng(0).normal(size=(N + TEST, 2, 20)).astype(np.float32)
    x[1:N:2] = x[0:N:2]
    data = x, targets("classes", x, y)
    path, result = run("classes", "train.folds=4", data=data)
    assert "folds: 40 samples have inputs that others have too: identical ones stay in one fold" in run.err
    rows, _ = draw(N, {"test"}, {"validation": 0.15, "test": 0.15}, 0, data[1][:N], None, lambda: np.arange(N) // 2)
    fold = np.load(path / "3_finetune" / "out_of_fold.npz")["fold"]
    row_folds = fold[np.argsort(np.concatenate([rows["train"], rows["validation"]]))]
    assert (row_folds[::2] == row_folds[1::2]).all()
    assert len(set(row_folds)) == 4
    held = np.load(path / "3_finetune" / "out_of_fold.npz")
    assert np.bincount(held["fold"]).tolist() == [10] * 4
    expected = ZeroOne()(held["outputs"], held["targets"]).value
    assert result["validation_error"] == expected
    assert (result["selected"]["on"], result["selected"]["n"]) == ("folds", N)
    lines = curve(path)
    assert [(line["member"], line["epoch"]) for line in lines] == [(i, e) for i in range(4) for e in (1, 2, 3)]
    # Each model alone, as a reader of its file would run it, gives the outputs that are averaged, and those out of its fold.
    model = orca_cli.load(path)
    members = [member.eval() for member in model.loaded.members]
    with torch.no_grad():
        x, _ = model.preprocessing.inputs(np.load("test.npz")["x"][:8])
        np.testing.assert_allclose(averaged([one(x) for one in members], "classes"), outputs(path)[:8], atol=1e-5)
    shown = f"{100 * expected:.2f} % of all {N} samples, by 4 folds"
    assert shown in " ".join(run.shown.split())
    code, _, err = orca("predict", environment, "test.npz", "--best", "--out", "p.npz")
    assert code == 0, err
    # Another run on the same samples is compared by them, whatever the number of its folds.
    run("classes", "train.folds=2", "seed=1", data=data)
    assert orca("predict", environment, "test.npz", "--best", "--out", "p.npz")[0] == 0


def test_a_run_of_several_models_is_resumed_inside_one_and_repeats_none(orca, run, environment, tiny, monkeypatch):
    settings, each = (
        ["train.folds=3", "train.average=0.4", "train.checkpoint_s=0"],
        3 * 4,
    )  # 26 or 27 samples in batches of 8
    path, whole = run("classes", *settings)
    aside = environment.parent / "aside"
    shutil.move(path, aside)
    taken, original = [], RunningMean.add  # called after each step of training
    stop = each + 10

    def stopping(mean, step):
        taken.append(step)
        if len(taken) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        original(mean, step)

    monkeypatch.setattr(RunningMean, "add", stopping)
    words = [*QUICK, "task.kind=classes", f"body.checkpoint={tiny['bert']}", *settings]
    assert orca("run", *words)[0] == 143
    (half,) = run_folders(environment)
    folders = {folder.name for folder in (half / "3_finetune").iterdir() if folder.is_dir()}
    assert folders == {"fold-0", "checkpoints"}
    finished = (half / "3_finetune" / "fold-0" / "MANIFEST.json").stat().st_mtime_ns
    taken.clear()
    code, _, err = orca("run", *words)
    assert code == 0, err
    assert f"resumed at step {stop} of {3 * each}" in err
    assert taken == [*range(11, each + 1), *range(1, each + 1)]
    assert (half / "3_finetune" / "fold-0" / "MANIFEST.json").stat().st_mtime_ns == finished
    (result,) = results(environment)
    for key in ("weights_sha256", "error", "validation_error", "selected"):
        assert result[key] == whole[key], key
    curves = [(place / "3_finetune" / "metrics.jsonl").read_text() for place in (half, aside)]
    assert curves[0] == curves[1]


def test_a_run_is_resumed_inside_the_alignment_of_a_member(orca, run, environment, tiny, tmp_path, monkeypatch):
    settings = [*ALIGNED, "train.members=2", "train.checkpoint_s=0", f"paths.cache={tmp_path / 'cache'}"]
    taken, original = [], Trainer._epoch

    def stopping(trainer):
        taken.append(trainer._step)
        if len(taken) == 4 + 3:  # the first four are of the run's own embedder
            os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    monkeypatch.setattr(Trainer, "_epoch", stopping)
    with pytest.raises(AssertionError, match="SIGTERM"):
        run("classes", *settings)
    (half,) = run_folders(environment)
    finished = (half / "3_finetune" / "member-0" / "MANIFEST.json").stat().st_mtime_ns
    _, resumed = run("classes", *settings)
    assert taken == [*range(4), 0, 1, 2, 2, 3]  # the step that was interrupted is taken again
    assert (half / "3_finetune" / "member-0" / "MANIFEST.json").stat().st_mtime_ns == finished
    assert not (half / "3_finetune" / "checkpoints").exists()
    _, whole = run("classes", *settings, "--force", f"paths.cache={tmp_path / 'other'}")
    assert len(taken) == 9 + 8
    for key in ("weights_sha256", "error", "curves", "alignment"):
        assert resumed[key] == whole[key], key


def test_the_best_epoch_by_loss_is_kept_and_averaged_weights_are_the_ones_that_validate(run):
    path, result = run("classes", "train.select=best", "train.select_by=loss", "train.epochs=6")
    lines = curve(path)
    losses = [line["validation_loss"] for line in lines]
    epoch = max(i for i, value in enumerate(losses) if value == min(losses)) + 1
    assert result["selected"]["epoch"] == epoch
    assert (result["selected"]["rule"], result["validation_error"]) == ("loss", lines[epoch - 1]["validation_error"])
    plain, averaged_ = (
        run("classes", "train.select=last", "train.refit=false", *more)[1]["curves"]["finetune"]
        for more in ([], ["train.average=0.3"])
    )
    # Of 15 steps the last 4 are averaged: the first two epochs are as without, the third is not.
    assert [line["validation_loss"] for line in plain[:2]] == [line["validation_loss"] for line in averaged_[:2]]
    assert plain[2]["validation_loss"] != averaged_[2]["validation_loss"]
    assert plain[2]["train_loss"] == averaged_[2]["train_loss"]
