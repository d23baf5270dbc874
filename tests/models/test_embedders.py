"""Embedders: what each token sees, and how the first weights come from the body."""

import copy

import numpy as np
import pytest
import torch

from orca_cli.models.embedders import filter_bank
from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.embedders.multiscale import Multiscale
from orca_cli.models.embedders.overlap import Overlap
from orca_cli.models.embedders.patch import Patch
from orca_cli.models.geometry import layout
from tests.models.conftest import build


def seen(embedder, shape):
    """Return [T, *E] bool: which positions each token depends on."""
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    maps = embedder.convolution(torch.nn.functional.pad(x, _ends(embedder.layout))).flatten(2)[0]
    rows = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0][0].abs().sum(0) for value in maps.T]
    return torch.stack(rows) > 0


def _ends(layout):
    return [p for a, b in zip(layout.padded[::-1], layout.extent[::-1], strict=True) for p in (0, a - b)]


def test_a_token_sees_its_patch_and_one_patch_on_either_side(load_body):
    embedder = build(load_body("bert"), input_shape=(2, 18), embedder=Overlap("random", max_tokens=5)).embedder
    assert (embedder.kernel, embedder.layout.kernel, embedder.layout.tokens) == (12, 4, 5)
    position = torch.arange(18)
    expected = [(position >= 4 * (token - 1)) & (position < 4 * (token + 2)) for token in range(5)]
    assert torch.equal(seen(embedder, (2, 18)), torch.stack(expected))


@pytest.mark.parametrize(("shape", "middle"), [((1, 8, 8), 5), ((1, 6, 6, 6), 13)], ids=["eight", "26"])
def test_in_more_dimensions_a_token_sees_all_its_neighbours(load_body, shape, middle):
    """Patches of 2 along each axis: one inside sees 6 positions along each, the one in the corner 4."""
    grid = tuple(size // 2 for size in shape[1:])
    embedder = build(load_body("bert"), input_shape=shape, embedder=Overlap("random", np.prod(grid))).embedder
    assert embedder.layout.grid == grid
    places = seen(embedder, shape)
    assert places[0].sum() == 4 ** len(grid)
    assert places[middle][(slice(6),) * len(grid)].all()
    assert places[middle].sum() == 6 ** len(grid)


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_overlap_starts_as_the_body_s_own_patch_embedding(load_body, name):
    settings = {"input_shape": (5, 40, 40)}
    x = torch.randn(2, 5, 40, 40)
    patch, overlap = (build(load_body(name), embedder=made, **settings).embedder for made in (Patch(), Overlap()))
    assert overlap.convolution.weight.shape[-1] == 3 * patch.convolution.weight.shape[-1]
    torch.testing.assert_close(overlap(x).x, patch(x).x, rtol=1e-4, atol=1e-5)
    random = build(load_body(name), embedder=Overlap("random"), **settings).embedder
    assert random.convolution.weight.abs().amin() > 0


@pytest.mark.parametrize("name", ["bert", "swin", "vit"])
@pytest.mark.parametrize(
    "made", [Patch("random"), Overlap("random"), Multiscale("random")], ids=["patch", "overlap", "multiscale"]
)
@pytest.mark.parametrize("shape", [(3, 97), (2, 5, 7, 6)], ids=str)
def test_single_tokens_are_those_of_the_whole_sample(load_body, name, made, shape):
    """With positions, padding and an extent that is no multiple of the kernel."""
    embedder = build(load_body(name), input_shape=shape, embedder=made).embedder
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, *shape, generator=generator)
    valid = torch.ones(4, *shape[1:], dtype=torch.bool)
    valid[1:, ..., shape[-1] // 2 :] = False
    whole = embedder(x, valid)
    assert torch.equal(embedder.mask(x, valid), whole.mask)
    rows = torch.randint(4, (30,), generator=generator)
    places = torch.randint(embedder.layout.tokens, (30,), generator=generator)
    torch.testing.assert_close(embedder.tokens_at(x, valid, rows, places), whole.x[rows, places], rtol=1e-4, atol=1e-5)


def bank_of_features(shape, *, max_tokens, filters=3, scales=2, token_filters=None, seed=0):
    """Return a bank that gives each token its own features as they are, and nothing of the sample's."""
    cut = layout(shape, max_tokens=max_tokens, canvas=None)
    features = sum(8 * 2**scale < shape[1] for scale in range(scales)) * (2 * filters + 1)
    torch.manual_seed(seed)
    bank = FilterBank(cut, features, filters=filters, token_filters=token_filters or filters, scales=scales)
    torch.nn.init.eye_(bank.token.weight)
    torch.nn.init.zeros_(bank.sample.weight)
    return bank


@torch.no_grad()
def test_a_filter_answers_with_its_correlation_with_the_window():
    """Against numpy: the largest answer of a token and its share above the threshold; two channels, taps 1 and 2 apart."""
    bank = bank_of_features((2, 40), max_tokens=5)
    x = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(0))
    features = bank(x, torch.ones(1, 40, dtype=torch.bool))[0, 2]  # positions 16 to 23
    for scale, spacing in enumerate((1, 2)):
        for number in range(3):
            weight = bank.weight[scale, number].numpy()
            answers = []
            for position in range(16, 24):
                window = x[0, :, position - 4 * spacing : position + 4 * spacing + 1 : spacing].numpy()
                window = window - window.mean(1, keepdims=True)
                correlation = (weight * window).sum() / np.linalg.norm(weight) / np.linalg.norm(window)
                answers.append(correlation * np.sqrt(window.size))
            largest, share = features[7 * scale + 3 + number], features[7 * scale + number]
            assert float(largest) == pytest.approx(max(answers), rel=0.1)  # less by the size of a flat window
            above = np.array(answers) > (-1, 0, 1)[number]  # the thresholds of three filters
            assert abs((float(share) + 1) / 2 - above.mean()) <= 1 / 8 + 1e-6  # one answer at the threshold


@torch.no_grad()
def test_shapes_are_found_at_any_level_and_size():
    bank = bank_of_features((1, 64), max_tokens=4)
    bank.token_mean.fill_(0.0)
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    # Away from the ends, where a window sees the zeros outside.
    whole = torch.ones(1, 64, dtype=torch.bool)
    plain, larger = bank(x, whole)[0, 1:3], bank(50 * x + 300, whole)[0, 1:3]
    size = [6, 13]
    shares, largest = [0, 1, 2, 7, 8, 9], [3, 4, 5, 10, 11, 12]
    torch.testing.assert_close(plain[:, largest], larger[:, largest], rtol=0.1, atol=0.05)
    assert (plain[:, shares] - larger[:, shares]).abs().max() <= 2 / 16 + 1e-6  # one of 16 positions is at a threshold
    assert (larger[:, size] - plain[:, size] > 3).all()


@torch.no_grad()
def test_features_have_mean_0_and_deviation_1_over_what_a_bank_was_fitted_to():
    """In batches, with padding; what stands in padding, or in a sample without any data, does not count."""
    bank = bank_of_features((2, 40), max_tokens=5)
    x = 30 + 7 * torch.randn(50, 2, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(50, 40, dtype=torch.bool)
    valid[10:20, 16:] = False
    valid[20] = False
    x = x.masked_fill(~valid.unsqueeze(1), 0.0)
    bank.fit((x[rows], valid[rows]) for rows in torch.arange(50).split(16))
    seen = torch.nn.functional.max_pool1d(valid.float().unsqueeze(1), 8)[:, 0] > 0
    tokens = bank(x, valid)[seen].double()
    assert tokens.mean(0).abs().max() < 0.05
    assert (tokens.std(0) - 1).abs().max() < 0.1
    torch.nn.init.zeros_(bank.token.weight)
    torch.nn.init.eye_(bank.sample.weight)
    samples = bank(x, valid)
    assert torch.equal(samples[:, 0], samples[:, 4])
    assert torch.equal(samples[:, 0], bank.sample_features(x, valid) @ bank.sample.weight.T)
    kept = torch.arange(50) != 20
    assert samples[kept, 0].double().mean(0).abs().max() < 0.1
    # The last ten features are the means of the patches of the two channels.
    bank.sample.weight.zero_()[:10, -10:] = torch.eye(10)
    means = x[:10].unflatten(2, (5, 8)).mean(3).flatten(1)
    ours, expected = bank(x[:10], valid[:10])[:, 0, :10], means - bank.sample_mean[-10:]
    torch.testing.assert_close(ours, expected / bank.sample_deviation[-10:], rtol=1e-3, atol=1e-3)
    assert samples[20].abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize(("length", "many"), [(40, 80), (600, 0)])
def test_the_values_of_a_short_sequence_are_features_of_the_sample(length, many):
    cut, x = layout((2, length), max_tokens=5, canvas=None), 30 + 7 * torch.randn(50, 2, length)
    valid = torch.ones(50, length, dtype=torch.bool)
    bank = FilterBank(cut, None, filters=3, token_filters=3, scales=2, values=True)
    bank.fit([(x, valid)])
    expected = (x.flatten(1) - x.flatten(1).mean(0)) / x.flatten(1).std(0, correction=0)
    features = bank.sample_features(x, valid)
    assert features.shape[1] == bank.sample_width == 2 * 7 + (many or 10)
    if many:
        torch.testing.assert_close(features[:, -80:], expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_feature_far_from_all_of_training_counts_as_five_deviations():
    bank = bank_of_features((1, 40), max_tokens=5)
    bank.fit(
        [(torch.randn(50, 1, 40, generator=torch.Generator().manual_seed(0)), torch.ones(50, 40, dtype=torch.bool))]
    )
    far = bank(1e6 * torch.ones(1, 1, 40).cumsum(2), torch.ones(1, 40, dtype=torch.bool))
    assert far.abs().max() == 5


@torch.no_grad()
def test_a_token_has_the_first_filters_and_the_sample_has_all():
    x, valid = torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(0)), torch.ones(3, 40, dtype=torch.bool)
    whole, part = (bank_of_features((1, 40), max_tokens=5, filters=6, scales=1, token_filters=few) for few in (6, 2))
    assert torch.equal(part(x, valid)[..., :5], whole(x, valid)[..., [0, 1, 6, 7, 12]])
    for bank in (whole, part):
        torch.nn.init.zeros_(bank.token.weight)
        torch.nn.init.eye_(bank.sample.weight)
    assert torch.equal(part(x, valid), whole(x, valid))


@torch.no_grad()
def test_features_do_not_depend_on_the_batch_and_follow_the_filters():
    bank, other = (bank_of_features((2, 40), max_tokens=5, seed=seed) for seed in (0, 1))
    x = torch.randn(6, 2, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(6, 40, dtype=torch.bool)
    whole = bank(x, valid)
    assert torch.equal(bank(x[[4, 2]], valid[:2]), whole[[4, 2]])
    assert torch.equal(copy.deepcopy(bank)(x, valid), whole)
    valid[0, 20:] = False
    assert not torch.equal(bank(x[:1], valid[:1]), whole[:1])  # the same values, fewer of them data
    bank.load_state_dict(other.state_dict())
    assert not torch.equal(bank(x, valid), whole)
    assert torch.equal(bank(x, valid), other(x, valid))


@pytest.mark.parametrize(("most", "times"), [(10**6, 1), (0, 2)])
def test_features_are_computed_once_where_there_is_room(monkeypatch, most, times):
    monkeypatch.setattr(filter_bank, "MOST_BYTES", most)
    cache, computed = filter_bank.FeatureCache(), []
    x, valid = torch.arange(6.0).view(3, 2), torch.ones(3, 2, dtype=torch.bool)
    for rows in ([0, 1, 2], [2, 0, 1]):
        (features,) = cache(lambda x, valid: computed.append(x) or (2 * x,), x[rows], valid, "filters")
        assert torch.equal(features, 2 * x[rows])
    assert len(computed) == 3 * times


def test_few_tokens_stand_for_a_sample_with_one_answer(load_body):
    body = load_body("bert")
    assert build(body, input_shape=(1, 60), embedder=Multiscale(pooled_tokens=12)).embedder.layout.tokens == 12
    assert build(body, input_shape=(1, 60), embedder=Multiscale(max_tokens=30)).embedder.layout.tokens == 30
    dense = build(body, kind="dense", input_shape=(1, 60), embedder=Multiscale())
    assert dense.embedder.layout.tokens == build(body, input_shape=(1, 60)).embedder.layout.tokens


@torch.no_grad()
def test_an_embedder_knows_features_of_a_sample_where_it_has_a_bank(load_body):
    body = load_body("bert")
    x, valid = torch.randn(3, 2, 40), torch.ones(3, 40, dtype=torch.bool)
    layer = build(body, input_shape=(2, 40), embedder=Multiscale()).embedder
    assert torch.equal(layer.sample_features(x, None), layer.beside.sample_features(x, valid))
    assert build(body, input_shape=(2, 40), embedder=Patch()).embedder.sample_features(x, None) is None
