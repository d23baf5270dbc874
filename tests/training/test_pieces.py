"""Batches in pieces, for several processes or little memory: the step has the same result."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli.exceptions import MemoryExhaustedError
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy
from orca_cli.training.checkpoint import weights_sha256
from orca_cli.training.loop import train_step
from orca_cli.training.pieces import Cuts
from tests.training.test_accumulation import classes, numbers
from tests.training.toy import Dense, Pairs, engine, gradient, optimizer, plan

CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB"
CPU = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_every_sample_is_in_one_piece_of_one_process(sizes, processes, splits):
    by_process = [Cuts(rank, processes, splits).pieces(sizes, max(sizes)) for rank in range(processes)]
    for number, size in enumerate(sizes):
        rows = [
            row
            for place, piece in enumerate(by_process[0])
            if piece.batch == number
            for row in range(piece.start, piece.stop)
            if sum(pieces[place].is_own for pieces in by_process) == 1
        ]
        assert rows == list(range(size))
    assert len({piece.part for piece in by_process[0]}) == len(by_process[0])


class Narrow(Dense):
    """Runs out of memory with more than `most` samples, from a call on; its dropout tells which draws are made."""

    def __init__(self, most, error, start=0):
        super().__init__(3, flat=True)
        self.most, self.error, self.start, self.calls, self.sizes = most, error, start, 0, []

    def forward(self, x, valid=None):
        self.calls += 1
        if len(x) > self.most and self.calls > self.start:
            raise self.error
        self.sizes.append(len(x))
        return nn.functional.dropout(super().forward(x, valid), 0.3, self.training)


def losses_of(model, loss, y, steps=6, **settings):
    with plan(model, Pairs(y), loss, warmup_epochs=0, lr=1e-2, **settings) as taken:
        return [taken.take(step)[0] for step in range(steps)]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU), MemoryError()], ids=["cuda", "cpu", "python"]
)
def test_a_step_that_does_not_fit_is_that_of_smaller_batches(error, caplog):
    """The losses equal, to the bit, those of a quarter of the batch accumulated four times; each halving warns once."""
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0))
    short, small = Narrow(4, error), Narrow(99, error)
    caplog.set_level("WARNING", "orca_cli")
    losses = losses_of(short, nn.CrossEntropyLoss(), y, batch_size=16)
    expected = losses_of(small, nn.CrossEntropyLoss(), y, batch_size=4, accumulation=4)
    assert losses == expected
    assert weights_sha256(short.state_dict()) == weights_sha256(small.state_dict())
    assert max(short.sizes) == 4
    assert [text for text in caplog.messages if "not enough memory" in text] == [
        f"finetune: not enough memory for {before} samples at a time; from step 1 on {after} at a time, which add up to the "
        "same steps (train.batch_size=16)"
        for before, after in [(16, 8), (8, 4)]
    ]


def test_memory_that_runs_out_on_the_way_leaves_the_steps_before_as_they_were():
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0))
    error = torch.OutOfMemoryError(CUDA)
    whole = losses_of(Narrow(99, error), nn.CrossEntropyLoss(), y, batch_size=16)
    late = losses_of(Narrow(8, error, start=3), nn.CrossEntropyLoss(), y, batch_size=16)
    assert late[:3] == whole[:3]
    assert late[4] != whole[4]  # other draws of dropout: the premise of restoring them from a checkpoint


def test_one_sample_that_does_not_fit_ends_the_run():
    model = Narrow(0, torch.OutOfMemoryError(CUDA))
    before = weights_sha256(model.state_dict())
    with pytest.raises(MemoryExhaustedError, match="use a smaller body") as caught:
        losses_of(model, nn.CrossEntropyLoss(), torch.zeros(40, dtype=torch.int64), batch_size=16)
    assert caught.value.where == "train.batch_size"
    assert weights_sha256(model.state_dict()) == before


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "y"), [(MaskedBCE(), numbers(binary=True)), (MaskedCrossEntropy([1.0, 10.0, 0.1]), classes())]
)
def test_pieces_weigh_by_their_known_targets(loss, y, reduce):
    """The gradient of two batches in pieces is that of the two, also where the means of batches are added up."""
    steps = []
    for splits in (1, 2, 4):
        model, samples, used = Dense(3), Pairs(y), engine()
        used.cuts = Cuts(splits=splits)
        step = {"batch_size": 4, "clip": None, "seed": 0, "step": 0, "reduce": reduce}
        value, _ = train_step(used, model, optimizer(model), loss, samples, np.arange(8), **step)
        steps.append((value, gradient(model)))
    for value, other in steps[1:]:
        assert value == pytest.approx(steps[0][0], rel=1e-6)  # sums in another order
        torch.testing.assert_close(other, steps[0][1], rtol=1e-4, atol=1e-6)
