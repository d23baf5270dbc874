"""Whatever stands in padding, outputs and the tokens of stage 2 are the same; no causal output sees later inputs."""

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
    """Return inputs [B, *shape] and [B, *E] bool, False from each sample's length on, counted row by row."""
    x = torch.randn(len(lengths), *shape, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    return x, torch.stack([positions < length for length in lengths])


@pytest.mark.parametrize("name", ["bert", "swin", "vit"])
@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize(
    ("kind", "shape"), [("classes", (2, 30)), ("dense", (2, 30)), ("dense", (2, 2, 5, 3))], ids=str
)
def test_garbage_in_padding_changes_nothing(load_body, name, made, kind, shape):
    """With four positions a token, so that most samples end inside a patch."""
    embedder = EMBEDDERS[made](max_tokens=9)
    model = build(load_body(name), kind=kind, input_shape=shape, embedder=embedder).eval()
    x, valid = padded(shape, [30, 11, 5, 1, 0])
    clean = x.masked_fill(~valid.unsqueeze(1), 0.0)
    rows, places = model.embedder.mask(x, valid).nonzero(as_tuple=True)
    with torch.no_grad():
        expected, tokens = model(clean, valid), model.embed(clean, valid)
        some = model.embedder.tokens_at(clean, valid, rows, places)
        for garbage in GARBAGE:
            dirty = x.masked_fill(~valid.unsqueeze(1), garbage)
            assert torch.equal(model(dirty, valid), expected)
            assert torch.equal(model.embed(dirty, valid).x, tokens.x)
            assert torch.equal(model.embedder.tokens_at(dirty, valid, rows, places), some)
    assert torch.isfinite(expected).all()


@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize("features", ["tokens", "pooled"])
def test_stage_2_compares_valid_tokens_only(load_body, made, features):
    model = build(
        load_body("bert"), input_shape=(2, 30), embedder=EMBEDDERS[made](max_tokens=9)
    ).eval()
    lengths = [30, 11, 5, 1]
    x, valid = padded((2, 30), lengths)
    clouds = []
    for garbage in (0.0, 9.0):
        values = x.masked_fill(~valid.unsqueeze(1), garbage).numpy()
        samples = ArraySamples(values, np.zeros(4, np.int64), valid.numpy())
        draws = [Draw(np.array([i]), lambda owners: np.arange(len(owners))) for i in range(4)]
        engine = SimpleNamespace(move=lambda batch: batch)
        embedded = embed_points(model, engine, samples, draws, features)
        assert all(set(owners) == {i} for i, (_, owners) in enumerate(embedded))
        clouds.append([points for points, _ in embedded])
    sizes = [-(-length // 4) if features == "tokens" else 1 for length in lengths]
    assert [len(cloud) for cloud in clouds[0]] == sizes
    assert all(torch.equal(*pair) for pair in zip(*clouds, strict=True))


STEPS = 12


def causal_model(body, causal, **settings):
    return build(body, causal=causal, kind="dense", input_shape=(5, STEPS), **settings).eval()


def seen(model, valid):
    """Return [STEPS, STEPS] bool: whether the output at a row's position depends on the input at a column's."""
    x = torch.randn(1, 5, STEPS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = model(x, valid)[0].sum(0)
    rows = [
        torch.autograd.grad(value, x, retain_graph=True)[0][0].abs().sum(0) for value in outputs
    ]
    return torch.stack(rows) > 0


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "modernbert", "t5"])
@pytest.mark.parametrize("real", [STEPS, 7])
def test_no_frame_sees_the_future(load_body, name, real):
    valid = (torch.arange(STEPS) < real)[None]
    past = torch.ones(real, real, dtype=torch.bool).tril()
    causal = seen(causal_model(load_body(name), True), valid)[:real, :real]
    assert not (causal & ~past).any()
    assert causal[-1].all()
    if name in ("bert", "roberta"):
        assert torch.equal(causal, past)
        free = seen(causal_model(load_body(name), False), valid)
        assert free[:real, :real].all()  # the premise: it could see the future


def test_what_would_leak_is_refused(load_body):
    with pytest.raises(ConfigError, match="whole input at once"):
        causal_model(load_body("vit"), True)
    with pytest.raises(ConfigError, match="embedder: .* beyond its own step; use embedder=patch"):
        causal_model(load_body("bert"), True, embedder=Overlap())
    with pytest.raises(ConfigError, match=f"{STEPS} steps in 6 tokens"):
        causal_model(load_body("bert"), True, embedder=Patch(max_tokens=6))
