"""Padding changes no output and no token of stage 2; no causal output sees later inputs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import ConfigError
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.stages.problem import Draw, embed_points
from tests.models.conftest import build

EMBEDDERS = {"patch": Patch, "overlap": Overlap, "multiscale": Multiscale}
GARBAGE = (float("nan"), float("inf"), -1e30, 5.0)


def padded(shape, lengths):
    """Return inputs [B, *shape] and [B, *E] bool, False from a sample's length on, row by row."""
    x = torch.randn(len(lengths), *shape, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    return x, torch.stack([positions < length for length in lengths])


def answers(model, x, valid):
    """Return the outputs of a model for a batch, its tokens, and the valid ones computed singly."""
    rows, places = model.embedder.mask(x, valid).nonzero(as_tuple=True)
    with torch.no_grad():
        single = model.embedder.tokens_at(x, valid, rows, places)
        return model(x, valid), model.embed(x, valid).x, single


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["bert", "swin", "vit"])
@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize(
    ("kind", "shape"), [("classes", (2, 30)), ("dense", (2, 30)), ("dense", (2, 2, 5, 3))], ids=str
)
def test_garbage_in_padding_changes_nothing(load_body, name, made, kind, shape, garbage):
    """With four positions a token, so that most samples end inside a patch."""
    embedder = EMBEDDERS[made](max_tokens=9)
    model = build(load_body(name), kind=kind, input_shape=shape, embedder=embedder).eval()
    x, valid = padded(shape, [30, 11, 5, 1, 0])
    is_padding = ~valid.unsqueeze(1)
    expected = answers(model, x.masked_fill(is_padding, 0.0), valid)
    dirty = answers(model, x.masked_fill(is_padding, garbage), valid)
    assert all(map(torch.equal, dirty, expected))
    assert torch.isfinite(expected[0]).all()


@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize("features", ["tokens", "pooled"])
def test_stage_2_compares_valid_tokens_only(load_body, made, features):
    embedder = EMBEDDERS[made](max_tokens=9)
    model = build(load_body("bert"), input_shape=(2, 30), embedder=embedder).eval()
    engine = SimpleNamespace(move=lambda batch: batch)
    lengths = [30, 11, 5, 1]
    x, valid = padded((2, 30), lengths)

    def clouds(garbage):
        content = x.masked_fill(~valid.unsqueeze(1), garbage).numpy()
        samples = ArraySamples(content, np.zeros(4, np.int64), valid.numpy())
        draws = [Draw(np.array([row]), lambda owners: np.arange(len(owners))) for row in range(4)]
        embedded = embed_points(model, engine, samples, draws, features)
        assert all(set(owners) == {row} for row, (_, owners) in enumerate(embedded))
        return [points for points, _ in embedded]

    clean = clouds(garbage=0.0)
    sizes = [-(-length // 4) if features == "tokens" else 1 for length in lengths]
    assert [len(cloud) for cloud in clean] == sizes
    assert all(map(torch.equal, clean, clouds(garbage=9.0)))


STEPS = 12


def causal_model(body, causal, **settings):
    usual = {"kind": "dense", "input_shape": (5, STEPS)}
    return build(body, causal=causal, **(usual | settings)).eval()


def seen(model, valid):
    """Return [STEPS, STEPS] bool: whether the output at step i depends on the input at step j."""
    x = torch.randn(1, 5, STEPS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = model(x, valid)[0].sum(0)
    rows = [
        torch.autograd.grad(value, x, retain_graph=True)[0][0].abs().sum(0) for value in outputs
    ]
    return torch.stack(rows) > 0


ENCODERS = ["bert", "roberta"]


@pytest.fixture(params=[STEPS, 7])
def real(request):
    """The number of steps that are no padding."""
    return request.param


def view(body, causal, real):
    """Return `seen` of a model among the steps that are no padding."""
    valid = (torch.arange(STEPS) < real)[None]
    return seen(causal_model(body, causal), valid)[:real, :real]


@pytest.mark.parametrize("name", [*ENCODERS, "gpt2", "modernbert", "t5"])
def test_no_frame_sees_the_future(load_body, name, real):
    past = torch.ones(real, real, dtype=torch.bool).tril()
    causal = view(load_body(name), causal=True, real=real)
    assert not (causal & ~past).any()
    assert causal[-1].all()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_frame_of_an_encoder_sees_the_past(load_body, name, real):
    past = torch.ones(real, real, dtype=torch.bool).tril()
    assert torch.equal(view(load_body(name), causal=True, real=real), past)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_that_is_not_causal_sees_the_future(load_body, name, real):
    assert view(load_body(name), causal=False, real=real).all()


LEAKS = {
    "body": ("vit", {}, "whole input at once"),
    "embedder": (
        "bert",
        {"embedder": Overlap()},
        "embedder: .* a token depends on later steps; use embedder=patch",
    ),
    "tokens": ("bert", {"embedder": Patch(max_tokens=6)}, f"6 tokens for {STEPS} steps"),
    "kind": ("bert", {"kind": "classes"}, "needs dense outputs along a sequence"),
}


@pytest.mark.parametrize(("name", "settings", "message"), LEAKS.values(), ids=LEAKS)
def test_a_model_that_would_leak_is_refused(load_body, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        causal_model(load_body(name), True, **settings)
