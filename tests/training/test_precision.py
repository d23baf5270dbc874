"""What `precision=auto` resolves to, what half precision is used for, and what gradient checkpointing keeps."""

import pytest
import torch

from orca_cli.interfaces import Tokens
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import swin, text
from orca_cli.training.engine import Engine, checkpoint_layers, choose_precision
from tests.checkpoints import save_tiny_bert, save_tiny_swin

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "best"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_devices_that_gain_by_it(monkeypatch, has_bf16, best):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", CPU, 384) == best
    assert choose_precision("auto", CPU, 32) == "fp32"
    assert choose_precision("auto", torch.device("cuda"), 32) == best
    assert choose_precision("auto", torch.device("mps"), 768) == "fp32"
    assert choose_precision("fp32", CPU, 32) == "fp32"
    assert choose_precision("bf16", CPU, 32) == "bf16"


def test_half_precision_is_for_the_body_alone(tmp_path):
    body = text.load(str(save_tiny_bert(tmp_path)))
    model = build_model(body=body, kind="dense", input_shape=(1, 12), num_outputs=2, seed=0).eval()
    seen = {}

    def note(name):
        return lambda module, inputs, result: seen.update(
            {name: getattr(result, "x", result).dtype}
        )

    model.embedder.register_forward_hook(note("embedder"))
    model.predictor.register_forward_hook(note("predictor"))
    (linear,) = (body.get_submodule(name) for name in body.linear_names("query")[:1])
    linear.register_forward_hook(note("body"))
    x = torch.linspace(1000, 1001, 36).reshape(3, 1, 12)  # one number in bfloat16
    full = model(x)
    assert set(seen.values()) == {torch.float32}
    with Engine(CPU, "bf16").autocast():
        half = model(x)
    assert seen == {"embedder": torch.float32, "body": torch.bfloat16, "predictor": torch.float32}
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02)
    assert (half != half.bfloat16()).float().mean() > 0.9


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
    gradients = {
        name: value.grad for name, value in body.named_parameters() if value.grad is not None
    }
    return (
        outputs.detach(),
        gradients,
        sum(size for place, size in kept.items() if place not in weights),
    )


def test_gradient_checkpointing_keeps_less_and_changes_no_bit(tmp_path):
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
