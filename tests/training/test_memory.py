"""Gradient checkpointing keeps less and changes nothing."""

import torch

from orca_cli.interfaces import Tokens
from orca_cli.models.bodies import swin
from orca_cli.training.memory import checkpoint_layers
from tests.checkpoints import save_tiny_swin


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


def test_gradient_checkpointing_keeps_less_and_changes_no_bit(tmp_path):
    """Of layers inside layers that transformers marks."""
    folder = str(save_tiny_swin(tmp_path))
    body, plain = swin.load(folder), swin.load(folder)
    x = torch.randn(3, 64, body.width, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool), (8, 8))
    outputs, gradients, size = passed(plain, tokens)
    checkpoint_layers(body)
    again, others, less = passed(body, tokens)
    assert torch.equal(outputs, again)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in gradients.items())
    assert less < size / 2, (less, size)
