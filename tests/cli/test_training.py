"""What stage 3 learns and says, by the command line."""

import json

import numpy as np

from orca_cli.training import engine
from tests.checkpoints import save_tiny_bert
from tests.cli.conftest import curve, outputs
from tests.scaled import break_loss


def test_a_warmup_longer_than_training_is_shortened_with_a_warning(run, small):
    words = [*small, "metric=none", "train.epochs=2", "train.warmup_epochs=5"]
    done = run(*words)
    assert "warm-up shortened from 5 to 1 of 2 epochs (train.warmup_limit=0.5)" in done.err
    assert done.result["training"]["warmup_epochs"] == 1
    assert json.loads((done.folder / "1_build" / "summary.json").read_text())["warmup_epochs"] == 1
    lines = curve(done.folder)
    assert lines[-1]["lr"] < lines[0]["lr"]


def test_what_auto_comes_to_is_recorded_and_another_is_noticed_on_resume(
    orca, run, refused, small, tmp_path, monkeypatch
):
    words = [*small, f"body.checkpoint={save_tiny_bert(tmp_path / 'wide', hidden_size=64)}", "metric=none"]
    words += ["train.checkpoint_s=0"]
    monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda: True)
    with monkeypatch.context() as broken:
        break_loss(broken, 6)
        assert orca("run", *words)[0] != 0
    monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda: False)
    refused(22, ["run", *words], "precision (bf16, now fp32)")
    hashes = set()
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda has=has: has)
        done = run(*words, "--force")
        assert done.result["training"]["precision"] == precision
        assert json.loads((done.folder / "1_build" / "summary.json").read_text())["precision"] == precision
        hashes.add(done.result["weights_sha256"])
    assert len(hashes) == 2
    assert run(*words, "--force", "protocol=release", "body=bert").result["training"]["precision"] == "fp32"


# All kinds of draws: parts that change some samples, and one that mixes a whole batch.
EVERYTHING = ["augment=series", "+augment.mixup={_target_:orca_cli.models.augmentation.mixup.Mixup}"]
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
