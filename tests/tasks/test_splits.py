"""Splits are disjoint, stratified and a function of their seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.splits import folds, group_rows, hold_out, split
from orca_cli.exceptions import DataError
from tests.properties import examples

DRAWS = {
    "counts": st.lists(st.integers(1, 60), min_size=1, max_size=6),
    "seed": st.integers(0, 2**31 - 1),
}


def shuffled(counts, seed):
    """Return the class of each sample, in any order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@examples(30)
@given(**DRAWS, validation=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_splits_are_disjoint_complete_and_stratified(counts, validation, test, seed):
    classes, n = shuffled(counts, seed), sum(counts)
    if n < 10:
        return
    parts = split(n, validation=validation, test=test, seed=seed, classes=classes)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert np.array_equal(np.sort(together), np.arange(n))
    for rows in (parts.train, parts.validation, parts.test):
        class_counts = np.bincount(classes[rows], minlength=len(counts))
        # Each border cuts every class within one sample; the last sample of each class, which train
        # keeps, shifts the others.
        share = np.array(counts) / n
        assert (np.abs(class_counts - share * len(rows)) < 2.5 + share * len(counts)).all()
    if len(parts.train) >= len(counts):
        assert set(classes[parts.train]) == set(range(len(counts)))


def test_the_split_is_that_of_the_seed():
    first, same, other = (split(100, validation=20, test=0.3, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.train, same.train)
    assert not np.array_equal(first.train, other.train)
    train, validation = hold_out(np.arange(500) % 5, "last", 100, train_size=50)
    assert np.array_equal(validation, np.arange(400, 500))
    assert (len(train), train.max() < 400) == (50, True)


@examples(30)
@given(**DRAWS, count=st.integers(2, 12))
def test_folds_hold_samples_once_and_classes_in_proportion(counts, count, seed):
    classes, n = shuffled(counts, seed), sum(counts)
    if n < count:
        with pytest.raises(DataError, match=f"{count} folds of {n} training samples"):
            folds(n, count, seed=seed, classes=classes)
        return
    fold = folds(n, count, seed=seed, classes=classes)
    assert np.ptp(np.bincount(fold, minlength=count)) <= 1
    for value in range(len(counts)):
        assert np.ptp(np.bincount(fold[classes == value], minlength=count)) <= 1
    assert np.array_equal(fold, folds(n, count, seed=seed, classes=classes))


def test_a_fold_has_whole_groups_and_another_seed_other_ones():
    groups = np.repeat([7, 3, 9, 1, 5, 2], [4, 1, 5, 3, 2, 5])
    classes = np.repeat([0, 1], [10, 10])
    fold = folds(20, 3, seed=1, classes=classes, groups=groups)
    assert [len(set(fold[groups == group])) for group in set(groups)] == [1] * 6
    assert [len(np.unique(groups[fold == i])) for i in range(3)] == [2, 2, 2]
    # Each class has three groups: every fold gets one group of each class.
    assert all(
        {0, 1} == {int(np.median(classes[groups == g])) for g in set(groups[fold == i])}
        for i in range(3)
    )


@pytest.mark.parametrize("test", [[1.0, 3.5], ["1.0", "p2"], ["1", "3"], np.array(["1."], object)])
@pytest.mark.parametrize("train", [np.array([1, 2]), np.array(["1", "2.0"], object)], ids=str)
def test_groups_are_the_same_whatever_type_their_numbers_have(train, test):
    with pytest.raises(DataError, match="group '1' is also in"):
        group_rows({"train": (train, "a"), "test": (np.array(test), "b")})


def test_groups_of_several_files_are_numbered_together():
    names = np.array(["1.0", "1.10", "01"], object)  # of versions and names: none is another
    assert group_rows({"train": (names, "a")})["train"].tolist() == [1, 2, 0]
    group_numbers = group_rows(
        {"train": (np.array([1, 2]), "a"), "test": (np.array([4.0, 3.0]), "b")}
    )
    assert {part: numbers.tolist() for part, numbers in group_numbers.items()} == {
        "train": [0, 1],
        "test": [3, 2],
    }
