"""Augmentation in whole runs: the same bits when resumed, seen by optimizer steps alone, recorded, refused where wrong."""

import signal

import numpy as np
import pytest

from tests.cli.conftest import results, run_folders
from tests.cli.test_resume import OFTEN
from tests.cli.test_run import wait_for

# All kinds of draws: parts that change some samples, and one that mixes a whole batch.
NAMES = ["jitter", "scale", "window_slice", "time_mask", "channel_dropout"]
EVERYTHING = ["augment=series", "+augment.mixup={_target_:orca_cli.augmentation.mixup.Mixup}"]


def test_a_run_that_was_killed_goes_on_with_the_same_augmentation(orca, fork, environment, small):
    words = ["run", *small, *OFTEN, "metric=none", *EVERYTHING]
    assert orca(*words)[0] == 0
    (whole,) = results(environment)
    for run in run_folders(environment):
        run.rename(environment / f"aside-{run.name}")
    process = fork(*words)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000005", process)
    process.send(signal.SIGKILL)
    process.wait()
    code, _, err = orca(*words)
    assert code == 0, err
    assert "resumed at step" in err
    (result,) = results(environment)
    for key in ("weights_sha256", "error", "validation_error", "curves"):
        assert result[key] == whole[key], key
    assert list(result["augment"]) == ["_target_", "probability", *NAMES, "mixup"]


def test_only_optimizer_steps_see_augmented_samples(orca, environment, small):
    """With a rate of (nearly) nothing all that differs between two runs is what is measured: the training loss alone does."""
    still = ["run", *small, "metric=moments", "train.lr=1e-30", "train.epochs=1", "train.select=best"]
    assert orca(*still)[0] == 0
    assert orca(*still, *EVERYTHING)[0] == 0
    plain, augmented = results(environment)
    assert (plain["augment"], augmented["augment"] is None) == (None, False)
    assert plain["identity"] != augmented["identity"]
    for key in ("validation_error", "error", "metric_value", "trivial_error", "splits"):
        assert plain[key] == augmented[key], key
    lines = [result["curves"]["finetune"][0]["train_loss"] for result in (plain, augmented)]
    assert lines[0] != lines[1]
    first, second = (np.load(run / "3_finetune" / "predictions.npz")["outputs"] for run in run_folders(environment))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_the_settings_of_a_part_are_checked_and_make_another_run(orca, small):
    code, _, err = orca("run", *small, "augment=jitter", "augment.strength=0")
    assert code == 10
    assert "augment.strength: 0 is out of range; allowed: float above 0" in err
    code, _, err = orca("run", *small, "augment=series", "augment.jitter.strength=-1")
    assert code == 10
    assert "augment.jitter.strength" in err
    code, _, err = orca("run", *small, "augment=jiter")
    assert code == 10
    assert "jitter" in err


def test_a_preset_without_one_of_its_parts_is_typed(orca, environment, small):
    assert orca("run", *small, "metric=none", "train.epochs=1", "augment=series", "augment.scale=null")[0] == 0
    (result,) = results(environment)
    assert result["augment"]["scale"] is None
    assert result["variant"]["augment"] == "series"


@pytest.mark.parametrize("name", ["mixup", "series"])
def test_what_makes_dense_targets_wrong_is_refused_before_the_data_are_read(orca, name):
    code, out, err = orca("run", "task=arrays", "task.kind=dense", "task.train=absent.npz", f"augment={name}")
    assert (code, out) == (10, "")
    assert "augment: does not apply to task.kind=dense" in err
    assert len(err.strip().splitlines()) == 1


def test_a_kind_that_the_data_decide_is_refused_once_it_is_known(orca, environment, tmp_path, tiny):
    x = np.random.default_rng(0).normal(size=(30, 2, 12))
    np.savez(tmp_path / "own.npz", x=x, y=x[:, :1])
    words = ["task=arrays", "task.kind=dense", "task.train=own.npz", f"body.checkpoint={tiny['bert']}"]
    assert orca("run", *words, "augment=jitter", "--dry-run")[0] == 0
    code, _, err = orca("run", *words, "augment=flip", "--dry-run")
    assert code == 10
    assert "augment: is for images and volumes, and inputs are series" in err
