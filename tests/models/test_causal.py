"""No output of a causal task sees inputs after its own position, whatever is padding."""

import pytest
import torch

from orca_cli.exceptions import ConfigError
from orca_cli.models.embedders.patches import Overlap, Patch
from tests.models.conftest import build

STEPS = 12


def made(body, causal, **settings):
    return build(body, causal=causal, **({"kind": "dense", "input_shape": (5, STEPS)} | settings)).eval()


def seen(model, valid):
    """Return [STEPS, STEPS] bool: whether the output at a row's position depends on the input at a column's."""
    x = torch.randn(1, 5, STEPS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = model(x, valid)[0].sum(0)
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0][0].abs().sum(0) for value in outputs]
    return torch.stack(rows) > 0


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "modernbert", "t5"])
@pytest.mark.parametrize("real", [STEPS, 7])
def test_no_frame_sees_the_future(load_body, name, real):
    valid = (torch.arange(STEPS) < real)[None]
    past = torch.ones(real, real, dtype=torch.bool).tril()
    causal = seen(made(load_body(name), True), valid)[:real, :real]
    assert not (causal & ~past).any()
    assert causal[-1].all()
    if name in ("bert", "roberta"):
        assert torch.equal(causal, past)
        assert seen(made(load_body(name), False), valid)[:real, :real].all()  # the premise: it could see the future


def test_what_would_leak_is_refused(load_body):
    for name in ("swin", "vit"):
        with pytest.raises(ConfigError, match="whole input at once"):
            made(load_body(name), True)
    with pytest.raises(ConfigError, match="embedder: .* beyond its own step; use embedder=patch"):
        made(load_body("bert"), True, embedder=Overlap())
    with pytest.raises(ConfigError, match=f"{STEPS} steps in 6 tokens"):
        made(load_body("bert"), True, embedder=Patch(max_tokens=6))
    with pytest.raises(ConfigError, match="dense outputs"):
        made(load_body("bert"), True, kind="classes")
