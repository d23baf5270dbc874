"""What stages 2 and 3 train, learn and say, by the command line."""

import numpy as np
import pytest
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter
from tests.cli.conftest import curve, outputs


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


def test_a_checkpoint_holds_what_is_trained_and_stage_2_trains_the_embedder_alone(run, small, tmp_path):
    """At a rate of nearly 0 the weights at the end are those that stage 3 started from."""
    small = [*small, "task.layout=image", "source.size=80", "embedder=patch", "train.epochs=1", "train.lr=1e-30"]
    small += ["train.weight_decay=0", "metric=moments"]

    def ended(*words):
        """Return the run and its weights; each has a cache of its own: an alignment would be shared."""
        done = run(*small, *words, f"paths.cache={tmp_path / words[0].partition('=')[2]}")
        return done, load_file(done.folder / "3_finetune" / "last" / "model.safetensors")

    with compose.session() as session:
        before = build(session.compose([*small, "finetune=full"]).config, LogReporter()).model.state_dict()
    for method in ("mona", "orca"):
        done, aligned = ended(f"align.method={method}", "finetune=full", "align.inner_samples=6")
        changed = {key for key in before if not same(before[key], aligned[key])}
        assert changed
        assert all(key.startswith("embedder.") for key in changed)
        if method == "mona":
            assert (done.result["alignment"]["method"], done.result["alignment"]["steps"]) == ("mona", 3)
            for line in curve(done.folder, "2_align"):
                assert line["loss"] == pytest.approx(line["target_loss"] + 0.5 * line["source_loss"])
    done, tensors = ended("finetune=bitfit")
    assert all(same(aligned[key], value) for key, value in tensors.items() if key.startswith("embedder."))
    # attention, feed-forward, two norms
    parameters, biases = done.result["parameters"], 2 * (4 * 32 + 48 + 32 + 2 * 32)
    assert parameters["trained"] == biases + parameters["embedder"] + parameters["predictor"]
    assert sum(value.numel() for key, value in tensors.items() if key.startswith("body.")) == biases


def test_pare_takes_no_step_of_stage_2_and_leaves_nothing_beside_the_model(run, small):
    """What it learns besides is not among the weights; a run without it has other weights and the same names."""
    pare, none = (run(*small, words, "train.epochs=1") for words in ("align.method=pare", "metric=none"))
    assert pare.result["alignment"]["steps"] == 0
    assert not (pare.folder / "2_align" / "embedder.safetensors").exists()
    assert pare.result["weights_sha256"] != none.result["weights_sha256"]
    names = [set(load_file(one.folder / "3_finetune" / "last" / "model.safetensors")) for one in (pare, none)]
    assert names[0] == names[1]


def test_only_optimizer_steps_see_augmented_samples(run, small):
    """With a rate of (nearly) nothing all that differs between two runs is what is measured: the training loss alone does."""
    still = [*small, "metric=moments", "train.lr=1e-30", "train.epochs=1", "train.select=best"]
    mixup = "+augment.mixup={_target_:orca_cli.models.augmentation.transforms.Mixup}"
    plain, augmented = run(*still), run(*still, "augment=series", mixup)
    assert plain.result["augment"] is None
    assert list(augmented.result["augment"])[-1] == "mixup"
    assert plain.result["identity"] != augmented.result["identity"]
    for key in ("validation_error", "error", "metric_value", "trivial_error", "splits"):
        assert plain.result[key] == augmented.result[key], key
    losses = {done.result["curves"]["finetune"][0]["train_loss"] for done in (plain, augmented)}
    assert len(losses) == 2
    np.testing.assert_allclose(outputs(plain.folder), outputs(augmented.folder), atol=1e-6)
