"""Embedders: what each token sees, and how the first weights come from the body."""

import numpy as np
import pytest
import torch

from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.models.geometry import layout
from tests.models.conftest import build

EMBEDDERS = {
    "patch": Patch(init="random"),
    "overlap": Overlap(init="random"),
    "multiscale": Multiscale(init="random", pooled_tokens=10**6, filters=4),
}


@pytest.mark.parametrize("token", range(5))
def test_a_token_sees_its_patch_and_one_on_either_side(load_body, token):
    made = Overlap(init="random", max_tokens=5)
    embedder = build(load_body("bert"), input_shape=(2, 20), embedder=made).embedder
    assert (embedder.kernel, embedder.layout.kernel, embedder.layout.tokens) == (12, 4, 5)
    x = torch.randn(1, 2, 20, requires_grad=True)
    answer = embedder.convolution(x)[0].sum(0)[token]
    (gradient,) = torch.autograd.grad(answer, x)
    position = torch.arange(20)
    expected = (position >= 4 * (token - 1)) & (position < 4 * (token + 2))
    assert torch.equal(gradient[0].abs().sum(0) > 0, expected)


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_overlap_starts_as_the_body_s_own_patch_embedding(load_body, name):
    body = load_body(name)
    x = torch.randn(2, 5, 40, 40)
    patch, overlap = (
        build(body, embedder=made, input_shape=(5, 40, 40)).embedder
        for made in (Patch(), Overlap())
    )
    assert overlap.convolution.weight.shape[-1] == 3 * patch.convolution.weight.shape[-1]
    torch.testing.assert_close(overlap(x).x, patch(x).x, rtol=1e-4, atol=1e-5)


def test_a_random_overlap_sees_all_three_patches(load_body):
    made = Overlap(init="random")
    drawn = build(load_body("swin"), embedder=made, input_shape=(5, 40, 40)).embedder
    assert drawn.convolution.weight.abs().amin() > 0


@pytest.mark.parametrize("part", [Patch, Overlap, Multiscale])
@pytest.mark.parametrize(
    ("name", "shape", "kind", "bounded"),
    [
        ("bert", (2, 20), "classes", True),
        ("bert", (2, 20), "dense", False),  # an answer at every position needs its own tokens
        ("vit", (5, 40, 40), "classes", False),  # a map has the patches of the body
    ],
)
def test_the_bound_of_samples_with_one_answer(load_body, part, name, shape, kind, bounded):
    tokens = []
    for bound in (None, 4):
        made = part(init="random", pooled_tokens=bound)
        model = build(load_body(name), input_shape=shape, kind=kind, embedder=made)
        tokens.append(model.embedder.layout.tokens)
    assert tokens[1] == (4 if bounded else tokens[0])
    assert tokens[0] > 4


@pytest.fixture(params=["bert", "swin", "vit"])
def body(load_body, request):
    return load_body(request.param)


@pytest.fixture(params=[(1, 1), (57, 130), (2, 1, 200), (2, 5, 7, 6)], ids=str)
def batch(request):
    """Inputs [3, *shape], two of which end in padding, and their valid positions."""
    shape = request.param
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(3, *shape[1:], dtype=torch.bool)
    valid[1:, ..., shape[-1] // 2 :] = False
    return x, valid


@pytest.fixture(params=EMBEDDERS)
def model(body, batch, request):
    shape = tuple(batch[0].shape[1:])
    embedder = EMBEDDERS[request.param]
    return build(body, kind="dense", input_shape=shape, num_outputs=5, embedder=embedder)


def test_tokens_lie_where_those_of_plain_patches_lie(body, batch, model):
    x, valid = batch
    shape = tuple(x.shape[1:])
    patches = build(body, kind="dense", input_shape=shape, num_outputs=5).embed(x, valid)
    tokens = model.embed(x, valid)
    assert (tokens.x.shape, tokens.grid) == (patches.x.shape, patches.grid)
    assert torch.equal(tokens.mask, patches.mask)


def test_single_tokens_are_those_of_the_whole(batch, model):
    x, valid = batch
    tokens = model.embed(x, valid)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, (30,), generator=generator)
    places = torch.randint(tokens.x.shape[1], (30,), generator=generator)
    single = model.embedder.tokens_at(x, valid, rows, places)
    torch.testing.assert_close(single, tokens.x[rows, places], rtol=1e-4, atol=1e-5)


def test_gradients_reach_embedder_and_predictor(batch, model):
    x, valid = batch
    outputs = model(x, valid)
    assert outputs.shape == (3, 5, *x.shape[2:])
    outputs.square().sum().backward()
    for weight in (*model.embedder.parameters(), *model.predictor.parameters()):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


def bank_of_features():
    """Return a bank that gives tokens their own features unchanged, without the sample's."""
    torch.manual_seed(0)
    cut = layout((2, 40), max_tokens=5, canvas=None)
    bank = FilterBank(cut, width=14, filters=3, token_filters=3, scales=2)
    torch.nn.init.eye_(bank.token.weight)
    torch.nn.init.zeros_(bank.sample.weight)
    return bank


def correlations(bank, x, scale, number):
    """Return a filter's answers, by numpy, in a token: positions 16 to 23 of an input [2, 40]."""
    spacing = (1, 2)[scale]
    weight = bank.weight[scale, number].numpy()
    answers = []
    for position in range(16, 24):
        ends = position - 4 * spacing, position + 4 * spacing + 1
        window = x[:, slice(*ends, spacing)].numpy()
        window = window - window.mean(1, keepdims=True)
        cosine = (weight * window).sum() / np.linalg.norm(weight) / np.linalg.norm(window)
        answers.append(cosine * np.sqrt(window.size))
    return np.array(answers)


@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize(("number", "threshold"), [(0, -1), (1, 0), (2, 1)])
@torch.no_grad()
def test_a_filter_answers_with_its_correlation(scale, number, threshold):
    """Of two channels, with taps one and two positions apart."""
    bank = bank_of_features()
    x = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(0))
    tokens, _ = bank(x, torch.ones(1, 40, dtype=torch.bool))
    answers = correlations(bank, x[0], scale, number)
    features = tokens[0, 2, 7 * scale :]
    share = (float(features[number]) + 1) / 2
    largest = float(features[3 + number])
    assert largest == pytest.approx(answers.max(), rel=0.1)  # less by the size of a flat window
    # One answer may lie at the threshold.
    assert abs(share - (answers > threshold).mean()) <= 1 / 8 + 1e-6


@pytest.fixture
def padded():
    """Fifty inputs of any level and size: ten end in padding, one is nothing else."""
    x = 30 + 7 * torch.randn(50, 2, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(50, 40, dtype=torch.bool)
    valid[10:20, 16:] = False
    valid[20] = False
    return x.masked_fill(~valid.unsqueeze(1), 0.0), valid


def fit(bank, padded):
    """Fit a bank to inputs in batches."""
    x, valid = padded
    bank.fit((x[rows], valid[rows]) for rows in torch.arange(50).split(16))


@torch.no_grad()
def test_fitted_features_of_tokens_are_standardised(padded):
    bank = bank_of_features()
    fit(bank, padded)
    x, valid = padded
    is_seen = torch.nn.functional.max_pool1d(valid.float().unsqueeze(1), 8)[:, 0] > 0
    tokens, _ = bank(x, valid)
    tokens = tokens[is_seen].double()
    assert tokens.mean(0).abs().max() < 0.05
    assert (tokens.std(0) - 1).abs().max() < 0.1


@torch.no_grad()
def test_fitted_features_of_samples_have_mean_0(padded):
    bank = bank_of_features()
    fit(bank, padded)
    torch.nn.init.zeros_(bank.token.weight)
    torch.nn.init.eye_(bank.sample.weight)
    tokens, samples = bank(*padded)
    assert torch.equal(tokens[:, 0], samples @ bank.sample.weight.T)
    has_content = torch.arange(50) != 20
    assert tokens[has_content, 0].double().mean(0).abs().max() < 0.1
    assert tokens[20].abs().max() == 0


@torch.no_grad()
def test_the_values_of_a_short_sequence_are_features():
    cut = layout((2, 40), max_tokens=5, canvas=None)
    x = 30 + 7 * torch.randn(50, 2, 40)
    valid = torch.ones(50, 40, dtype=torch.bool)
    bank = FilterBank(cut, width=None, filters=3, token_filters=3, scales=2, values=True)
    bank.fit([(x, valid)])
    _, samples = bank(x, valid)
    values = x.flatten(1)
    expected = (values - values.mean(0)) / values.std(0, correction=0)
    torch.testing.assert_close(samples[:, -80:], expected, rtol=1e-3, atol=1e-3)
