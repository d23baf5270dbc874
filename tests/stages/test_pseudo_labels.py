"""Classes for targets without classes: the samples that belong together, and properties that must not decide it."""

import numpy as np
import pytest

from orca_cli.stages import pseudo_labels
from orca_cli.stages.pseudo_labels import class_labels


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 3, n)
    return (10 * which[:, None, None] + rng.normal(size=(n, 4, 5))).astype(np.float32), which


def same_partition(a, b):
    return (
        len({*zip(a.tolist(), b.tolist(), strict=True)})
        == len(set(a.tolist()))
        == len(set(b.tolist()))
    )


@pytest.mark.parametrize("whole", [True, False])
def test_validation_gets_the_clusters_of_training_targets(monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(pseudo_labels, "WHOLE_VALUES", 100)
        monkeypatch.setattr(pseudo_labels, "BATCH_VALUES", 400)
    (train, which), (validation, which_validation) = clusters(200, 0), clusters(50, 1)
    classes = class_labels("dense", train, validation, num_clusters=3, seed=0)
    assert same_partition(classes[0], which)
    assert same_partition(np.concatenate(classes), np.concatenate([which, which_validation]))
    again = class_labels("dense", train, validation, num_clusters=3, seed=0)
    assert np.array_equal(classes[0], again[0])


def test_one_number_a_sample_is_binned_by_quantiles_of_training():
    rng = np.random.default_rng(0)
    train = rng.lognormal(0, 2, (200, 1)).astype(np.float32)
    validation = np.array([[-1.0], [1e9], [np.nan]], np.float32)
    classes = class_labels("values", train, validation, num_clusters=5, seed=0)
    assert np.bincount(classes[0]).tolist() == [40] * 5
    assert np.all(
        np.diff(classes[0][np.argsort(train[:, 0])]) >= 0
    )  # bins are in the order of the numbers
    assert classes[1].tolist() == [0, 4, 2]


@pytest.mark.parametrize("number", [0.0, 7.0, 19.0])
def test_no_bin_is_empty_where_most_numbers_are_equal(number):
    numbers = np.concatenate([np.full(80, number), np.arange(20)])
    equal = numbers[:, None].astype(np.float32)
    larger = np.array([[1e9]], np.float32)
    bins, larger_bins = class_labels("values", equal, larger, num_clusters=10, seed=0)
    assert (np.bincount(bins) > 0).all()
    assert len(set(bins)) > 1
    assert larger_bins[0] == bins.max()


def test_classes_are_their_own_labels():
    classes = class_labels("classes", np.array([3, 1, 2]), np.array([1]), num_clusters=10, seed=0)
    assert [labels.tolist() for labels in classes] == [[3, 1, 2], [1]]


def targets(form, content, region, rng):
    """Return kind and targets of 200 samples that follow `content`.

    The targets also contain gaps or numbers in a large unit, which must not decide the clusters.
    """
    if form == "a number of large values":
        small, large = content + 0.05 * rng.normal(size=200), 1e3 * rng.normal(size=200)
        return "values", np.stack([small, large], axis=1).astype(np.float32)
    if form == "unknown classes":
        y = np.where(
            rng.random((200, 40)) < 0.9, content[:, None] * 3, rng.integers(0, 4, (200, 40))
        )
    else:
        y = (10 + content[:, None] + 0.3 * rng.normal(size=(200, 40))).astype(np.float32)
    for half in (0, 1):  # one of two halves is unknown, by the region of the sample
        y[region == half, 20 * half : 20 * half + 20] = (
            -100 if form == "unknown classes" else np.nan
        )
    return "dense", y if form == "unknown classes" else y[:, None]


@pytest.mark.parametrize("form", ["unknown numbers", "unknown classes", "a number of large values"])
def test_neither_gaps_nor_a_large_unit_decide_the_clusters(form):
    rng = np.random.default_rng(1)
    content, region = rng.integers(0, 2, (2, 200))
    kind, y = targets(form, content, region, rng)
    labels, _ = class_labels(kind, y, y[:1], num_clusters=2, seed=0)
    agreement = np.mean(labels == content)
    assert max(agreement, 1 - agreement) > 0.99
