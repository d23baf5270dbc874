"""No output of a causal task sees inputs after its own position, whatever is padding."""

import pytest
import torch

from orca_cli.exceptions import ConfigError
from orca_cli.models.assembly import build_model
from orca_cli.models.embedders.overlap import Overlap
from orca_cli.models.embedders.patch import Patch

STEPS = 12


def build(body, causal, **settings):
    shapes = {"kind": "dense", "input_shape": (5, STEPS), "num_outputs": 4, "seed": 0}
    return build_model(body=body, causal=causal, **(shapes | settings)).eval()


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
    causal = seen(build(load_body(name), True), valid)[:real, :real]
    assert not (causal & ~past).any()
    assert causal[-1].all()
    if name in ("bert", "roberta"):
        assert torch.equal(causal, past)
        assert seen(build(load_body(name), False), valid)[:real, :real].all()  # the premise: it could see the future


def test_what_would_leak_is_refused(load_body):
    for name in ("swin", "vit"):
        with pytest.raises(ConfigError, match="whole input at once"):
            build(load_body(name), True)
    with pytest.raises(ConfigError, match="embedder: .* beyond its own step; use embedder=patch"):
        build(load_body("bert"), True, embedder=Overlap())
    with pytest.raises(ConfigError, match=f"{STEPS} steps in 6 tokens"):
        build(load_body("bert"), True, embedder=Patch(max_tokens=6))
    with pytest.raises(ConfigError, match="dense outputs"):
        build(load_body("bert"), True, kind="classes")
