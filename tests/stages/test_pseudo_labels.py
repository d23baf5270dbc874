import numpy as np
import pytest

from orca_cli.stages import pseudo_labels
from orca_cli.stages.pseudo_labels import class_labels


def clusters(n, seed):
    """Maps around three far centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 3, n)
    return (10 * which[:, None, None] + rng.normal(size=(n, 4, 5))).astype(np.float32), which


def same_partition(a, b):
    return len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in batches"])
def test_clusters_of_training_targets_are_found_and_given_to_validation(monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(pseudo_labels, "_WHOLE_VALUES", 100)
        monkeypatch.setattr(pseudo_labels, "_BATCH_VALUES", 400)
    (train, which), (validation, which_validation) = clusters(200, 0), clusters(50, 1)
    found = class_labels("dense", train, validation, num_clusters=3, seed=0)
    assert same_partition(found[0], which)
    assert same_partition(np.concatenate(found), np.concatenate([which, which_validation]))
    again = class_labels("dense", train, validation, num_clusters=3, seed=0)
    assert np.array_equal(found[0], again[0])


def test_classes_are_their_own_labels():
    train, validation = np.array([3, 1, 2]), np.array([1])
    found = class_labels("classes", train, validation, num_clusters=10, seed=0)
    assert [labels.tolist() for labels in found] == [[3, 1, 2], [1]]


def test_missing_targets_and_few_samples_are_no_fault():
    train = np.array([[np.nan, 1.0], [0.0, 1.0]])
    found = class_labels("labels", train, train, num_clusters=10, seed=0)
    assert max(found[0]) <= 1
