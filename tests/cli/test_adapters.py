"""Runs whose finetune mode trains a few parameters: what is trained and kept, and that stage 2 does not depend on the mode."""

import importlib.util

import numpy as np
from safetensors.torch import load_file

MODES = {
    "bitfit": (["finetune=bitfit"], 2 * (4 * 32 + 48 + 32 + 2 * 32)),  # attention, feed-forward, two norms
    "prompt": (["finetune=prompt", "finetune.depth=deep"], 2 * 10 * 32),
    "border": (["finetune=visual_prompt"], 2 * (8 + 8 - 2)),  # one channel, one pixel wide
}
if importlib.util.find_spec("peft") is not None:
    lora = ["finetune=lora", "finetune.rank=4", "finetune.dropout=0.1"]
    MODES["lora"] = (lora, 2 * 2 * 4 * (32 + 32))  # layers, roles, A and B


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


def test_a_checkpoint_holds_what_is_trained_and_stage_2_trains_the_embedder_alone(run, small, tmp_path):
    """At a rate of nearly 0 the weights at the end are those that stage 3 started from."""
    small = [*small, "task.layout=image", "source.size=80", "embedder=patch", "train.epochs=1", "train.lr=1e-30"]
    small += ["train.weight_decay=0"]

    def ended(name, *words):
        """Return the run, its weights, and their file; each has a cache of its own: an alignment would be shared."""
        done = run(*small, *words, f"paths.cache={tmp_path / name}")
        file = done.folder / "3_finetune" / "last" / "model.safetensors"
        return done, load_file(file), file

    _, before, _ = ended("before", "finetune=full", "metric=none")
    _, aligned, _ = ended("full", "finetune=full", "metric=moments")
    changed = {key for key in before if not same(before[key], aligned[key])}
    assert changed
    assert all(key.startswith("embedder.") for key in changed)
    for name, (words, body_parameters) in MODES.items():
        done, tensors, file = ended(name, *words, "metric=moments")
        assert all(same(aligned[key], value) for key, value in tensors.items() if key.startswith("embedder.")), name
        parameters = done.result["parameters"]
        assert parameters["trained"] == body_parameters + parameters["embedder"] + parameters["predictor"]
        assert f"trained {parameters['trained']:,}" in done.out
        inner = [value.numel() for key, value in tensors.items() if key.startswith(("body.", "border."))]
        assert sum(inner) == body_parameters
        # The rest are buffers, such as the embedder's bank, which no checkpoint of the body holds.
        rest = sum(value.nbytes for key, value in tensors.items() if not key.startswith(("body.", "border.")))
        assert file.stat().st_size < rest + 4 * body_parameters + 120 * len(tensors) + 200  # the header
