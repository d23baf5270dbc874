"""Runs whose finetune mode trains a few parameters, through the command line: what is trained and kept."""

import importlib.util

import numpy as np
import pytest
from safetensors.torch import load_file

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="the extra lora is not installed")
LORA = ["finetune=lora", "finetune.dropout=0.1"]
DEEP = ["finetune=prompt", "finetune.depth=deep"]
BORDER = ["finetune=visual_prompt"]
IMAGES = "task.layout=image"


def last_weights(run):
    return load_file(run / "3_finetune" / "last" / "model.safetensors")


def count(tensors, prefix):
    return sum(value.numel() for name, value in tensors.items() if name.startswith(prefix))


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


@pytest.mark.parametrize(
    ("words", "body_parameters"),
    [
        pytest.param(
            ["finetune=lora", "finetune.rank=4"], 2 * 2 * 4 * (32 + 32), marks=needs_peft
        ),  # layers, roles, A and B
        (["finetune=bitfit"], 2 * (4 * 32 + 48 + 32 + 2 * 32)),  # attention, feed-forward, two norms
        (DEEP, 2 * 10 * 32),
        (BORDER, 2 * (8 + 8 - 2)),  # one channel, one pixel wide
    ],
    ids=["lora", "bitfit", "prompt", "visual_prompt"],
)
def test_the_result_says_what_is_trained_and_a_checkpoint_holds_no_more(run, small, words, body_parameters):
    done = run(*small, "metric=none", IMAGES, "train.epochs=1", *words)
    parameters = done.result["parameters"]
    assert parameters["trained"] == body_parameters + parameters["embedder"] + parameters["predictor"]
    assert f"trained {parameters['trained']:,}" in done.out
    tensors = last_weights(done.folder)
    assert count(tensors, ("body.", "border.")) == body_parameters
    # The rest are buffers, such as the embedder's bank, which no checkpoint of the body holds.
    file = done.folder / "3_finetune" / "last" / "model.safetensors"
    rest = sum(value.nbytes for name, value in tensors.items() if not name.startswith(("body.", "border.")))
    assert file.stat().st_size < rest + 4 * body_parameters + 120 * len(tensors) + 200  # a header has a line for each


def test_stage_2_trains_the_embedder_alone_whatever_the_mode(run, small, tmp_path):
    """At a rate of nearly 0 the weights at the end are those that stage 3 started from."""
    small = [*small, IMAGES, "source.size=80", "embedder=patch", "train.epochs=1", "train.lr=1e-30"]
    small += ["train.weight_decay=0"]
    modes = {"full": ["finetune=full"], "prompt": DEEP, "visual_prompt": BORDER}
    if importlib.util.find_spec("peft") is not None:
        modes["lora"] = LORA
    aligned = []
    for name, words in modes.items():
        ends = {}
        for metric in ("none", "moments"):  # each with a cache of its own: an alignment would be shared
            cold = f"paths.cache={tmp_path / name / metric}"
            ends[metric] = last_weights(run(*small, *words, f"metric={metric}", cold).folder)
        before, after = ends["none"], ends["moments"]
        changed = {key for key in before if not same(before[key], after[key])}
        assert changed
        assert all(key.startswith("embedder.") for key in changed), name
        aligned.append({key: value for key, value in after.items() if key.startswith("embedder.")})
    for other in aligned[1:]:
        assert all(same(aligned[0][key], other[key]) for key in aligned[0])
