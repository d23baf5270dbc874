"""Batches are read ahead, a few at a time, with no other visible effect."""

import threading
import time
from contextlib import closing

import numpy as np
import pytest
from torch import nn

from orca_cli.exceptions import DataError, MemoryExhaustedError
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.loop import predict, read_ahead
from tests.training.toy import Dense, Pairs, engine, plan

SOON = 20.0  # seconds to wait for what should happen at once


def until(condition):
    end = time.monotonic() + SOON
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("orca-feed")])


def numbered(n, made):
    for number in range(n):
        yield lambda number=number: made.append(number) or number


def test_results_come_in_order_and_two_at_most_are_ready():
    made = []
    with closing(read_ahead(numbered(9, made))) as results:
        for taken in range(9):
            assert next(results) == taken
            assert until(lambda: len(made) == min(9, taken + 3))  # noqa: B023 - called at once
            time.sleep(0.01)
            assert len(made) == min(9, taken + 3)
        assert next(results, None) is None
    results = read_ahead(numbered(100, []))
    next(results)
    del results  # the fixture looks


def test_an_exception_comes_out_in_its_turn_and_ends_the_results():
    with closing(read_ahead(iter([*numbered(3, []), lambda: 1 // 0, lambda: 5]))) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert next(results, None) is None


class Faulty(Pairs):
    """Raises at the n-th batch."""

    def __init__(self, n, number, error):
        super().__init__(np.zeros((n, 1, 6), np.float32))
        self.number, self.error = number, error

    def batch(self, indices, augment=None):
        if len(self.read) == self.number:
            raise self.error
        return super().batch(indices, augment)


@pytest.mark.parametrize("error", [DataError("a damaged file", where="x"), MemoryError()])
def test_an_error_of_a_batch_ends_the_step_that_needs_it(error):
    model, is_memory = Dense(1), isinstance(error, MemoryError)
    seen = MemoryExhaustedError if is_memory else DataError
    with plan(model, Faulty(40, 5, error), nn.MSELoss(), batch_size=2, accumulation=2) as steps:
        steps.take(0)
        steps.take(1)
        before = weights_sha256(model.state_dict())
        with pytest.raises(seen, match=r"train\.batch_size" if is_memory else "x: a damaged file"):
            steps.take(2)
    assert weights_sha256(model.state_dict()) == before
    if is_memory:  # one of a validation batch is that of its split
        with pytest.raises(seen, match=r"train\.eval_batch_size"):
            predict(engine(), Dense(1), Faulty(9, 1, error), 2)


def test_the_next_batches_are_read_while_a_step_computes_and_none_beyond_the_last():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    with plan(Dense(1), samples, nn.MSELoss(), batch_size=2, epochs=1) as steps:
        for step, count in enumerate((3, 4, 5, 5, 5)):
            steps.take(step)
            assert until(lambda: len(samples.read) == count)  # noqa: B023 - called at once
        time.sleep(0.02)
    assert len(samples.read) == 5
    samples.read.clear()
    model, ahead = Dense(1), []
    model.register_forward_pre_hook(lambda *_: ahead.append(until(lambda: len(samples.read) > min(len(ahead) + 1, 4))))
    predict(engine(), model, samples, 2)
    assert ahead == [True] * 5
