"""Own data of every kind through all three stages on a tiny body: numbers a sample, rare classes, groups, gaps."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.cli.conftest import results, run_folders

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=240)
X = (SIGNAL[:, None, None] * np.ones((1, 2, 12)) + 0.3 * RNG.normal(size=(240, 2, 12))).astype(np.float32)


@pytest.fixture
def own(tiny, tmp_path):
    """Return what makes the words of a small run on arrays in a file."""

    def words(*more, **arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return (
            *("run", "task=arrays", f"task.train={tmp_path / 'own.npz'}", f"body.checkpoint={tiny['bert']}"),
            *("source.size=160", "align.epochs=3", "align.source_points=200", "align.max_samples=16"),
            *("train.epochs=10", "train.warmup_epochs=1", "train.batch_size=16", "train.lr=3e-3", *more),
        )

    return words


@pytest.mark.parametrize("units", [1.0, 1e-6])
def test_numbers_are_learned_in_any_unit_and_measured_in_their_own(orca, environment, own, units):
    code, out, err = orca(*own("task.kind=values", x=X, y=(5 + SIGNAL) * units))
    assert code == 0, err
    (result,) = results(environment)
    assert result["error"]["name"] == "RMSE"
    assert result["error"]["value"] < 0.5 * result["trivial_error"]
    assert set(result["error"]["others"]) == {"MAE", "1 - R2", "RMSE / deviation"}
    stored = np.load(run_folders(environment)[0] / "3_finetune/predictions.npz")
    difference = stored["outputs"].astype(np.float64) - stored["targets"]
    assert np.sqrt((difference**2).mean()) == pytest.approx(result["error"]["value"])
    assert "RMSE" in out


def test_another_error_and_loss_by_name_decide_what_is_reported_and_chosen_by(orca, environment, own):
    two = np.stack([SIGNAL, 1000 * SIGNAL], axis=1)
    code, _, err = orca(*own("task.kind=values", "task.error=r2", "task.loss=huber", x=X, y=two))
    assert code == 0, err
    (result,) = results(environment)
    assert (result["error"]["name"], result["error"]["n"]) == ("1 - R2", 2 * 36)
    assert result["error"]["value"] < 0.5
    assert result["trivial_error"] == pytest.approx(1, abs=0.2)


def test_a_numeric_column_of_a_table_is_predicted_as_a_number(orca, environment, own, tmp_path):
    frame = pd.DataFrame(X[:, 0, :10], columns=[f"c{i}" for i in range(10)]).assign(price=5 + SIGNAL)
    frame.to_csv(tmp_path / "own.csv", index=False)
    words = [word for word in own(x=X) if not word.startswith(("task=", "task.train"))]
    code, _, err = orca(*words, "task=table", "task.train=own.csv", "task.target=price")
    assert code == 0, err
    assert "price read as numbers to predict (task.kind=values; task.kind=classes for classes)" in err
    (result,) = results(environment)
    assert result["error"]["value"] < 0.5 * result["trivial_error"]


def test_numbers_are_predicted_from_images(orca, environment, own, tiny, tmp_path):
    (tmp_path / "photos").mkdir()
    levels = RNG.permutation(np.arange(20, 240, 3))[:60]
    for level in levels:
        noise = np.random.default_rng(int(level)).integers(-9, 9, (16, 16, 3))
        Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / f"{level}.png")
    pd.DataFrame({"file": levels, "grams": levels * 2.5}).to_csv(tmp_path / "grams.csv", index=False)
    left_out = ("task=", "task.train", "body.checkpoint")
    words = [word for word in own(x=X) if not word.startswith(left_out)]
    more = [
        "task=images",
        "task.path=photos",
        "task.table=grams.csv",
        "task.error=mae",
        f"body.checkpoint={tiny['swin']}",
    ]
    code, _, err = orca(*words, *more, "source=digits", "metric=none", "train.epochs=20", "paths.data=.")
    assert code == 0, err
    (result,) = results(environment)
    assert result["error"]["name"] == "MAE"
    assert result["error"]["value"] < 0.5 * result["trivial_error"]


def test_balanced_weights_help_a_rare_class_and_the_counts_are_printed(orca, environment, own):
    signal = np.repeat(SIGNAL, 3)
    y = (np.random.default_rng(1).normal(signal, 0.7) > 1.6).astype(int)  # rare, and never sure
    x = np.repeat(X, 3, axis=0) + 0.1 * np.random.default_rng(2).normal(size=(720, 2, 12))
    assert 0.05 < y.mean() < 0.15
    settings = ["task.kind=classes", "task.error=balanced", "task.test_fraction=0.4", "metric=none", "train.epochs=6"]
    for more in ((), ("train.class_weights=balanced",)):
        code, _, err = orca(*own(*settings, *more, x=x, y=y))
        assert code == 0, err
        assert "training samples of each class: 1 " in err
        assert ("train.class_weights=balanced weighs them alike" in err) == (not more)
    plain, weighted = (result["error"] for result in results(environment))
    assert plain["name"] == "balanced 0-1 error"
    assert weighted["value"] < plain["value"]


def test_gaps_are_filled_alike_in_training_and_in_prediction(orca, environment, own, tmp_path):
    x = X.copy()
    x[np.random.default_rng(3).random(x.shape) < 0.1] = np.nan
    split = np.repeat(["train", "val", "test"], 80)
    settings = ["task.kind=values", "task.gaps=linear", "task.gap_indicator=true", "metric=none"]
    code, _, err = orca(*own(*settings, x=x, y=SIGNAL, split=split))
    assert code == 0, err
    assert "are interpolated in time, flagged by 2 more channels (task.gaps=linear)" in err
    (result,) = results(environment)
    assert result["error"]["value"] < 0.6 * result["trivial_error"]
    (run,) = run_folders(environment)
    code, _, err = orca("predict", run, tmp_path / "own.npz", "--part", "test", "--out", tmp_path / "p.npz")
    assert code == 0, err
    stored = np.load(run / "3_finetune/predictions.npz")["outputs"]
    np.testing.assert_array_equal(np.load(tmp_path / "p.npz")["outputs"], stored)


def test_groups_are_kept_apart_and_the_rest_of_the_run_is_as_ever(orca, environment, own):
    groups = np.arange(240) // 6
    settings = ["task.kind=values", "task.group=patient", "metric=none", "train.epochs=1"]
    code, _, err = orca(*own(*settings, x=X, y=SIGNAL, patient=groups))
    assert code == 0, err
    assert "40 groups kept together" in err


def test_weights_of_the_wrong_number_are_refused_before_the_body_is_loaded(orca, environment, own):
    y = np.array(["a", "b", "c"])[np.arange(240) % 3]
    code, _, err = orca(*own("task.kind=classes", "train.class_weights=[1,2]", x=X, y=y))
    assert code == 10
    assert "train.class_weights: 2 weights, but 3 outputs; give one for each, in their order: a, b, c" in err
    status = json.loads((run_folders(environment)[0] / "status.json").read_text())
    assert status["state"] == "failed"
