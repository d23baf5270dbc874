"""A batch of an optimizer step in pieces, one for each process of a run.

A batch is read and augmented as a whole, and cut afterwards. So the samples of a step, and what is drawn for them, do not
depend on how many processes share it. Dropout is drawn for each piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orca_cli.interfaces import Batch
from orca_cli.scoring.losses import normalized


@dataclass(frozen=True)
class Piece:
    """Neighbouring samples of a batch.

    Args:
        batch: number of the batch in the step.
        part: number of the piece in the step, which names its draws.
        start, stop: its first sample in the batch, and the one after its last.
        is_own: whether this process computes it.
    """

    batch: int
    part: int
    start: int
    stop: int
    is_own: bool

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, batch: Batch) -> Batch:
        """Return the samples of the piece; they share the batch's memory."""
        return batch if len(self) == len(batch.x) else batch.mapped(lambda value: value[self.start : self.stop])


def pieces_of(sizes: Sequence[int], batch_size: int, rank: int, processes: int) -> list[Piece]:
    """Return the pieces of a step that have samples, those of all processes, in order.

    Args:
        sizes: of the step's batches; the last may be shorter.
        batch_size: of a whole one.
        rank, processes: number of this process, and of all.
    """
    length = -(-batch_size // processes)
    return [
        Piece(number, number * processes + place, place * length, min((place + 1) * length, size), place == rank)
        for number, size in enumerate(sizes)
        for place in range(processes)
        if place * length < size
    ]


def shares_of(pieces: Sequence[Piece], weights: Sequence[float], *, in_batch: bool) -> list[float]:
    """Return the factor of each piece's mean loss in the loss of the step, or, where batches are added up, of its batch.

    Args:
        pieces: all of the step.
        weights: what their means divide by: samples, or known targets.
        in_batch: whether the means of batches are added up.
    """
    numbers = sorted({piece.batch for piece in pieces})
    groups = [[place for place, piece in enumerate(pieces) if piece.batch == number] for number in numbers]
    factors = [0.0] * len(pieces)
    for places in groups if in_batch else [list(range(len(pieces)))]:
        shares = normalized([weights[place] for place in places], [len(pieces[place]) for place in places])
        for place, share in zip(places, shares, strict=True):
            factors[place] = share
    return factors
