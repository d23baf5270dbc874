"""A part of the training split: seeded, in proportion, nested, and nothing else of a task changes."""

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
COUNTS = [150, 40, 10]
CLASSES = np.repeat([0, 1, 2], COUNTS)
MANY = np.concatenate([np.arange(40), np.random.default_rng(0).integers(0, 40, N - 40)])


def task(y=CLASSES, k=3):
    train = ArraySamples(X, y, groups=np.arange(N) // 2)
    other = ArraySamples(X[:9], y[:9])
    return TaskData(
        kind="classes",
        input_shape=(1, 4),
        num_outputs=k,
        train=train,
        validation=other,
        open_test=lambda: other,
        note="as read",
    )


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.99])
def test_every_class_is_in_a_part_in_proportion(fraction):
    part = with_fraction(task(), fraction, 0).train
    assert len(part) == round(fraction * N)
    counts = np.bincount(part.targets(), minlength=3)
    assert np.all(np.abs(counts - fraction * np.array(COUNTS)) <= 1)


def test_smaller_parts_lie_within_larger_ones():
    parts = [with_fraction(task(), fraction, 0).train for fraction in (0.05, 0.1, 0.5, 0.99)]
    rows = [set(part.rows.tolist()) for part in parts]
    assert rows[0] < rows[1] < rows[2] < rows[3]


def test_every_class_keeps_a_sample_while_there_are_enough():
    part = with_fraction(task(y=MANY, k=40), 0.2, 3).train
    assert len(set(part.targets())) == 40


def test_classes_without_a_sample_are_reported():
    reduced = with_fraction(task(y=MANY, k=40), 0.1, 0)
    assert len(set(reduced.train.targets())) == 20
    assert "stratified by class), so 20 classes have no training sample" in reduced.note


def test_a_part_gives_the_samples_of_the_whole():
    whole = task()
    part = with_fraction(whole, 0.2, 0).train
    batch = part.batch(np.array([3, 0, 3]))
    expected = whole.train.batch(part.rows[[3, 0, 3]])
    assert torch.equal(batch.x, expected.x)
    assert torch.equal(batch.y, expected.y)
    assert np.array_equal(part.targets(), whole.train.targets()[part.rows])
    assert np.array_equal(part.groups(), whole.train.groups()[part.rows])


def test_a_part_is_that_of_the_seed():
    rows = [with_fraction(task(), 0.2, seed).train.rows for seed in (0, 0, 1)]
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


def test_the_digest_is_that_of_the_part():
    whole = task()
    draws = [(0.2, 0), (0.2, 1), (0.3, 0)]
    parts = [with_fraction(whole, fraction, seed).train for fraction, seed in draws]
    assert len({samples.digest() for samples in (*parts, whole.train)}) == 4


def test_a_part_of_one_sample_is_refused():
    message = r"task\.train_fraction: 0\.001 leaves 1 of 200 training samples, fewer than 2"
    with refused(message, DataError):
        with_fraction(task(), 0.001, 0)


@pytest.fixture
def joined():
    """Return splits of 5, 2 and 4 samples, whose values are their numbers; the second has a mask."""
    numbers = np.arange(11)
    mask = np.tile(np.arange(4) < 3, (2, 1))
    x = numbers[:, None, None].astype(np.float32) * np.ones((1, 1, 4), np.float32)
    splits = [(0, 5, None), (5, 7, mask), (7, 11, None)]
    return Joined([ArraySamples(x[i:j], numbers[i:j], valid) for i, j, valid in splits])


def test_joined_splits_follow_one_another(joined):
    assert joined.targets().tolist() == list(range(len(joined))) == list(range(11))
    assert joined.groups() is None


@pytest.mark.parametrize("rows", [[10, 0, 6, 5, 4, 7, 0], [6], [3, 2]])
def test_joined_samples_come_in_the_order_asked_for(rows, joined):
    batch = joined.batch(np.array(rows))
    assert batch.y.tolist() == batch.x[:, 0, 0].tolist() == rows


@pytest.mark.parametrize(
    ("rows", "steps"), [([6, 10, 4, 5], [3, 4, 4, 3]), ([6], [3])], ids=["mixed", "masked"]
)
def test_joined_samples_keep_their_masks(rows, steps, joined):
    assert joined.batch(np.array(rows)).valid.sum(1).tolist() == steps


def test_joined_samples_without_padding_have_no_mask(joined):
    assert joined.batch(np.array([3, 2])).valid is None
