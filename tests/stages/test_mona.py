"""MoNA: the gradient of the outer loss, what the losses are, and that the body is left as it is."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_cli.interfaces import Examples, Tokens
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import text
from orca_cli.models.predictors import pooled
from orca_cli.stages.successors import discriminability, outer, pairs_of_classes, source_tokens
from tests.checkpoints import save_tiny_bert

RATE, WEIGHT = 0.3, 0.7
TEXTS = ["a list", "return the", "of a", "the list of", "return", "a", "the of", "list list"]


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """A BERT of two layers in float64, its loss on the target, and that of the source for given weights of the body."""
    body = text.load(str(save_tiny_bert(tmp_path_factory.mktemp("bert") / "bert")))
    model = build_model(body=body, kind="classes", input_shape=(2, 40), num_outputs=3, seed=0).double().eval()
    x = torch.randn(6, 2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = source_tokens(body, Examples(TEXTS, np.arange(8) % 2, ["a", "b"]), np.arange(8))
    tokens = Tokens(tokens.x.double(), tokens.mask, tokens.grid)

    def target():
        return nn.functional.cross_entropy(model(x), torch.arange(6) % 3)

    def source(values):
        return discriminability(pooled(functional_call(body, dict(values), (tokens,))))

    return model, target, source


def test_the_gradient_is_that_of_finite_differences(losses):
    """Along random directions of all of the embedder's parameters, by central differences of the outer loss itself."""
    model, target, source = losses
    body, embedder = dict(model.body.named_parameters()), list(model.embedder.parameters())

    def value(direction, step):
        with torch.no_grad():
            torch._foreach_add_(embedder, direction, alpha=step)
        gradients = torch.autograd.grad(target(), list(body.values()))
        moved = {name: weight - RATE * move for (name, weight), move in zip(body.items(), gradients, strict=True)}
        result = (target() + WEIGHT * source(moved)).item()
        with torch.no_grad():
            torch._foreach_add_(embedder, direction, alpha=-step)
        return result

    with sdpa_kernel(SDPBackend.MATH):
        both = [outer(target, source, body, embedder, rate=rate, weight=WEIGHT)[2] for rate in (RATE, 0.0)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        direction = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in embedder]
        expected = (value(direction, 1e-5) - value(direction, -1e-5)) / 2e-5
        slope, plain = (
            sum((grad * way).sum().item() for grad, way in zip(grads, direction, strict=True) if grad is not None)
            for grads in both
        )
        assert slope == pytest.approx(expected, rel=1e-5)
        assert abs(plain - expected) > 1e-3 * abs(expected)  # the second derivative matters


def test_classes_that_are_apart_score_lower_than_classes_that_are_mixed():
    """Two classes at opposite poles: alignment 0, and the uniformity of two points known by hand."""
    poles = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    assert float(discriminability(torch.cat([poles, poles]))) == pytest.approx(-2 * 4)  # exp(-2 |a - b|^2), one pair
    assert float(discriminability(torch.cat([poles, poles.flip(0)]))) == pytest.approx(4 - 8)
    assert float(discriminability(torch.ones(8, 2))) == pytest.approx(0.0, abs=1e-6)


def test_pairs_are_of_one_class_and_of_two_examples():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [30, 2, 9]))
    rows = pairs_of_classes(labels, 20, np.random.default_rng(1))
    assert rows.shape == (2, 20)
    assert (labels[rows[0]] == labels[rows[1]]).all()
    assert (rows[0] != rows[1]).all()
    assert pairs_of_classes(labels, 99, np.random.default_rng(1)).shape == (2, 41)
