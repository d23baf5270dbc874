"""Trained parameters, results and output of stages 2 and 3, through the command line."""

import numpy as np
import torch
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


def test_a_checkpoint_holds_the_parameters_that_are_trained(run, small, tmp_path):
    """Stage 2 trains the embedder alone.

    At a rate of nearly 0 the weights at the end are those that stage 3 started from.
    """
    small = [
        *small, "task.layout=image", "source.size=80", "embedder=patch", "train.epochs=1",
        "train.lr=1e-30",
    ]  # fmt: skip
    small += ["train.weight_decay=0", "metric=moments"]

    def ended(*words):
        """Return the run and its weights.

        Each run has a separate cache, since runs would share an alignment.
        """
        done = run(*small, *words, f"paths.cache={tmp_path / words[0].partition('=')[2]}")
        return done, load_file(done.folder / "3_finetune" / "last" / "model.safetensors")

    with compose.session() as session:
        before = build(
            session.compose([*small, "finetune=full"]).config, LogReporter()
        ).model.state_dict()
    _, aligned = ended("finetune=full")
    changed = {key for key in before if not same(before[key], aligned[key])}
    assert changed
    assert all(key.startswith("embedder.") for key in changed)
    done, tensors = ended("finetune=bitfit")
    assert all(
        same(aligned[key], value) for key, value in tensors.items() if key.startswith("embedder.")
    )
    # attention, feed-forward, two norms
    parameters, biases = done.result["parameters"], 2 * (4 * 32 + 48 + 32 + 2 * 32)
    assert parameters["trained"] == biases + parameters["embedder"] + parameters["predictor"]
    assert sum(value.numel() for key, value in tensors.items() if key.startswith("body.")) == biases


def kept_bytes(model, batch):
    """Return the amount of memory that a forward pass keeps for the backward pass."""
    sizes = {}

    def keep(tensor):
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(batch.x, batch.valid)
    return sum(sizes.values())


def test_gradient_checkpointing_is_on_where_it_is_typed(small, environment):
    sizes = {}
    for typed in ("false", "true"):
        words = [*small, "finetune=full", f"train.gradient_checkpointing={typed}"]
        with compose.session() as session:
            built = build(session.compose(words).config, LogReporter())
        sizes[typed] = kept_bytes(built.model, built.task.train.batch(np.arange(8)))
    assert sizes["true"] < 0.75 * sizes["false"], sizes
