"""Embedders: what each token sees, and how the first weights come from the body."""

import numpy as np
import pytest
import torch

from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.models.geometry import layout
from tests.models.conftest import build


def test_a_token_sees_its_patch_and_one_patch_on_either_side(load_body):
    embedder = build(
        load_body("bert"), input_shape=(2, 20), embedder=Overlap("random", max_tokens=5)
    ).embedder
    assert (embedder.kernel, embedder.layout.kernel, embedder.layout.tokens) == (12, 4, 5)
    x, position = torch.randn(1, 2, 20, requires_grad=True), torch.arange(20)
    for token, answer in enumerate(embedder.convolution(x)[0].sum(0)):
        seen = torch.autograd.grad(answer, x, retain_graph=True)[0][0].abs().sum(0) > 0
        assert torch.equal(seen, (position >= 4 * (token - 1)) & (position < 4 * (token + 2)))


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_overlap_starts_as_the_body_s_own_patch_embedding(load_body, name):
    body, x = load_body(name), torch.randn(2, 5, 40, 40)
    patch, overlap, drawn = (
        build(body, embedder=made, input_shape=(5, 40, 40)).embedder
        for made in (Patch(), Overlap(), Overlap("random"))
    )
    assert overlap.convolution.weight.shape[-1] == 3 * patch.convolution.weight.shape[-1]
    torch.testing.assert_close(overlap(x).x, patch(x).x, rtol=1e-4, atol=1e-5)
    assert drawn.convolution.weight.abs().amin() > 0


@pytest.mark.parametrize("name", ["bert", "swin", "vit"])
@pytest.mark.parametrize("shape", [(1, 1), (57, 130), (2, 1, 200), (2, 5, 7, 6)], ids=str)
def test_every_body_takes_every_shape(load_body, name, shape):
    """Tokens lie where those of plain patches lie, single ones are those of the whole, gradients reach both new ends."""
    body, generator = load_body(name), torch.Generator().manual_seed(0)
    x, valid = (
        torch.randn(3, *shape, generator=generator),
        torch.ones(3, *shape[1:], dtype=torch.bool),
    )
    valid[1:, ..., shape[-1] // 2 :] = False
    settings = {"kind": "dense", "input_shape": shape, "num_outputs": 5}
    patches = build(body, **settings).embed(x, valid)
    rows, places = (
        torch.randint(most, (30,), generator=generator) for most in (3, patches.x.shape[1])
    )
    for made in (
        Patch("random"),
        Overlap("random"),
        Multiscale("random", pooled_tokens=10**6, filters=4),
    ):
        model = build(body, embedder=made, **settings)
        tokens, outputs = model.embed(x, valid), model(x, valid)
        assert (tokens.x.shape, tokens.grid) == (patches.x.shape, patches.grid)
        assert torch.equal(tokens.mask, patches.mask)
        some = model.embedder.tokens_at(x, valid, rows, places)
        torch.testing.assert_close(some, tokens.x[rows, places], rtol=1e-4, atol=1e-5)
        assert outputs.shape == (3, 5, *shape[1:])
        outputs.square().sum().backward()
        grads = [p.grad for p in (*model.embedder.parameters(), *model.predictor.parameters())]
        assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def bank_of_features():
    """Return a bank that gives each token its own features as they are, and nothing of the sample's."""
    torch.manual_seed(0)
    cut = layout((2, 40), max_tokens=5, canvas=None)
    bank = FilterBank(cut, 14, filters=3, token_filters=3, scales=2)
    torch.nn.init.eye_(bank.token.weight)
    torch.nn.init.zeros_(bank.sample.weight)
    return bank


@torch.no_grad()
def test_a_filter_answers_with_its_correlation_with_the_window():
    """Against numpy: the largest answer of a token and its share above the threshold; two channels, taps 1 and 2 apart."""
    bank = bank_of_features()
    x = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(0))
    features = bank(x, torch.ones(1, 40, dtype=torch.bool))[0][0, 2]  # positions 16 to 23
    for scale, spacing in enumerate((1, 2)):
        for number in range(3):
            weight = bank.weight[scale, number].numpy()
            answers = []
            for position in range(16, 24):
                window = x[
                    0, :, position - 4 * spacing : position + 4 * spacing + 1 : spacing
                ].numpy()
                window = window - window.mean(1, keepdims=True)
                correlation = (
                    (weight * window).sum() / np.linalg.norm(weight) / np.linalg.norm(window)
                )
                answers.append(correlation * np.sqrt(window.size))
            largest, share = features[7 * scale + 3 + number], features[7 * scale + number]
            assert float(largest) == pytest.approx(
                max(answers), rel=0.1
            )  # less by the size of a flat window
            above = np.array(answers) > (-1, 0, 1)[number]  # the thresholds of three filters
            assert (
                abs((float(share) + 1) / 2 - above.mean()) <= 1 / 8 + 1e-6
            )  # one answer at the threshold


@torch.no_grad()
def test_features_have_mean_0_and_deviation_1_over_what_a_bank_was_fitted_to():
    """In batches, with padding; what stands in padding, or in a sample without any data, does not count."""
    bank = bank_of_features()
    x = 30 + 7 * torch.randn(50, 2, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(50, 40, dtype=torch.bool)
    valid[10:20, 16:] = False
    valid[20] = False
    x = x.masked_fill(~valid.unsqueeze(1), 0.0)
    bank.fit((x[rows], valid[rows]) for rows in torch.arange(50).split(16))
    seen = torch.nn.functional.max_pool1d(valid.float().unsqueeze(1), 8)[:, 0] > 0
    tokens = bank(x, valid)[0][seen].double()
    assert tokens.mean(0).abs().max() < 0.05
    assert (tokens.std(0) - 1).abs().max() < 0.1
    torch.nn.init.zeros_(bank.token.weight)
    torch.nn.init.eye_(bank.sample.weight)
    samples, standardised = bank(x, valid)
    assert torch.equal(samples[:, 0], standardised @ bank.sample.weight.T)
    kept = torch.arange(50) != 20
    assert samples[kept, 0].double().mean(0).abs().max() < 0.1
    assert samples[20].abs().max() == 0


@torch.no_grad()
def test_the_values_of_a_short_sequence_are_features_of_the_sample():
    cut, x = layout((2, 40), max_tokens=5, canvas=None), 30 + 7 * torch.randn(50, 2, 40)
    valid = torch.ones(50, 40, dtype=torch.bool)
    bank = FilterBank(cut, None, filters=3, token_filters=3, scales=2, values=True)
    bank.fit([(x, valid)])
    expected = (x.flatten(1) - x.flatten(1).mean(0)) / x.flatten(1).std(0, correction=0)
    torch.testing.assert_close(bank(x, valid)[1][:, -80:], expected, rtol=1e-3, atol=1e-3)
