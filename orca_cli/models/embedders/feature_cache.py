"""What fixed layers compute of a sample, kept so that it is computed once in a run and not in every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 2**28


class FeatureCache:
    """Features of samples by their content, at most 256 MiB of them; what does not fit any more is computed every time.

    A sample's features are computed from it alone, so that they have the same bits whatever batch it comes in.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Tensor, ...]] = {}
        self._bytes = 0
        self._state: Any = None

    def __deepcopy__(self, _: Any) -> FeatureCache:
        return FeatureCache()

    def __call__(
        self, compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: Tensor, valid: Tensor, state: Any
    ) -> tuple[Tensor, ...]:
        """Return what `compute` does of a batch, each [B, ...].

        Args:
            compute: from x [1, ...] and valid [1, ...] to tensors [1, ...].
            x: [B, ...] on the CPU.
            valid: [B, ...] bool.
            state: what else the features depend on; where it is another than the last time, all are forgotten.
        """
        if state != self._state:
            self._kept, self._bytes, self._state = {}, 0, state
        found = [self._one(compute, x[row : row + 1], valid[row : row + 1]) for row in range(len(x))]
        return tuple(torch.cat(part) for part in zip(*found, strict=True))

    def _one(
        self, compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        digest = hashlib.blake2b(x.numpy().tobytes(), digest_size=16)
        digest.update(valid.numpy().tobytes())
        name = digest.digest()
        if (kept := self._kept.get(name)) is not None:
            return kept
        found = compute(x, valid)
        size = sum(part.nbytes for part in found)
        if self._bytes + size <= MOST_BYTES:
            self._kept[name] = found
            self._bytes += size
        return found
