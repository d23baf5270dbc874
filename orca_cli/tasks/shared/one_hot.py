"""One split of a task whose inputs are sequences of symbols: lists in a small alphabet, proteins.

Shapes: n samples, V symbols of the vocabulary, L the length of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from orca_cli.interfaces import Batch

# What happens to inputs that are longer than the model's: cut and scored as they come out; cut, and in the test split
# counted as errors whatever comes out; left out of every split, and so not counted.
OverLength = Literal["truncate", "wrong", "drop"]


@dataclass(frozen=True)
class Sequences:
    """Sequences of one split, end to end.

    Args:
        tokens: [sum of lengths] uint8 in 0..V-1.
        ends: [n] int64, where each sequence ends in `tokens`.
        classes: [n] int64.
        longer: [n] bool, True for sequences that do not fit into the input, cut already or not.
    """

    tokens: np.ndarray
    ends: np.ndarray
    classes: np.ndarray
    longer: np.ndarray

    def samples(
        self, name: str, num_symbols: int, length: int, mask: bool, over_length: OverLength, no_class: int | None = None
    ) -> SymbolSamples:
        """Return samples of these sequences.

        Args:
            name: of the task.
            num_symbols: V.
            length: L.
            mask: whether padding is marked.
            over_length: what happens to longer sequences.
            no_class: K, which no output can name, for the test split with over_length="wrong"; None for other splits.
        """
        tokens, ends, classes = self.tokens, self.ends, self.classes
        if over_length == "drop":
            sizes = np.diff(ends, prepend=0)
            tokens, classes = tokens[np.repeat(~self.longer, sizes)], classes[~self.longer]
            ends = np.cumsum(sizes[~self.longer], dtype=np.int64)
        elif over_length == "wrong" and no_class is not None:
            classes = np.where(self.longer, no_class, classes)
        return SymbolSamples(name, tokens, ends, classes, num_symbols, length, mask)


def end_to_end(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the symbols of all texts [sum of lengths] uint8, and where each text ends in them [n] int64."""
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts], dtype=np.int64)


class SymbolSamples:
    """Samples (see interfaces) over sequences stored end to end; one-hot columns are made batch by batch.

    Args:
        name: of the task, for the digest.
        tokens: [sum of lengths] uint8 in 0..V-1.
        ends: [n] int64, where each sequence ends in `tokens`.
        classes: [n] int64.
        num_symbols: V, channels of the input.
        length: L; of longer sequences the first L symbols are taken.
        mask: whether the zero columns after the end of a sequence are marked as padding.
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
