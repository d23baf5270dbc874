"""One split of a task whose inputs are sequences of symbols: lists in a small alphabet, proteins.

Shapes: n samples, V symbols of the vocabulary, L the length of the input.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import torch

from orca_cli.interfaces import Batch

# What happens to inputs longer than the model's: cut, and scored as they come out; cut, and in the test split always
# counted as errors; left out of every split, and so not counted.
OverLength = Literal["truncate", "wrong", "drop"]


class SymbolSamples:
    """Samples (see interfaces) over sequences stored end to end; one-hot columns are made batch by batch.

    Args:
        name: of the task, for the digest.
        tokens: [sum of lengths] uint8 in 0..V-1.
        ends: [n] int64, where each sequence ends in `tokens`.
        classes: [n] int64.
        num_symbols: V, channels of the input.
        length: L; of longer sequences the first L symbols are taken.
        mask: whether columns after the end of a sequence, which are zero, are marked as padding.
    """

    def __init__(
        self,
        name: str,
        tokens: np.ndarray,
        ends: np.ndarray,
        classes: np.ndarray,
        num_symbols: int,
        length: int,
        mask: bool = True,
    ) -> None:
        if not len(ends) == len(classes) or (len(ends) and ends[-1] != len(tokens)):
            raise ValueError(f"{len(ends)} sequences, {len(classes)} classes, {len(tokens)} symbols")
        self._name, self._num_symbols, self._length, self._mask = name, num_symbols, length, mask
        self._tokens, self._ends, self._classes = tokens, ends, classes

    def __len__(self) -> int:
        """Return n."""
        return len(self._ends)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, V, L] of 0 and 1, y [B] and valid [B, L] (None without mask); nothing is augmented."""
        x = np.zeros((len(indices), self._num_symbols, self._length), np.float32)
        valid = np.zeros((len(indices), self._length), bool)
        for row, index in enumerate(indices):
            start = self._ends[index - 1] if index else 0
            tokens = self._tokens[start : self._ends[index]][: self._length]
            x[row, tokens, np.arange(len(tokens))] = 1
            valid[row, : len(tokens)] = True
        y = torch.from_numpy(self._classes[np.asarray(indices, dtype=np.int64)])
        return Batch(torch.from_numpy(x), y, torch.from_numpy(valid) if self._mask else None)

    def targets(self) -> np.ndarray:
        """Return all classes [n]."""
        return self._classes

    def groups(self) -> None:
        """Sequences stand alone."""
        return

    def digest(self) -> str:
        """Return a SHA-256 over the sequences, their classes, the length of the input and the absence of a mask."""
        mask = "" if self._mask else " unmasked"
        digest = hashlib.sha256(f"{self._name} {self._length} {len(self)}{mask}".encode())
        for array in (self._tokens, self._ends, self._classes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def lengths(ends: np.ndarray) -> np.ndarray:
    """Return the number of symbols of each sequence, [n], from where each ends."""
    return np.diff(ends, prepend=0)


def kept_rows(ends: np.ndarray, length: int, over_length: str) -> np.ndarray:
    """Return the sequences that a split keeps, ascending: all, or with over_length="drop" those up to `length`."""
    return np.flatnonzero(lengths(ends) <= length) if over_length == "drop" else np.arange(len(ends))


def scored_classes(classes: np.ndarray, ends: np.ndarray, length: int, over_length: str, no_class: int) -> np.ndarray:
    """Return the classes [n] that a test split is scored against.

    With over_length="wrong", sequences longer than `length` get the class `no_class` (K), which no output can name.
    """
    return np.where(lengths(ends) > length, no_class, classes) if over_length == "wrong" else classes


def take(tokens: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens, ends) of the sequences `rows`, ascending indices in 0..n-1."""
    if len(rows) == len(ends):
        return tokens, ends
    sizes = lengths(ends)
    kept = np.zeros(len(ends), bool)
    kept[rows] = True
    return tokens[np.repeat(kept, sizes)], np.cumsum(sizes[rows], dtype=np.int64)
