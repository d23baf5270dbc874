"""Splits are disjoint, stratified and a function of their seed."""

import numpy as np
import pytest
from hypothesis import assume, given
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
    assume(n >= 10)
    drawn = split(n, validation=validation, test=test, seed=seed, classes=classes)
    assert np.array_equal(np.sort(np.concatenate(drawn)), np.arange(n))
    for rows in drawn:
        class_counts = np.bincount(classes[rows], minlength=len(counts))
        # Each border cuts every class within one sample; the last of each class, kept for train, shifts the rest.
        share = np.array(counts) / n
        assert (np.abs(class_counts - share * len(rows)) < 2.5 + share * len(counts)).all()
    if len(drawn.train) >= len(counts):
        assert set(classes[drawn.train]) == set(range(len(counts)))


def test_the_split_is_that_of_the_seed():
    train = [split(100, validation=20, test=0.3, seed=seed).train for seed in (3, 3, 4)]
    assert np.array_equal(train[0], train[1])
    assert not np.array_equal(train[0], train[2])


def test_the_last_samples_are_held_out_on_request():
    train, validation = hold_out(np.arange(500) % 5, "last", 100, train_size=50)
    assert np.array_equal(validation, np.arange(400, 500))
    assert (len(train), train.max() < 400) == (50, True)


@examples(30)
@given(**DRAWS, count=st.integers(2, 12))
def test_folds_hold_every_class_in_proportion(counts, count, seed):
    classes, n = shuffled(counts, seed), sum(counts)
    assume(n >= count)
    fold = folds(n, count, seed=seed, classes=classes)
    assert fold.shape == (n,)
    assert np.ptp(np.bincount(fold, minlength=count)) <= 1
    for label in range(len(counts)):
        assert np.ptp(np.bincount(fold[classes == label], minlength=count)) <= 1


def test_folds_are_those_of_the_seed():
    classes = np.arange(40) % 3
    fold = [folds(40, 4, seed=seed, classes=classes) for seed in (1, 1, 2)]
    assert np.array_equal(fold[0], fold[1])
    assert not np.array_equal(fold[0], fold[2])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            None,
            "train.folds: 9 folds need at least 9 training samples, got 8; use train.folds=8 or less",
        ),
        (
            np.arange(8) // 2,
            "train.folds: 9 folds need at least 9 groups of samples, got 4; use train.folds=4 or",
        ),
        (np.zeros(8), "train.folds: 9 folds need at least 9 groups of samples, got 1$"),
    ],
    ids=["samples", "groups", "one group"],
)
def test_more_folds_than_samples_or_groups_are_refused(groups, message):
    with pytest.raises(DataError, match=message):
        folds(8, 9, groups=groups)


GROUPS = np.repeat([7, 3, 9, 1, 5, 2], [4, 1, 5, 3, 2, 5])
GROUP_CLASSES = np.repeat([0, 1], [10, 10])  # three groups each


def test_groups_stay_in_one_fold():
    fold = folds(20, 3, seed=1, classes=GROUP_CLASSES, groups=GROUPS)
    assert [len(set(fold[group == GROUPS])) for group in set(GROUPS)] == [1] * 6
    assert [len(np.unique(GROUPS[fold == i])) for i in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("i", range(3))
def test_a_fold_has_groups_of_every_class(i):
    fold = folds(20, 3, seed=1, classes=GROUP_CLASSES, groups=GROUPS)
    medians = {int(np.median(GROUP_CLASSES[group == GROUPS])) for group in GROUPS[fold == i]}
    assert medians == {0, 1}


@pytest.mark.parametrize("train", [np.array([1, 2]), np.array(["1", "2.0"], object)])
@pytest.mark.parametrize("test", [[1.0, 3.5], ["1.0", "p2"], ["1", "3"], np.array(["1."], object)])
def test_groups_are_the_same_whatever_type_their_numbers_have(train, test):
    with pytest.raises(DataError, match="group '1' is also in"):
        group_rows({"train": (train, "a"), "test": (np.array(test), "b")})


def test_names_that_look_like_numbers_are_different_groups():
    names = np.array(["1.0", "1.10", "01"], object)
    assert group_rows({"train": (names, "a")})["train"].tolist() == [1, 2, 0]


def test_groups_of_several_files_are_numbered_together():
    numbers = group_rows({"train": (np.array([1, 2]), "a"), "test": (np.array([4.0, 3.0]), "b")})
    assert numbers["train"].tolist() == [0, 1]
    assert numbers["test"].tolist() == [3, 2]
