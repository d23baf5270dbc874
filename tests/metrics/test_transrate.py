"""TransRate: against the authors' formula, what it does and does not see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.interfaces import Features
from orca_cli.metrics.transrate import TransRate
from tests.metrics.generators import gradient, labelled, value
from tests.properties import examples

SOURCE = labelled(5, 2, 1, "source")


def definition(target, eps, normalise=True):
    """TransRate by eigenvalues, as the formula reads."""
    z = target.x.numpy() - target.x.numpy().mean(0)
    if normalise:
        z = z / np.sqrt(np.trace(z.T @ z))

    def rate(rows):
        return np.log1p(np.linalg.svd(rows, compute_uv=False) ** 2 / (len(rows) * eps)).sum() / 2

    classes = [z[target.labels.numpy() == label] for label in np.unique(target.labels)]
    return rate(z) - np.mean([rate(rows) for rows in classes])


# Fewer points than dimensions, more, and classes on both sides.
@pytest.mark.parametrize(("n", "d", "k"), [(30, 4, 3), (9, 20, 3), (24, 7, 4), (12, 3, 1)])
@pytest.mark.parametrize("normalise", [True, False])
def test_value_is_minus_transrate(n, d, k, normalise):
    target = labelled(n, d, k, "target", spread=2)
    for eps in (1e-4, 0.5):
        expected = -definition(target, eps, normalise)
        assert value(TransRate(eps, normalise), SOURCE, target) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@examples(20)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), d=st.integers(1, 5))
def test_properties(seed, k, d):
    target, metric = labelled(12, d, k, seed, "target"), TransRate()
    expected = value(metric, SOURCE, target)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert value(metric, SOURCE, Features(target.x[order], target.labels[order], k)) == pytest.approx(
        expected, abs=1e-9
    )
    assert value(metric, SOURCE, Features(target.x, target.labels + 2, k + 4)) == pytest.approx(expected, abs=1e-12)
    assert value(metric, SOURCE, Features(target.x * 7 + 3, target.labels, k)) == pytest.approx(expected, abs=1e-8)


def test_one_class_gives_zero_and_a_finite_gradient():
    target = labelled(8, 3, 1, "one class")
    assert value(TransRate(), SOURCE, target) == pytest.approx(0, abs=1e-9)
    assert gradient(TransRate(), SOURCE, target).abs().max() < 1e-6
