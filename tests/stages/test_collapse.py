import pytest
import torch

from orca_cli.interfaces import Tokens
from orca_cli.stages.collapse import collapse


def tokens(x, mask=None):
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    return Tokens(x, mask, (x.shape[1],))


def test_samples_whose_tokens_are_all_alike_have_no_token_variance():
    x = torch.randn(6, 1, 4).expand(6, 5, 4)
    assert collapse(tokens(x))["token_variance"] == pytest.approx(0, abs=1e-12)
    x = torch.randn(6, 5, 4)
    assert collapse(tokens(x - x.mean(1, keepdim=True)))["token_variance"] == pytest.approx(1)


@pytest.mark.parametrize("rank", [1, 8])
def test_effective_rank_counts_directions_of_equal_variance(rank):
    basis = torch.linalg.qr(torch.randn(16, 16))[0][:rank]
    points = torch.cat([basis, -basis])
    assert collapse(tokens(points.view(1, 2 * rank, 16)))["effective_rank"] == pytest.approx(rank)


def test_padding_does_not_count():
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False]] * 3)
    other = torch.where(mask.unsqueeze(-1), x, 1e6)
    assert collapse(tokens(other, mask)) == pytest.approx(collapse(tokens(x[:, :3])))


def test_drawing_together_is_seen_although_shares_do_not_change():
    x = torch.randn(6, 5, 4)
    before, after = collapse(tokens(x)), collapse(tokens(x / 3 + 7))
    for name in ("token_variance", "effective_rank"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    for name in ("variance_within", "variance_between"):
        assert after[name] == pytest.approx(before[name] / 9, rel=1e-5)
    total = x.flatten(0, 1).var(0, correction=0).sum().item()
    assert before["variance_within"] + before["variance_between"] == pytest.approx(total, rel=1e-5)
