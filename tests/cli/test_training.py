"""What stages 2 and 3 train, learn and say, by the command line."""

import importlib.util

import numpy as np
import pytest
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter
from tests.cli.conftest import curve, outputs

# Layers, roles, A and B; or attention, feed-forward, two norms.
LORA = (["finetune=lora", "finetune.rank=4"], 2 * 2 * 4 * (32 + 32))
BITFIT = (["finetune=bitfit"], 2 * (4 * 32 + 48 + 32 + 2 * 32))
MODES = [
    BITFIT if importlib.util.find_spec("peft") is None else LORA,
    (["finetune=visual_prompt"], 2 * (8 + 8 - 2)),  # one channel, one pixel wide
]


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


def test_a_checkpoint_holds_what_is_trained_and_stage_2_trains_the_embedder_alone(run, small, tmp_path):
    """At a rate of nearly 0 the weights at the end are those that stage 3 started from."""
    small = [*small, "task.layout=image", "source.size=80", "embedder=patch", "train.epochs=1", "train.lr=1e-30"]
    small += ["train.weight_decay=0", "metric=moments"]

    def ended(*words):
        """Return the run, its weights, and their file; each has a cache of its own: an alignment would be shared."""
        done = run(*small, *words, f"paths.cache={tmp_path / words[0].partition('=')[2]}")
        file = done.folder / "3_finetune" / "last" / "model.safetensors"
        return done, load_file(file), file

    with compose.session() as session:
        before = build(session.compose([*small, "finetune=full"]).config, LogReporter()).model.state_dict()
    aligned = {}
    for method in ("mona", "orca"):
        done, aligned, _ = ended(f"align.method={method}", "finetune=full", "align.inner_samples=6")
        changed = {key for key in before if not same(before[key], aligned[key])}
        assert changed
        assert all(key.startswith("embedder.") for key in changed)
        if method == "mona":
            assert (done.result["alignment"]["method"], done.result["alignment"]["steps"]) == ("mona", 3)
            for line in curve(done.folder, "2_align"):
                assert line["loss"] == pytest.approx(line["target_loss"] + 0.5 * line["source_loss"])
    for words, body_parameters in MODES:
        done, tensors, file = ended(*words)
        assert all(same(aligned[key], value) for key, value in tensors.items() if key.startswith("embedder.")), words
        parameters = done.result["parameters"]
        assert parameters["trained"] == body_parameters + parameters["embedder"] + parameters["predictor"]
        assert f"trained {parameters['trained']:,}" in done.out
        inner = [value.numel() for key, value in tensors.items() if key.startswith(("body.", "border."))]
        assert sum(inner) == body_parameters
        # The rest are buffers, such as the embedder's bank, which no checkpoint of the body holds.
        rest = sum(value.nbytes for key, value in tensors.items() if not key.startswith(("body.", "border.")))
        assert file.stat().st_size < rest + 4 * body_parameters + 120 * len(tensors) + 200  # the header


def test_pare_takes_no_step_of_stage_2_and_leaves_nothing_beside_the_model(run, small):
    """What it learns besides is not among the weights; a run without it has other weights and the same names."""
    hashes, names = set(), []
    for words in (["align.method=pare"], ["metric=none"]):
        done = run(*small, *words, "train.epochs=1")
        hashes.add(done.result["weights_sha256"])
        assert done.result["alignment"]["steps"] == 0
        assert not (done.folder / "2_align" / "embedder.safetensors").exists()
        names.append(sorted(load_file(done.folder / "3_finetune" / "last" / "model.safetensors")))
    assert names[0] == names[1]
    assert len(hashes) == 2


def test_only_optimizer_steps_see_augmented_samples(run, small):
    """With a rate of (nearly) nothing all that differs between two runs is what is measured: the training loss alone does.

    Parts that change some samples, and one that mixes a whole batch.
    """
    still = [*small, "metric=moments", "train.lr=1e-30", "train.epochs=1", "train.select=best"]
    mixup = "+augment.mixup={_target_:orca_cli.models.augmentation.transforms.Mixup}"
    plain, augmented = run(*still), run(*still, "augment=series", mixup)
    assert plain.result["augment"] is None
    names = ["jitter", "scale", "window_slice", "time_mask", "channel_dropout", "mixup"]
    assert list(augmented.result["augment"]) == ["_target_", "probability", *names]
    assert plain.result["identity"] != augmented.result["identity"]
    for key in ("validation_error", "error", "metric_value", "trivial_error", "splits"):
        assert plain.result[key] == augmented.result[key], key
    losses = {done.result["curves"]["finetune"][0]["train_loss"] for done in (plain, augmented)}
    assert len(losses) == 2
    np.testing.assert_allclose(outputs(plain.folder), outputs(augmented.folder), atol=1e-6)
