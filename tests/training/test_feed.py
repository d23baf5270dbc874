"""Batches are read ahead, a few at a time, with no other visible effect."""

import threading
import time

import numpy as np
import pytest
from torch import nn

from orca_cli.exceptions import DataError, MemoryExhaustedError
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.loop import predict
from tests.training.toy import Dense, Pairs, engine, plan


def until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert until(
        lambda: (
            not [thread for thread in threading.enumerate() if thread.name.startswith("orca-feed")]
        )
    )


class Faulty(Pairs):
    """Raises at the sixth batch."""

    error = None

    def batch(self, indices, augment=None):
        if len(self.read) == 5:
            raise self.error
        return super().batch(indices, augment)


@pytest.mark.parametrize(
    ("error", "seen"),
    [(DataError("a damaged file", where="x"), DataError), (MemoryError(), MemoryExhaustedError)],
)
def test_an_error_of_a_batch_ends_the_step_that_needs_it(error, seen):
    model, samples = Dense(1), Faulty(np.zeros((40, 1, 6), np.float32))
    samples.error = error
    with plan(model, samples, nn.MSELoss(), batch_size=2, accumulation=2) as steps:
        steps.take(0)
        steps.take(1)
        before = weights_sha256(model.state_dict())
        with pytest.raises(seen):
            steps.take(2)
    assert weights_sha256(model.state_dict()) == before


def test_the_next_batches_are_read_during_a_step():
    samples = Pairs(np.zeros((10, 1, 6), np.float32))
    with plan(Dense(1), samples, nn.MSELoss(), batch_size=2, epochs=1) as steps:
        for step, count in enumerate((3, 4, 5, 5, 5)):
            steps.take(step)
            assert until(lambda: len(samples.read) == count)  # noqa: B023 - called at once
        time.sleep(0.02)
    assert len(samples.read) == 5
    samples.read.clear()
    model, ahead = Dense(1), []
    model.register_forward_pre_hook(
        lambda *_: ahead.append(until(lambda: len(samples.read) > min(len(ahead) + 1, 4)))
    )
    predict(engine(), model, samples, 2)
    assert ahead == [True] * 5
