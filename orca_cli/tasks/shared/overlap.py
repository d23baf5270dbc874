"""Which inputs of one split occur in another, by a hash of each input as the model gets it.

An error on samples that were trained on is likely optimistic, so the overlap is reported beside the error.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from orca_cli import seeding, signals
from orca_cli.interfaces import Batch, Samples

_MOST_SAMPLES = 20_000
_MOST_VALUES = 2**26  # of the inputs of a split (256 MiB in float32): what takes a second to hash
_BATCH_VALUES = 2**23


@dataclass(frozen=True)
class Shared:
    """How many inputs of the `of` samples that were read of a second split are in a first one too.

    Where not `complete`, a split was not read whole, and there may be more.
    """

    shared: int
    of: int
    complete: bool

    def __str__(self) -> str:
        """Return text such as "3 of 50 samples"."""
        return f"{self.shared} of {self.of} samples{'' if self.complete else ' that were compared'}"


def input_hashes(batch: Batch) -> list[bytes]:
    """Return a hash of each input [C, *E]; padding belongs to it."""
    x, valid = batch.x.numpy(), None if batch.valid is None else batch.valid.numpy()
    padding = [b""] * len(x) if valid is None else [known.tobytes() for known in valid]
    return [hashlib.blake2b(one.tobytes() + end, digest_size=16).digest() for one, end in zip(x, padding, strict=True)]


def count_shared(first: Samples, second: Samples, input_shape: tuple[int, ...], seed: int) -> Shared:
    """Count the samples of a second split whose inputs are also in the first; of large splits, samples drawn by seed."""
    read, found = _read(first, input_shape, seed), _read(second, input_shape, seed)
    known = set(read)
    complete = len(found) == len(second) and len(read) == len(first)
    return Shared(sum(digest in known for digest in found), len(found), complete)


def _read(samples: Samples, input_shape: tuple[int, ...], seed: int) -> list[bytes]:
    rows = np.arange(len(samples))
    most = min(_MOST_SAMPLES, max(1, _MOST_VALUES // math.prod(input_shape)))
    if len(rows) > most:
        rows = np.sort(seeding.numpy_generator(seed, "overlap").choice(len(rows), most, replace=False))
    size = max(1, min(256, _BATCH_VALUES // math.prod(input_shape)))
    hashes: list[bytes] = []
    for start in range(0, len(rows), size):
        signals.check()
        hashes += input_hashes(samples.batch(rows[start : start + size]))
    return hashes
