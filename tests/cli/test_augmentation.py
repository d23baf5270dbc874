"""Augmentation in whole runs: seen by optimizer steps alone, and recorded."""

import numpy as np

from tests.cli.conftest import outputs

# All kinds of draws: parts that change some samples, and one that mixes a whole batch.
EVERYTHING = ["augment=series", "+augment.mixup={_target_:orca_cli.augmentation.mixup.Mixup}"]
NAMES = ["jitter", "scale", "window_slice", "time_mask", "channel_dropout", "mixup"]


def test_only_optimizer_steps_see_augmented_samples(run, small):
    """With a rate of (nearly) nothing all that differs between two runs is what is measured: the training loss alone does."""
    still = [*small, "metric=moments", "train.lr=1e-30", "train.epochs=1", "train.select=best"]
    plain, augmented = run(*still), run(*still, *EVERYTHING)
    assert plain.result["augment"] is None
    assert list(augmented.result["augment"]) == ["_target_", "probability", *NAMES]
    assert plain.result["identity"] != augmented.result["identity"]
    for key in ("validation_error", "error", "metric_value", "trivial_error", "splits"):
        assert plain.result[key] == augmented.result[key], key
    losses = {done.result["curves"]["finetune"][0]["train_loss"] for done in (plain, augmented)}
    assert len(losses) == 2
    np.testing.assert_allclose(outputs(plain.folder), outputs(augmented.folder), atol=1e-6)
