"""Batches are read ahead, a few at a time, with no other visible effect."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from orca_cli.exceptions import DataError, MemoryExhaustedError, NonFiniteError
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.feed import Feed
from orca_cli.training.loop import predict, train_step
from tests.training.toy import Dense, Pairs, engine, optimizer, plan

SOON = 20.0  # seconds to wait for what should happen at once


def until(condition):
    end = time.monotonic() + SOON
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def feeds():
    return [thread for thread in threading.enumerate() if thread.name.startswith("orca-feed")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert until(lambda: not feeds())


def numbered(n, made):
    for number in range(n):
        yield lambda number=number: made.append(number) or number


def test_results_come_in_order_and_two_at_most_are_ready():
    made = []
    with Feed(numbered(9, made)) as feed:
        for taken in range(9):
            assert until(lambda: len(made) == min(9, taken + 2))  # noqa: B023 - called at once
            time.sleep(0.01)
            assert len(made) == min(9, taken + 2)
            assert next(feed) == taken
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(feed)


def test_an_exception_comes_out_in_its_turn_and_ends_the_feed():
    def calls():
        yield from numbered(3, [])
        yield lambda: 1 // 0
        yield lambda: 5

    with Feed(calls()) as feed:
        assert [next(feed) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                next(feed)


def test_a_feed_that_is_closed_or_dropped_leaves_no_thread():
    feed = Feed(numbered(100, []))
    next(feed)
    feed.close()
    assert not feeds()
    feed = Feed(numbered(100, []))
    next(feed)
    del feed  # the fixture looks


def test_without_a_thread_the_results_are_the_same(monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    made = []
    with Feed(numbered(4, made)) as feed:
        assert made == []
        assert list(feed) == [0, 1, 2, 3]


class Faulty(Pairs):
    """Raises at the n-th batch."""

    def __init__(self, y, number, error):
        super().__init__(y)
        self.number, self.error = number, error

    def batch(self, indices, augment=None):
        if len(self.read) == self.number:
            raise self.error
        return super().batch(indices, augment)


@pytest.mark.parametrize(
    ("error", "seen"), [(DataError("a damaged file", where="x"), DataError), (MemoryError(), MemoryExhaustedError)]
)
def test_an_error_of_a_batch_ends_the_step_that_needs_it(error, seen):
    model = Dense(1)
    samples = Faulty(np.zeros((40, 1, 6), np.float32), 5, error)
    with plan(model, samples, nn.MSELoss(), batch_size=2, accumulation=2) as steps:
        steps.take(0)
        steps.take(1)
        before = weights_sha256(model.state_dict())
        with pytest.raises(seen) as caught:
            steps.take(2)
    assert weights_sha256(model.state_dict()) == before
    if seen is MemoryExhaustedError:
        assert caught.value.where == "train.batch_size"


def test_an_error_of_a_validation_batch_is_that_of_its_split():
    with pytest.raises(MemoryExhaustedError) as caught:
        predict(engine(), Dense(1), Faulty(np.zeros((9, 1, 6), np.float32), 1, MemoryError()), 2)
    assert caught.value.where == "train.eval_batch_size"


class Patient(Dense):
    """Does not return before the batch after its own has been read."""

    def __init__(self, samples):
        super().__init__(1)
        self.samples, self.calls = samples, 0

    def forward(self, x, valid=None):
        self.calls += 1
        assert until(lambda: len(self.samples.read) > min(self.calls, 4))
        return super().forward(x, valid)


def test_the_next_batch_is_read_while_a_step_computes():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    with plan(Patient(samples), samples, nn.MSELoss(), batch_size=2, epochs=1) as steps:
        for step in range(5):
            steps.take(step)
    samples.read.clear()
    predict(engine(), Patient(samples), samples, 2)
    assert samples.read == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_nothing_is_read_beyond_the_last_step():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    with plan(Dense(1), samples, nn.MSELoss(), batch_size=2, epochs=2) as steps:
        for step in range(10):
            steps.take(step)
        time.sleep(0.02)
    assert len(samples.read) == 10


class Transfers(TorchDispatchMode):
    """Counts numbers that leave a device one by one."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_of_many_batches_waits_for_the_device_once(monkeypatch):
    lists, original = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(len(self)) or original(self))
    model, samples = Dense(1), Pairs(np.zeros((8, 1, 6), np.float32))
    settings = {"batch_size": 2, "clip": 0.1, "seed": 0, "step": 0}
    with Transfers() as single:
        train_step(engine(), model, optimizer(model), nn.MSELoss(), samples, np.arange(8), **settings)
    assert (single.count, lists) == (0, [5])  # four losses and the norm


def test_a_loss_that_is_not_finite_in_the_last_batch_changes_no_weight():
    model, samples = Dense(1), Pairs(np.zeros((8, 1, 6), np.float32))
    samples.y[7] = torch.inf
    before = weights_sha256(model.state_dict())
    with pytest.raises(NonFiniteError, match="the loss is inf at step 3"):  # noqa: PT012
        settings = {"batch_size": 2, "clip": None, "seed": 0, "step": 3}
        train_step(engine(), model, optimizer(model), nn.MSELoss(), samples, np.arange(8), **settings)
    assert weights_sha256(model.state_dict()) == before
