"""A split of a task whose inputs are sequences of symbols, such as ListOps lists and proteins.

Shapes: n samples, V symbols of the vocabulary, L the length of the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orca_cli.data.blocks import Ragged
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import Batch

# The treatment of sequences that are longer than the model's input: they are cut to its length and
# scored, or dropped from every split.
OverLength = Literal["truncate", "drop"]


@dataclass(frozen=True)
class Sequences:
    """Concatenated sequences of one split, from the readers of ListOps and of remote homology."""

    tokens: np.ndarray  # [sum of lengths] uint8, in 0..V-1
    ends: np.ndarray  # [n] int64, index in `tokens` after the last token of each sequence
    classes: np.ndarray  # [n] int64
    longer: np.ndarray  # [n] bool, whether the original sequence is longer than the input

    def samples(
        self, name: str, num_symbols: int, length: int, mask: bool, over_length: OverLength
    ) -> SymbolSamples:
        """Return samples of these sequences; `over_length` "drop" drops those that are `longer`.

        The other arguments are those of `SymbolSamples`.
        """
        is_used = ~self.longer | (over_length == "truncate")
        # The length of each sequence, [n].
        lengths = np.diff(self.ends, prepend=0)
        sequences = Sequences(
            tokens=self.tokens[np.repeat(is_used, lengths)],
            ends=np.cumsum(lengths[is_used]),
            classes=self.classes[is_used],
            longer=self.longer[is_used],
        )
        return SymbolSamples(name, sequences, num_symbols=num_symbols, length=length, mask=mask)


def longer_note(
    splits: Mapping[str, Sequences], length: int, unit: str, over_length: OverLength
) -> str:
    """Return a note on the number of sequences that are longer than the input in each split.

    Empty if all sequences fit.
    """
    counts = []
    for split_name, sequences in splits.items():
        num_longer = int(sequences.longer.sum())
        if num_longer > 0:
            counts.append(f"{num_longer} of {len(sequences.ends)} in {split_name}")
    if not counts:
        return ""
    longer = f"sequences longer than {length} {unit}"
    return f"{longer}: {', '.join(counts)} (over_length={over_length})"


def end_to_end(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the symbols of all texts [sum of lengths] uint8, and the end of each [n] int64."""
    symbols = np.frombuffer(b"".join(texts), np.uint8)
    ends = np.cumsum(list(map(len, texts)), dtype=np.int64)
    return symbols, ends


class SymbolSamples(ArraySamples):
    """Samples (see interfaces) over sequences.

    Each input [V, L] has the one-hot columns of the first L symbols of a sequence, which are made
    batch by batch. Tokens beyond V-1 become columns of zeros. With `mask` the columns of zeros
    after the end are marked as padding. `name` is the name of the task, for the digest.
    """

    def __init__(
        self, name: str, sequences: Sequences, num_symbols: int, length: int, mask: bool
    ) -> None:
        ends = sequences.ends
        lengths = np.diff(ends, prepend=0)
        starts = ends - lengths
        symbols = np.arange(num_symbols)[:, None]  # [V, 1], compared with tokens [l]

        def one_hot(row: int) -> np.ndarray:
            return sequences.tokens[starts[row] : ends[row]] == symbols  # [V, l]

        # Made for each batch, because all columns at once need V times the memory of the tokens.
        columns = Ragged(
            row=one_hot,
            lengths=lengths,
            sample=(num_symbols, length),
            dtype=np.uint8,
        )
        super().__init__(columns, sequences.classes)
        self._name = name
        self._sequences = sequences
        self._length = length
        self._mask = mask

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, V, L] of 0 and 1, y [B] and valid [B, L] (None without `mask`).

        `augment` is not used.
        """
        batch = super().batch(indices)
        if self._mask:
            return batch
        # Without a mask, the columns of zeros after the end are part of the input.
        return replace(batch, valid=None)

    def digest(self) -> str:
        """Return a SHA-256 over sequences, classes, the length of the input, and use of a mask."""
        mask = "" if self._mask else " unmasked"
        header = f"{self._name} {self._length} {len(self)}{mask}"
        digest = hashlib.sha256(header.encode())
        for array in (self._sequences.tokens, self._sequences.ends, self._sequences.classes):
            digest.update(array.tobytes())
        return digest.hexdigest()
