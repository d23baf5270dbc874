"""Selection in whole runs: training samples, validation samples, and several models that predict as one."""

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
from orca_cli.data.assemble import Pool, draw
from orca_cli.metrics.otdd import OTDD
from orca_cli.models.transfer import averaged
from orca_cli.scoring.classification import ZeroOne
from orca_cli.stages.optimizer_steps import OptimizerSteps
from tests.cli.conftest import outputs, run_folders

N, TEST = 40, 10
Y = np.arange(N + TEST) % 3
NOISE = np.random.default_rng(0).normal(size=(N + TEST, 2, 20))
QUICK = [
    "task=arrays", "task.train=train.npz", "task.test=test.npz", "source.size=160", "metric=none", "train.epochs=3",
    "train.warmup_epochs=1", "train.batch_size=8", "train.lr=1e-3", "train.eval_batch_size=8",
]  # fmt: skip
# Members of runs with these settings have separate embedders, whose filters differ, and align them.
ALIGNED = [
    "metric=minibatch_ot", "metric.size=16", "align.epochs=4", "align.source_points=100", "align.max_samples=16",
    "embedder=multiscale", "embedder.filters=4", "embedder.token_filters=4",
]  # fmt: skip


@pytest.fixture
def run(orca, environment, tmp_path, tiny):
    """Return a function that makes a run: (kind, settings) -> its folder and its result."""

    def make(kind="classes", *settings, data=None):
        x, y = data or (NOISE + Y[:, None, None], np.array(["low", "mid", "high"])[Y])
        np.savez("train.npz", x=x[:N], y=y[:N])
        np.savez("test.npz", x=x[N:], y=y[N:])
        words = [*QUICK, f"task.kind={kind}", f"body.checkpoint={tiny['bert']}"]
        code, _, err = orca("run", *words, *settings)
        assert code == 0, err
        make.err = err
        path = run_folders(environment)[-1]
        return path, json.loads((path / "result.json").read_text())

    return make


def drawn_rows(contents):
    """Return the rows of each split; `contents` returns hashes of the inputs of rows."""
    pool = Pool(
        unit="",
        where="",
        rows={"train": np.arange(N)},
        supplied={"test"},
        classes=Y[:N],
        groups=None,
        contents=contents,
    )
    rows, _ = draw(pool, (0.15, 0.15), 0)
    return rows


def test_a_small_set_chooses_nothing_and_trains_on_all(orca, run):
    path, result = run("classes", "train.folds=0")
    assert result["validation_error"] is None
    assert (result["selected"]["on"], result["selected"]["by"]) == ("nothing", "last")
    assert result["selected"]["learned"] == N
    assert result["splits"]["train"]["n"] + result["splits"]["val"]["n"] == N
    assert [folder.name for folder in (path / "3_finetune").iterdir() if folder.is_dir()] == [
        "last"
    ]
    # Each step of 8 takes a fifth of 40 samples; without a refit 34 make as many steps.
    assert result["curves"]["finetune"][-1]["step"] == 3 * 5
    assert orca("predict", path, "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))


def test_validation_changes_no_weight_without_a_refit(run):
    rows = drawn_rows(NOISE[:N].sum((1, 2)).take)
    changed = NOISE.copy()
    changed[rows["validation"][0]] += 1
    settings = ["task.normalize=false", "train.select=last", "train.refit=false"]
    weights = {
        run("classes", *settings, data=(x, Y))[1]["weights_sha256"] for x in (NOISE, changed)
    }
    assert len(weights) == 1


def test_several_models_predict_with_the_bits_of_the_run(orca, run, tmp_path):
    """So does their export."""
    maps = NOISE, (NOISE[:, 0] > 0).astype(int)
    path, _ = run("dense", "train.members=2", "finetune=layernorm", "precision=bf16", data=maps)
    names = ["member-0", "member-1"]
    assert {folder.name for folder in (path / "3_finetune").iterdir() if folder.is_dir()} == set(
        names
    )
    weights = [load_file(path / "3_finetune" / name / "model.safetensors") for name in names]
    assert len({tensors["predictor.linear.weight"].sum().item() for tensors in weights}) == 2
    assert orca("predict", path, "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))
    code, _, err = orca("export", path, tmp_path / "model")
    assert code == 0, err
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) == 2
    shutil.move(path, tmp_path / "gone")
    assert orca("predict", tmp_path / "model", "test.npz", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(tmp_path / "gone"))


def test_members_draw_and_align_an_embedder_of_their_own(run):
    """With a learning rate of 0, each member stays as it starts.

    It starts like a run with its seed and the same source examples.
    """
    still = [*ALIGNED, "predictor.init=random", "train.lr=1e-30", "train.epochs=1", "train.folds=0"]
    path, _ = run("classes", *still, "train.members=2")
    for number, seed in enumerate((0, seeding.derive(0, "finetune", "member", 1) % 2**31)):
        alone, _ = run("classes", *still, "align.source_seed=0", f"seed={seed}")
        single = load_file(alone / "3_finetune" / "last" / "model.safetensors")
        member = load_file(path / "3_finetune" / f"member-{number}" / "model.safetensors")
        assert single.keys() == member.keys()
        for name, value in single.items():
            torch.testing.assert_close(member[name], value, rtol=0, atol=1e-20, msg=name)


def test_folds_judge_a_sample_by_the_model_that_has_not_seen_it(run):
    """Identical inputs (pairs in this test) are in the same fold."""
    x = NOISE.astype(np.float32)
    x[1:N:2] = x[0:N:2]
    path, result = run("classes", "train.folds=4", data=(x, Y))
    assert "folds: 40 samples have the same inputs as another sample" in run.err
    rows = drawn_rows(lambda rows: rows // 2)
    saved = np.load(path / "3_finetune" / "out_of_fold.npz")
    row_folds = saved["fold"][np.argsort(np.concatenate([rows["train"], rows["validation"]]))]
    assert (row_folds[::2] == row_folds[1::2]).all()
    assert np.bincount(saved["fold"]).tolist() == [10] * 4
    assert result["validation_error"] == ZeroOne()(saved["outputs"], saved["targets"]).value
    assert (result["selected"]["on"], result["selected"]["n"]) == ("folds", N)
    # Each model alone, read from its file, gives the outputs that are averaged, and its outputs out
    # of fold.
    model = orca_cli.load(path)
    members = [member.eval() for member in model.loaded.members]
    with torch.no_grad():
        x = torch.from_numpy(model.preprocessing.inputs(np.load("test.npz")["x"][:8])[0])
        np.testing.assert_allclose(
            averaged([member(x) for member in members], "classes"), outputs(path)[:8], atol=1e-5
        )


def test_the_labels_of_a_fold_do_not_reach_the_model_that_it_judges(run):
    """Neither by training nor by alignment, which reads labels as well."""
    settings = [*ALIGNED, "train.folds=2"]
    # Each sample has a different target, and sums of targets are exact in any order.
    y = np.arange(N + TEST) / 64
    path, _ = run("values", *settings, data=(NOISE, y))
    saved = np.load(path / "3_finetune" / "out_of_fold.npz")
    rows = (64 * saved["targets"][saved["fold"] == 0, 0]).astype(int)
    swapped = y.copy()
    swapped[[rows.min(), rows.max()]] = y[[rows.max(), rows.min()]]
    other, _ = run("values", *settings, data=(NOISE, swapped))
    is_equal = []
    for fold in ("fold-0", "fold-1"):
        before, after = (
            load_file(folder / "3_finetune" / fold / "model.safetensors")
            for folder in (path, other)
        )
        is_equal.append(all(torch.equal(before[name], after[name]) for name in before))
    assert is_equal == [True, False]


@pytest.mark.slow
def test_a_run_of_several_models_is_resumed_inside_one(run, environment, tmp_path, monkeypatch):
    """A step of training, and a comparison near the end of the alignment of the second member."""
    taken, stops = {"step": 0, "compared": 0}, {}
    for name, owner, method in (("step", OptimizerSteps, "take"), ("compared", OTDD, "distance")):
        plain = getattr(owner, method)

        def counted(*words, name=name, original=plain):
            taken[name] += 1
            if taken[name] == stops.get(name):
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*words)

        monkeypatch.setattr(owner, method, counted)
    settings = [*ALIGNED, "train.members=2", "train.checkpoint_s=0"]
    path, whole = run("classes", *settings, f"paths.cache={tmp_path / 'first'}")
    shutil.move(path, tmp_path / "aside")
    each, compared = taken["step"] // 2, taken["compared"]
    stops = {"compared": compared - 3, "step": each + 5}
    finished = []
    for name in ("compared", "step"):
        taken[name] = 0 if name == "compared" else each
        with pytest.raises(AssertionError, match="SIGTERM"):
            run("classes", *settings, f"paths.cache={tmp_path / 'second'}")
        (half,) = run_folders(environment)
        assert not (half / "3_finetune" / "member-1").exists()
        finished.append((half / "3_finetune" / "member-0" / "MANIFEST.json").stat().st_mtime_ns)
    _, resumed = run("classes", *settings, f"paths.cache={tmp_path / 'second'}")
    finished.append((half / "3_finetune" / "member-0" / "MANIFEST.json").stat().st_mtime_ns)
    assert len(set(finished)) == 1
    assert f"resumed at step {each + 5} of {2 * each}" in run.err
    assert taken["step"] == 2 * each
    for key in ("weights_sha256", "error", "curves", "selected", "alignment"):
        assert resumed[key] == whole[key], key
