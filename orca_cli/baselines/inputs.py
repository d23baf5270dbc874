"""What baselines learn from and are measured on: the samples of a run's splits as arrays of bounded size."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from orca_cli import seeding, signals
from orca_cli.baselines import features
from orca_cli.baselines.fitting import FitError, UnsuitableError
from orca_cli.interfaces import Batch, Samples
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel

MOST_ROWS = 4096  # training samples
MOST_CELLS = 2**26  # values of the inputs of one split, and of its targets
_LIMIT_S = 120  # of processor time, so that other load does not decide which baselines a run has
_BATCH_CELLS = 2**22
_READ_FIRST = 64  # samples after which the total time can be estimated, to give up early
_EMBEDDED_AT_ONCE = 32
_SEED = 0  # not the run's: runs of all seeds share their baselines


@dataclass(frozen=True)
class Inputs:
    """The splits of a run as baselines see them; read when they are asked for.

    Args:
        parts: the splits to learn from.
        judge: the split that says which model is best; None where folds of the others do.
        open_test: returns the test split.
        input_shape: of a sample.
    """

    parts: Sequence[Samples]
    judge: Samples | None
    open_test: Callable[[], Samples]
    input_shape: tuple[int, ...]

    @functools.cached_property
    def test(self) -> Samples:
        """Return the test split, opened when it is first needed."""
        return self.open_test()

    @property
    def num_samples(self) -> int:
        """Return the number of training samples."""
        return sum(map(len, self.parts))

    def rows(self, raw: bool) -> np.ndarray:
        """Return which training samples are used, ascending: all, or as many as there is room for, drawn at random."""
        return self._drawn(self.num_samples, raw)

    def judged(self, raw: bool) -> np.ndarray:
        """Return which samples of the split that judges are used, likewise."""
        return np.arange(0) if self.judge is None else self._drawn(len(self.judge), raw)

    def _drawn(self, count: int, raw: bool) -> np.ndarray:
        size = math.prod(self.input_shape)
        most = min(MOST_ROWS, MOST_CELLS // (2 * size)) if raw else MOST_ROWS
        if raw and most < min(count, 2):
            raise UnsuitableError(f"an input of {size:,} values is too large for it")
        rows = np.arange(count)
        if count <= most:
            return rows
        return np.sort(seeding.numpy_generator(_SEED, "baselines", "samples").choice(rows, most, replace=False))

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features of the training samples in use, [n, F] float32, and of those that are judged and the test split."""
        rows = self.rows(raw=False)
        most = features.width(len(rows), max(len(rows), len(self.test)), MOST_CELLS)
        return self._read(lambda batch: features.table(*_arrays(batch), most), raw=False)

    @functools.cached_property
    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs of the same samples, [n, C, *E] and [m, C, *E], 0 at padding.

        Raises:
            UnsuitableError: the test split is too large.
        """
        if len(self.test) * math.prod(self.input_shape) > 2 * MOST_CELLS:
            raise UnsuitableError(f"the test split has more than {2 * MOST_CELLS:,} values, too many for it")
        return self._read(lambda batch: _arrays(batch)[0], raw=True)

    def embedded(self, embedder: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Return what an embedder makes of the same samples: its own features of them, or mean and maximum of their tokens."""
        embedder.eval()

        @torch.no_grad()
        def take(batch: Batch) -> np.ndarray:
            sample_features = getattr(embedder, "sample_features", None)
            if sample_features is not None and (values := sample_features(batch.x, batch.valid)) is not None:
                return np.asarray(values.numpy())
            tokens = embedder(batch.x, batch.valid)
            mask = tokens.mask.unsqueeze(-1)
            mean = (tokens.x * mask).sum(1) / mask.sum(1).clamp(min=1)
            largest = tokens.x.masked_fill(~mask, -math.inf).amax(1)
            return np.asarray(torch.cat([mean, torch.where(mask.any(1), largest, 0.0)], dim=1).float().numpy())

        return self._read(take, raw=False, at_once=_EMBEDDED_AT_ONCE)

    def probed(self, model: TransferModel) -> tuple[np.ndarray, np.ndarray]:
        """Return what a model's predictor sees of the same samples."""
        model.eval()
        device, pool = next(model.parameters()).device, cast(PooledPredictor, model.predictor).pool

        @torch.no_grad()
        def take(batch: Batch) -> np.ndarray:
            valid = None if batch.valid is None else batch.valid.to(device)
            return np.asarray(pool(model.features(batch.x.to(device), valid)).float().cpu().numpy())

        return self._read(take, raw=False, at_once=_EMBEDDED_AT_ONCE)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets of training samples."""
        return np.concatenate([part.targets()[inside] for part, inside in self._by_part(rows)])

    def groups(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the records that training samples are cut from, [n] int64, numbered apart in each split; None without."""
        records, first = [], 0
        for part, inside in self._by_part(rows):
            groups = part.groups()
            if groups is None:
                return None
            numbers = np.unique(groups, return_inverse=True)[1]
            records.append(numbers[inside] + first)
            first += len(groups)
        return np.concatenate(records).astype(np.int64)

    def _by_part(self, rows: np.ndarray) -> list[tuple[Samples, np.ndarray]]:
        """Return each split with its own rows among those in use."""
        starts = np.cumsum([0, *map(len, self.parts)])
        return [
            (part, rows[(rows >= start) & (rows < start + len(part))] - start)
            for part, start in zip(self.parts, starts, strict=False)
        ]

    def _read(
        self, take: Callable[[Batch], np.ndarray], *, raw: bool, at_once: int = 256
    ) -> tuple[np.ndarray, np.ndarray]:
        size = max(1, min(at_once, _BATCH_CELLS // math.prod(self.input_shape)))
        start = time.process_time()
        new = [] if self.judge is None else [(self.judge, self.judged(raw))]
        arrays, read = [], 0
        every = (self._by_part(self.rows(raw)), [*new, (self.test, np.arange(len(self.test)))])
        total = sum(len(inside) for splits in every for _, inside in splits)
        for splits in every:
            parts = []
            for samples, inside in splits:
                for first in range(0, len(inside), size):
                    signals.check()
                    elapsed = time.process_time() - start
                    if (elapsed * total / read if read > _READ_FIRST else elapsed) > _LIMIT_S:
                        raise FitError(f"reading the samples takes more than {_LIMIT_S} s of processor time")
                    parts.append(take(samples.batch(inside[first : first + size])))
                    read += len(inside[first : first + size])
            arrays.append(np.concatenate(parts))
        return arrays[0], arrays[1]


def _arrays(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    return batch.x.numpy(), None if batch.valid is None else batch.valid.numpy()
