"""A fraction of the training split: seeded, in proportion, nested; the rest of a task is kept."""

import numpy as np
import pytest
import torch

from orca_cli.data.fraction import Joined, with_fraction
from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import DataError
from orca_cli.interfaces import TaskData
from tests.tasks.builders import refused

N = 200
X = np.random.default_rng(0).normal(size=(N, 1, 4))
CLASSES = np.repeat([0, 1, 2], [150, 40, 10])


def task(y=CLASSES, k=3):
    train = ArraySamples(X, y, groups=np.arange(N) // 2)
    other = ArraySamples(X[:9], y[:9])
    return TaskData("classes", (1, 4), k, train, other, lambda: other, note="as read")


def test_fractions_are_nested_with_classes_in_proportion():
    before: set[int] = set()
    for fraction in (0.05, 0.1, 0.5, 0.99):
        part = with_fraction(task(), fraction, 0).train
        assert len(part) == round(fraction * N)
        counts = np.bincount(part.targets(), minlength=3)
        assert np.all(np.abs(counts - fraction * np.array([150, 40, 10])) <= 1)
        rows = set(part.rows.tolist())
        assert before <= rows
        before = rows


def test_classes_keep_a_sample_or_their_loss_is_reported():
    many = np.concatenate([np.arange(40), np.random.default_rng(0).integers(0, 40, N - 40)])
    assert len(set(with_fraction(task(y=many, k=40), 0.2, 3).train.targets())) == 40
    reduced = with_fraction(task(y=many, k=40), 0.1, 0)
    assert len(set(reduced.train.targets())) == 20
    assert "in proportion), which leaves 20 classes without any" in reduced.note


def test_a_fraction_has_samples_of_the_whole_by_the_seed():
    whole = task()
    reduced = with_fraction(whole, 0.2, 0)
    part = reduced.train
    batch, same = part.batch(np.array([3, 0, 3])), whole.train.batch(part.rows[[3, 0, 3]])
    assert torch.equal(batch.x, same.x)
    assert np.array_equal(part.targets(), whole.train.targets()[part.rows])
    assert np.array_equal(part.groups(), whole.train.groups()[part.rows])
    draws = [
        with_fraction(whole, fraction, seed).train
        for fraction, seed in ((0.2, 0), (0.2, 1), (0.3, 0))
    ]
    assert not np.array_equal(draws[1].rows, part.rows)
    assert len({*(reduced.digest() for reduced in draws), whole.train.digest()}) == 4
    with refused(
        r"task\.train_fraction: 0\.001 leaves 1 of 200 training samples; at least 2 are", DataError
    ):
        with_fraction(task(), 0.001, 0)


@pytest.mark.parametrize("rows", [[10, 0, 6, 5, 4, 7, 0], [6], [3, 2]], ids=str)
def test_joined_splits_keep_the_requested_order_and_masks(rows):
    numbers, mask = np.arange(11), np.tile(np.arange(4) < 3, (2, 1))
    x = numbers[:, None, None].astype(np.float32) * np.ones((1, 1, 4), np.float32)
    parts = ((0, 5, None), (5, 7, mask), (7, 11, None))
    joined = Joined([ArraySamples(x[i:j], numbers[i:j], valid) for i, j, valid in parts])
    assert joined.targets().tolist() == list(range(len(joined))) == list(range(11))
    assert joined.groups() is None
    batch = joined.batch(np.array(rows))
    assert batch.y.tolist() == batch.x[:, 0, 0].tolist() == rows
    steps = [3 if row in (5, 6) else 4 for row in rows]
    assert batch.valid is None if set(steps) == {4} else batch.valid.sum(1).tolist() == steps
