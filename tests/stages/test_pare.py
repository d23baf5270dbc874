"""PaRe: which tokens are replaced, by what, how many at which step, and what of it the loss sees."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli.config.schema import Align
from orca_cli.interfaces import Examples, SourceData, Tokens
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import text
from orca_cli.stages.successors import Mixing, mixed_tokens, share_at
from orca_cli.training.loop import train_step
from tests.checkpoints import save_tiny_bert
from tests.properties import examples
from tests.training.toy import Pairs, engine, optimizer, plan

TEXTS = ["a list", "return the list of", "of a", "the list of", "return", "a", "the of", "list list"]
SOURCE = SourceData("text", "digest", lambda: Examples(TEXTS, np.arange(8) % 2, ["a", "b"]))


@pytest.mark.parametrize(("start", "until", "steps"), [(0.6, 0.5, 10), (0.3, 0.3, 1)])
def test_the_share_falls_from_its_start_to_none(start, until, steps):
    settings = Align(source_share=start, mixed_until=until)
    shares = [share_at(settings, step, steps) for step in range(steps)]
    assert shares[0] == start
    assert shares == sorted(shares, reverse=True)
    assert all((share == 0) == (step >= until * steps) for step, share in enumerate(shares))


@examples(40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    sources=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    share=st.floats(0, 1),
)
def test_the_least_of_the_target_gives_way_to_the_most_of_the_source_and_padding_to_nothing(sizes, sources, share):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(sizes), torch.tensor(sources[: len(sizes)])
    masks = [torch.arange(9) < lengths[0][:, None], torch.arange(6) < lengths[1][:, None]]
    target, source = (
        Tokens(torch.rand(*mask.shape, 2, generator=generator) + number, mask, mask.shape[1:])
        for number, mask in enumerate(masks)
    )
    mixed, parts = mixed_tokens(target, source, share, lambda x: x[..., 0] / 10)
    assert torch.equal(mixed.mask, target.mask)
    for row, size in enumerate(sizes):
        count = round(float(parts[row]) * size)
        assert count == min(round(share * size), size - 1, sources[row]) or abs(share * size % 1 - 0.5) < 1e-5
        expected, candidates = target.x[row].clone(), source.x[row, : sources[row]]
        lowest, highest = expected[:size, 0].argsort()[:count], candidates[:, 0].argsort(descending=True)[:count]
        expected[lowest.sort().values] = candidates[highest.sort().values]
        assert torch.equal(mixed.x[row], expected)


def test_the_gate_learns_by_the_tokens_that_it_lets_through_and_changes_none():
    gate = nn.Linear(2, 1)
    tokens = [Tokens(torch.rand(3, 4, 2), torch.ones(3, 4, dtype=torch.bool), (4,)) for _ in range(2)]
    mixed, _ = mixed_tokens(*tokens, 0.5, lambda x: gate(x)[..., 0].sigmoid())
    originals = torch.cat([one.x.flatten(0, 1) for one in tokens])
    assert all((originals == token).all(1).any() for token in mixed.x.detach().flatten(0, 1))
    mixed.x.square().sum().backward()
    assert gate.weight.grad.abs().min() > 0


class Series(Pairs):
    """Twelve series of three classes, some shorter than others."""

    valid = torch.arange(40) < torch.tensor([40, 13, 27, 40] * 3)[:, None]

    def __init__(self):
        super().__init__(torch.arange(12) % 3, length=40)

    def batch(self, indices, augment=None):
        return dataclasses.replace(super().batch(indices), valid=self.valid[torch.as_tensor(indices)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_bert(tmp_path_factory.mktemp("bert") / "bert"))


def made(folder):
    return build_model(body=text.load(folder), kind="classes", input_shape=(3, 40), num_outputs=3, seed=0)


def mixing(model, seed=0, steps=10):
    settings = Align(method="pare", source_share=0.6, mixed_until=0.5)
    return Mixing(model.body, SOURCE, settings, steps=steps, seed=seed)


def test_the_weights_of_the_two_losses_sum_to_one(folder):
    """The gradient of a step of all samples is that of a mean of both losses by the share of the tokens."""
    model = made(folder).eval()
    batch = Series().batch(range(12))
    mixture = mixing(model).at(2)(model, batch, 0)
    lengths = -(-Series.valid.sum(1) // model.embedder.kernel)
    assert 0 < float(mixture.share) <= 0.6 * 3 / 5 + 0.5 / float(lengths.min())
    outputs, other = mixture.outputs.detach().requires_grad_(True), torch.tensor(2.0, requires_grad=True)
    fixed = dataclasses.replace(mixture, outputs=outputs, share=mixture.share.detach(), loss=other)
    settings = {"batch_size": 12, "clip": None, "seed": 0, "step": 0, "mixer": lambda *_: fixed}
    train_step(engine(), model, optimizer(model), nn.CrossEntropyLoss(), Series(), np.arange(12), **settings)
    assert other.grad == fixed.share
    own = torch.autograd.grad(nn.functional.cross_entropy(outputs, batch.y), outputs)[0]
    torch.testing.assert_close(outputs.grad, (1 - fixed.share) * own)


def test_the_same_seed_and_step_give_the_same_mixture_and_others_give_others(folder):
    model, batch = made(folder).eval(), Series().batch(range(12))
    names = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]  # seed, step, part
    first, *others = (mixing(model, seed).at(step)(model, batch, part).outputs for seed, step, part in names)
    assert torch.equal(first, mixing(model).at(0)(model, batch, 0).outputs)
    assert not any(torch.equal(first, other) for other in (*others, model(batch.x, batch.valid)))


def test_once_nothing_is_mixed_in_a_step_is_the_plain_one_bit_for_bit(folder):
    """Two of eight steps mix; from the same weights, the others are those of stage 3 without the method."""
    models = {method: made(folder) for method in ("orca", "pare")}
    after = {}
    for method, model in models.items():
        settings = {"epochs": 4, "batch_size": 6, "optimizer": "adamw", "clip": 1.0}
        align = Align(method=method, mixed_until=0.25)
        with plan(model, Series(), nn.CrossEntropyLoss(), align=align, source=SOURCE, **settings) as steps:
            for step in (2, 3):
                steps.take(step)
            after[method] = {name: value.clone() for name, value in model.state_dict().items()}
            steps.take(1)
    assert all(torch.equal(value, after["pare"][name]) for name, value in after["orca"].items())
    one, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models.values())
    assert not torch.equal(one, other)
