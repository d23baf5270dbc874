"""Padding: whatever stands in it, outputs and the tokens that stage 2 compares are the same, to the bit."""

import numpy as np
import pytest
import torch

from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import Tokens
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.stages.problem import Draw, embed_points
from tests.models.conftest import build

EMBEDDERS = {"patch": Patch, "overlap": Overlap, "multiscale": Multiscale}
GARBAGE = (float("nan"), float("inf"), -1e30, 5.0)


def padded(shape, lengths, seed=0):
    """Return inputs [B, *shape] and [B, *E] bool, False from each sample's length on, counted row by row."""
    x = torch.randn(len(lengths), *shape, generator=torch.Generator().manual_seed(seed))
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


@torch.no_grad()
def test_a_swin_takes_padded_tokens_as_zeros(load_body):
    """Whatever they hold; its windows take no mask."""
    body, mask = load_body("swin").eval(), torch.arange(64) < torch.tensor([[64], [20]])
    x = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    zeros, nines = (body(Tokens(x.masked_fill(~mask.unsqueeze(-1), value), mask, (8, 8))).x for value in (0.0, 9.0))
    assert torch.equal(zeros, nines)


class Whole:
    """Stands for an engine: everything stays on the CPU."""

    @staticmethod
    def move(batch):
        return batch


@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize("features", ["tokens", "pooled"])
def test_stage_2_compares_valid_tokens_only(load_body, made, features):
    model = build(load_body("bert"), input_shape=(2, 30), embedder=EMBEDDERS[made](max_tokens=9)).eval()
    lengths = [30, 11, 5, 1]
    x, valid = padded((2, 30), lengths)
    clouds = []
    for garbage in (0.0, 9.0):
        values = x.masked_fill(~valid.unsqueeze(1), garbage).numpy()
        samples = ArraySamples(values, np.zeros(4, np.int64), valid.numpy())
        draws = [Draw(np.array([i]), 100, np.random.default_rng(0)) for i in range(4)]
        clouds.append(embed_points(model, Whole, samples, draws, features))
    sizes = [-(-length // 4) if features == "tokens" else 1 for length in lengths]
    assert [len(cloud) for cloud in clouds[0]] == sizes
    assert all(torch.equal(*pair) for pair in zip(*clouds, strict=True))
