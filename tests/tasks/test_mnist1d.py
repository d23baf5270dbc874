"""MNIST-1D as its package generates it, against what its authors published."""

import random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from orca_cli.benchmarks.mnist1d import load
from orca_cli.data.samples import ArraySamples


def inputs(samples: ArraySamples) -> np.ndarray:
    return samples.batch(np.arange(len(samples))).x.numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_a_linear_model_has_the_published_accuracy(folder, reporter):
    """32 % of the test samples (Greydanus and Kobak 2024, table 1), of all training samples."""
    task = load(folder, reporter, train_size=3999, validation_size=1)
    test = task.open_test()
    model = LogisticRegression(max_iter=1000).fit(inputs(task.train)[:, 0], task.train.targets())
    assert model.score(inputs(test)[:, 0], test.targets()) == pytest.approx(0.32, abs=0.03)


def test_splits_are_balanced_and_share_no_sample(folder, reporter):
    task = load(folder, reporter)
    test = task.open_test()
    splits = (task.train, task.validation, test)
    assert [len(split) for split in splits] == [1000, 300, 1000]
    assert task.input_shape == (1, 40)
    assert np.bincount(task.train.targets()).min() >= 95
    rows = np.concatenate([inputs(split)[:, 0] for split in splits])
    assert len(np.unique(rows, axis=0)) == 2300


def test_generating_leaves_the_global_generators_alone(tmp_path, reporter):
    random.seed(1)
    np.random.seed(1)
    expected = (random.random(), np.random.random())
    random.seed(1)
    np.random.seed(1)
    load(tmp_path, reporter)
    assert (random.random(), np.random.random()) == expected


def test_the_same_bits_come_every_time(folder, tmp_path, reporter):
    digests = {load(cache, reporter).train.digest() for cache in (folder, tmp_path)}
    assert len(digests) == 1
