"""One split of a task whose inputs are sequences of symbols: lists in a small alphabet, proteins.

Shapes: n samples, V symbols of the vocabulary, L the length of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
            name, num_symbols, length, mask: as those of `SymbolSamples`.
            over_length: what happens to longer sequences.
            no_class: K, which no output can name, for the test split with over_length="wrong"; None for other splits.
        """
        sequences, fits = self, ~self.longer
        if over_length == "drop":
            sizes = np.diff(self.ends, prepend=0)
            tokens, ends = self.tokens[np.repeat(fits, sizes)], np.cumsum(sizes[fits], dtype=np.int64)
            sequences = Sequences(tokens, ends, self.classes[fits], self.longer[fits])
        elif over_length == "wrong" and no_class is not None:
            sequences = replace(self, classes=np.where(self.longer, no_class, self.classes))
        return SymbolSamples(name, sequences, num_symbols, length, mask)


def end_to_end(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the symbols of all texts [sum of lengths] uint8, and where each text ends in them [n] int64."""
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts], dtype=np.int64)


@dataclass(frozen=True)
class SymbolSamples:
    """Samples (see interfaces) over sequences stored end to end; one-hot columns are made batch by batch.

    Args:
        name: of the task, for the digest.
        sequences: of the split.
        num_symbols: V, channels of the input.
        length: L; of longer sequences the first L symbols are taken.
        mask: whether the zero columns after the end of a sequence are marked as padding.
    """

    name: str
    sequences: Sequences
    num_symbols: int
    length: int
    mask: bool

    def __post_init__(self) -> None:
        tokens, ends, n = self.sequences.tokens, self.sequences.ends, len(self.sequences.classes)
        if len(ends) != n or (n and ends[-1] != len(tokens)):
            raise ValueError(f"{len(ends)} sequences, {n} classes, {len(tokens)} symbols")

    def __len__(self) -> int:
        return len(self.sequences.ends)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, V, L] of 0 and 1, y [B] and valid [B, L] (None without mask); nothing is augmented."""
        x = np.zeros((len(indices), self.num_symbols, self.length), np.float32)
        valid = np.zeros((len(indices), self.length), bool)
        ends = self.sequences.ends
        for row, index in enumerate(indices):
            start = ends[index - 1] if index else 0
            tokens = self.sequences.tokens[start : ends[index]][: self.length]
            x[row, tokens, np.arange(len(tokens))] = 1
            valid[row, : len(tokens)] = True
        y = torch.from_numpy(self.targets()[np.asarray(indices, dtype=np.int64)])
        return Batch(torch.from_numpy(x), y, torch.from_numpy(valid) if self.mask else None)

    def targets(self) -> np.ndarray:
        """Return all classes [n]."""
        return self.sequences.classes

    def groups(self) -> None:
        """Sequences stand alone."""

    def digest(self) -> str:
        """Return a SHA-256 over the sequences, their classes, the length of the input and the absence of a mask."""
        mask = "" if self.mask else " unmasked"
        digest = hashlib.sha256(f"{self.name} {self.length} {len(self)}{mask}".encode())
        for array in (self.sequences.tokens, self.sequences.ends, self.sequences.classes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
