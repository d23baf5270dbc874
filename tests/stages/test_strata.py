"""The points of a draw: samples of one size, no point in common, each class by its share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.stages.strata import by_class, choose_classes
from tests.properties import examples


def drawn(sizes, samples, most, size, seed=0):
    """The classes [samples, points] of the points that a draw takes, their rows, and the strata."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    classes = choose_classes(dict(enumerate(sizes)), samples, most, generator)
    strata = by_class(labels, classes)
    rows = strata.draw(size, generator)
    return labels[rows], rows, strata


@examples(100)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    samples=st.integers(1, 4),
    most=st.integers(0, 8),
    size=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_samples_are_disjoint_and_each_class_has_its_share(sizes, samples, most, size, seed):
    sizes = [*sizes, samples]  # so that one class has a point for every sample
    classes, rows, strata = drawn(sizes, samples, most, size, seed)
    assert rows.shape == (samples, min(size, strata.limit))
    assert len(np.unique(rows)) == rows.size
    for sample, of_sample in zip(classes, strata.classes, strict=True):
        assert len(of_sample) <= (most or len(sizes))
        assert set(sample) <= set(of_sample)
        of_classes = np.array([sizes[label] for label in of_sample])
        assert of_classes.min() >= samples
        counts = np.array([(sample == label).sum() for label in of_sample])
        assert (abs(counts - rows.shape[1] * of_classes / of_classes.sum()) < 1).all()
    # The samples together use at least half of the points of these classes, up to rounding.
    if not most or most >= len(sizes):
        assert strata.limit > sum(s for s in sizes if s >= samples) / (2 * samples) - 1


def test_every_class_has_its_share_in_expectation():
    sizes = [60, 21, 6, 4, 3]
    draws = np.stack([drawn(sizes, 2, 0, 10, seed)[0] for seed in range(3000)])
    counts = np.stack([(draws == label).sum(2).mean(0) for label in range(5)], 1)
    shares = np.array(sizes) / sum(sizes)
    assert counts == pytest.approx(np.stack([10 * shares] * 2), abs=0.05)


def test_samples_draw_their_classes_apart_and_every_class_alike():
    draws = np.stack([drawn([9] * 5, 2, 2, 4, seed)[0] for seed in range(2000)])
    has = np.stack([(draws == label).any(2) for label in range(5)], 2)  # [draws, samples, classes]
    assert (has.sum(2) == 2).all()
    assert has.mean(0) == pytest.approx(np.full((2, 5), 2 / 5), abs=0.04)
    in_both = (has[:, 0] & has[:, 1]).mean(0)
    assert in_both == pytest.approx(np.full(5, 4 / 25), abs=0.04)


@pytest.mark.parametrize("seed", range(20))
def test_a_class_with_fewer_points_than_samples_is_left_out(seed):
    classes, rows, _ = drawn([1, 2, 3, 9], 3, 8, 50, seed)
    assert set(classes.flat) == {2, 3}
    assert rows.shape == (3, 4)


def test_classes_that_are_all_too_small_count_as_one():
    few = [drawn([1, 2, 2, 2], 3, 8, 50, seed) for seed in range(20)]
    assert all(rows.shape == (3, 2) for _, rows, _ in few)
    assert {label for classes, *_ in few for label in classes.flat} == {0, 1, 2, 3}
