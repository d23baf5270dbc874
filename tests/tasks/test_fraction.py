"""A part of the training split: seeded, in proportion, nested, and nothing else of a task changes."""

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError
from orca_cli.interfaces import TaskData
from orca_cli.tasks.shared.fraction import with_fraction
from orca_cli.tasks.shared.samples import ArraySamples
from tests.tasks.builders import refused

N = 200
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 1, 4))
CLASSES = np.repeat([0, 1, 2], [150, 40, 10])


def task(kind="classes", y=CLASSES, k=3):
    train = ArraySamples(X, y, groups=np.arange(N) // 2)
    other = ArraySamples(X[:9], y[:9])
    return TaskData(kind, (1, 4), k, train, other, lambda: other, note="as read")


def test_every_class_is_there_in_proportion_and_smaller_parts_lie_within_larger_ones():
    before: set[int] = set()
    for fraction in (0.05, 0.1, 0.5, 0.99):
        part = with_fraction(task(), fraction, 0).train
        assert len(part) == round(fraction * N)
        counts = np.bincount(part.targets(), minlength=3)
        assert np.all(np.abs(counts - fraction * np.array([150, 40, 10])) <= 1)
        rows = set(part.rows.tolist())
        assert before <= rows
        before = rows


def test_the_draw_is_that_of_the_seed():
    rows = [with_fraction(task(), 0.2, seed).train.rows for seed in (0, 0, 1)]
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    draws = ((0.2, 0), (0.2, 1), (0.3, 0))
    digests = {with_fraction(task(), fraction, seed).train.digest() for fraction, seed in draws}
    assert len({*digests, task().train.digest()}) == 4
    assert with_fraction(task(), 0.2, 0).train.digest() in digests


def test_a_part_gives_the_samples_of_the_whole():
    whole = task()
    part = with_fraction(whole, 0.2, 0).train
    batch, same = part.batch(np.array([3, 0, 3])), whole.train.batch(part.rows[[3, 0, 3]])
    assert torch.equal(batch.x, same.x)
    assert torch.equal(batch.y, same.y)
    assert np.array_equal(part.targets(), whole.train.targets()[part.rows])
    assert np.array_equal(part.groups(), whole.train.groups()[part.rows])


def test_validation_and_test_stay_and_the_note_says_what_is_used():
    whole = task()
    reduced = with_fraction(whole, 0.2, 0)
    assert reduced.validation is whole.validation
    assert reduced.open_test is whole.open_test
    used = "40 of 200 training samples are used (task.train_fraction=0.2, every class in proportion)"
    assert reduced.note == f"as read; {used}"
    assert with_fraction(whole, None, 0) is whole


OTHERS = {"values": RNG.normal(size=(N, 2)), "labels": np.eye(2)[np.arange(N) % 2], "dense": RNG.normal(size=(N, 1, 4))}


@pytest.mark.parametrize(("kind", "y"), OTHERS.items())
def test_other_kinds_are_drawn_without_classes(kind, y):
    part = with_fraction(task(kind, y.astype(np.float32), y.shape[1]), 0.1, 0).train
    assert len(set(part.rows.tolist())) == len(part) == 20


def test_every_class_keeps_a_sample_while_there_are_enough_and_what_is_lost_is_reported():
    many = np.concatenate([np.arange(40), RNG.integers(0, 40, N - 40)])
    for seed in range(5):
        reduced = with_fraction(task(y=many, k=40), 0.2, seed)
        assert len(set(reduced.train.targets())) == 40
        assert "without any" not in reduced.note
    reduced = with_fraction(task(y=many, k=40), 0.1, 0)
    assert len(set(reduced.train.targets())) == 20
    assert "in proportion), which leaves 20 classes without any" in reduced.note


def test_a_single_sample_is_refused():
    with refused(r"task\.train_fraction: 0\.001 leaves 1 of 200 training samples; at least 2 are", DataError):
        with_fraction(task(), 0.001, 0)
