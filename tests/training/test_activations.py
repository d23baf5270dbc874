"""Gradient checkpointing keeps less and changes nothing; compiled layers compute the same to rounding."""

import math

import pytest
import torch

from orca_cli.exceptions import UnavailableError
from orca_cli.interfaces import Tokens
from orca_cli.models.bodies import swin, text
from orca_cli.training.activations import checkpoint_layers, compile_layers
from tests.checkpoints import save_tiny_bert, save_tiny_swin

CPU = torch.device("cpu")


def passed(body, tokens):
    """Return outputs, gradients and the bytes that are kept for the backward pass, with dropout on."""
    kept = {}
    body.train().requires_grad_(True)
    torch.manual_seed(5)

    def keep(value):
        kept[value.data_ptr()] = value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        outputs = body(tokens).x
    outputs.square().sum().backward()
    weights = {parameter.data_ptr() for parameter in body.parameters()}
    gradients = {name: value.grad for name, value in body.named_parameters() if value.grad is not None}
    return outputs.detach(), gradients, sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize(
    ("save", "load", "grid"),
    [(save_tiny_bert, text.load, (16,)), (save_tiny_swin, swin.load, (8, 8))],
    ids=["bert", "swin"],
)
def test_gradient_checkpointing_keeps_less_and_changes_no_bit(save, load, grid, tmp_path):
    folder = str(save(tmp_path))
    body, plain = load(folder), load(folder)
    x = torch.randn(3, math.prod(grid), body.width, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool), grid)
    outputs, gradients, size = passed(plain, tokens)
    checkpoint_layers(body)
    again, others, less = passed(body, tokens)
    assert torch.equal(outputs, again)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in gradients.items())
    assert less < size / 2, (less, size)


def test_compiled_layers_compute_the_same(tmp_path):
    """By the part of torch.compile that needs no compiler: it traces the layers and their gradients."""
    folder = str(save_tiny_bert(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    x = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(x, torch.ones(3, 16, dtype=torch.bool), (16,), False, 0)
    outputs, gradients, _ = passed(text.load(folder), tokens)
    body = text.load(folder)
    names = list(body.state_dict())
    checkpoint_layers(body)
    compile_layers(body, CPU, "aot_eager")
    torch._dynamo.utils.counters.clear()
    again, others, _ = passed(body, tokens)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it was compiled
    assert list(body.state_dict()) == names  # checkpoints fit as before
    torch.testing.assert_close(again, outputs)
    for name, value in gradients.items():
        torch.testing.assert_close(others[name], value, msg=name)


def test_a_machine_without_a_compiler_is_reported(tmp_path):
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler\nand more")

    with pytest.raises(UnavailableError, match="no C\\+\\+ compiler") as caught:
        compile_layers(text.load(str(save_tiny_bert(tmp_path))), CPU, broken)
    assert caught.value.where == "train.compile"
    assert "\n" not in str(caught.value)
