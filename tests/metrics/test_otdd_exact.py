"""The exact dataset distance: against assignment problems, closed forms; solver failures."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Features
from orca_cli.metrics.otdd_exact import OTDDExact
from tests.metrics.generators import KNOWN, distance, labelled, value
from tests.properties import examples


def assigned(cost):
    """The optimal transport between uniform weights as an assignment: every point is repeated until counts agree."""
    n, m = cost.shape
    copies = np.lcm(n, m)
    repeated = cost.repeat(copies // n, 0).repeat(copies // m, 1)
    rows, columns = linear_sum_assignment(repeated)
    return repeated[rows, columns].mean()


def assigned_otdd(source, target):
    x, z, rows, columns = (part.numpy() for part in (source.x, target.x, source.labels, target.labels))
    squares = cdist(x, z, "sqeuclidean")
    total = squares / 2
    for a in np.unique(rows):
        for b in np.unique(columns):
            block = np.ix_(rows == a, columns == b)
            total[block] += assigned(squares[block]) / 2
    return assigned(total)


@examples(15)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(4, 12),
    m=st.integers(4, 8),
    k=st.integers(1, 4),
    l=st.integers(1, 3),
)
def test_value_is_that_of_assignment(seed, n, m, k, l):  # noqa: E741
    source, target = labelled(n, 3, k, seed, "source", spread=2), labelled(m, 3, l, seed, "target")
    assert value(OTDDExact(), source, target) == pytest.approx(assigned_otdd(source, target), rel=1e-9)
    assert value(OTDDExact(), target, source) == pytest.approx(value(OTDDExact(), source, target), rel=1e-9)
    assert value(OTDDExact(), source, source) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("generator", KNOWN)
def test_one_class_each_is_the_squared_wasserstein_distance(generator):
    x, z, expected = generator()
    assert value(OTDDExact(), x, z) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_float32_far_from_the_origin_and_classes_without_points():
    source, target = labelled(20, 3, 2, "source"), labelled(9, 3, 3, "target")
    shift = torch.full((3,), 100.0)
    moved = [Features((part.x + shift).float(), part.labels + 1, 5) for part in (source, target)]
    result = distance(OTDDExact(), *moved)
    assert result.value.dtype == torch.float32
    assert result.value.item() == pytest.approx(value(OTDDExact(), source, target), rel=1e-4)
    assert result.diagnostics["marginal_error"] < 1e-12


def test_an_unsolved_program_is_an_error():
    source, target = labelled(60, 3, 2, "source"), labelled(40, 3, 2, "target")
    with pytest.raises(NonFiniteError, match=r"metric\.max_iterations"):
        distance(OTDDExact(max_iterations=3), source, target)
