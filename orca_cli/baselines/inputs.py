"""What baselines learn from and are measured on: a run, and the samples of its splits as arrays of bounded size."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.baselines.models import SEED
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Error, Samples, TaskData
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel

LEAST_JUDGES = 50  # validation samples; where there are fewer, folds of the training samples say which model is best
MOST_ROWS = 4096  # training samples
MOST_CELLS = 2**26  # values of the inputs of one split, and of its targets
_LIMIT_S = 120  # of processor time, so that other load does not decide which baselines a run has
_BATCH_CELLS = 2**22
_EMBEDDED_AT_ONCE = 32
MOST_RAW = 4096  # values of an input that are features as they are
_CELLS = 2**22  # of the table of the training samples
_LEAST = 1024
_BANDS = 16  # of a series' spectrum


@dataclass(frozen=True)
class Subject:
    """A run as its baselines see it, made by `experiment`.

    Samples are read when they are asked for.

    Each of `table`, `raw`, `embedded` and `probed` returns two arrays: of the n training samples in
    use, and of m others, those of `judge` in use before all of the test split. DataError where
    reading takes more than 120 s of processor time.
    """

    task: TaskData
    error: Error  # the task's own
    learned: Samples  # what its stage 3 trained on: the training split, or validation as well
    may_judge: bool  # whether the validation split is another one than these and the test split
    embedder: nn.Module  # as it was before any training, on the CPU
    start: Callable[[], TransferModel]  # returns the whole model as it was before any training
    open_test: Callable[[], Samples]  # called where the cache does not have all outputs
    targets: Tensor  # of the test split, [n, ...]
    groups: np.ndarray | None  # records of the test samples, [n]
    digests: Mapping[str, str]  # of the splits by name: train, val and test
    constant: Tensor  # output of the best constant predictor, [K] or [K, *E]

    @functools.cached_property
    def test(self) -> Samples:
        """Return the test split, opened when it is first needed."""
        return self.open_test()

    @property
    def judge(self) -> Samples | None:
        """Return the split that says which model is best.

        None where folds of the training samples do.
        """
        validation = self.task.validation
        return validation if self.may_judge and len(validation) >= LEAST_JUDGES else None

    def rows(self, samples: Samples | None, raw: bool) -> np.ndarray:
        """Return the indices of a split's samples that are used, ascending: all, or as many as there is room for, at random.

        There is less room for `raw` inputs than for features. No split (None) has no indices.
        """
        rows, room = (
            np.arange(len(samples or ())),
            MOST_CELLS // (2 * math.prod(self.task.input_shape)),
        )
        most = min(MOST_ROWS, max(2, room)) if raw else MOST_ROWS
        if len(rows) <= most:
            return rows
        return np.sort(
            seeding.numpy_generator(SEED, "baselines", "samples").choice(rows, most, replace=False)
        )

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features by the function `table`, [n, F] and [m, F] float32."""
        rows = len(self.rows(self.learned, raw=False))
        most = min(
            max(_LEAST, min(MOST_RAW, _CELLS // max(1, rows))),
            max(1, MOST_CELLS // max(rows, len(self.test))),
        )
        return self._read(
            lambda x, valid: table(x.numpy(), None if valid is None else valid.numpy(), most)
        )

    @functools.cached_property
    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs, [n, C, *E] and [m, C, *E], 0 at padding.

        DataError for a test split that is too large.
        """
        if len(self.test) * math.prod(self.task.input_shape) > 2 * MOST_CELLS:
            raise DataError(
                f"the test split has more than {2 * MOST_CELLS:,} values, too many for it"
            )
        return self._read(lambda x, valid: x.numpy(), raw=True)

    def embedded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the embedder makes of the samples, [n, F] and [m, F]: its own features, or tokens' mean and maximum."""
        embedder: Any = self.embedder.eval()

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            summary = embedder.sample_features(x, valid)
            if summary is None:
                tokens = embedder(x, valid)
                mask = tokens.mask.unsqueeze(-1)
                mean = (tokens.x * mask).sum(1) / mask.sum(1).clamp(min=1)
                largest = tokens.x.masked_fill(~mask, -math.inf).amax(1)
                summary = torch.cat([mean, torch.where(mask.any(1), largest, 0.0)], dim=1).float()
            return np.asarray(summary.numpy())

        return self._read(take, at_once=_EMBEDDED_AT_ONCE)

    def probed(self, model: TransferModel) -> tuple[np.ndarray, np.ndarray]:
        """Return what a model's predictor sees of the samples, pooled features [n, F] and [m, F].

        It stays on its device.
        """
        device, pool = (
            next(model.eval().parameters()).device,
            cast(PooledPredictor, model.predictor).pool,
        )

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            features = model.features(x.to(device), None if valid is None else valid.to(device))
            return np.asarray(pool(features).float().cpu().numpy())

        return self._read(take, at_once=_EMBEDDED_AT_ONCE)

    @torch.no_grad()
    def _read(
        self,
        take: Callable[[Tensor, Tensor | None], np.ndarray],
        *,
        raw: bool = False,
        at_once: int = 256,
    ) -> tuple[np.ndarray, np.ndarray]:
        size = max(1, min(at_once, _BATCH_CELLS // math.prod(self.task.input_shape)))
        start = time.process_time()

        def read(samples: Samples, rows: np.ndarray) -> Iterator[np.ndarray]:
            for first in range(0, len(rows), size):
                signals.check()
                if time.process_time() - start > _LIMIT_S:
                    raise DataError(
                        f"reading the samples takes more than {_LIMIT_S} s of processor time"
                    )
                batch = samples.batch(rows[first : first + size])
                yield take(batch.x, batch.valid)

        learned = np.concatenate([*read(self.learned, self.rows(self.learned, raw))])
        judged = read(self.judge, self.rows(self.judge, raw)) if self.judge else ()
        return learned, np.concatenate([*judged, *read(self.test, np.arange(len(self.test)))])


def table(x: np.ndarray, valid: np.ndarray | None, most: int) -> np.ndarray:
    """Return features [B, F] float32 of x [B, C, *E], 0 at padding: all values, or summaries where these are more than `most`.

    Summaries are means over a grid of cells, and of every channel mean, deviation, least and
    largest value, mean absolute step along the last axis, and for series the logarithm of the power
    in bands of frequency. Where there is padding, `valid` [B, *E], the share of positions that are
    not padding is a feature too.
    """
    columns = (
        [x.reshape(len(x), -1)] if math.prod(x.shape[1:]) <= most else _summaries(x, valid, most)
    )
    if valid is not None:
        columns.append(valid.reshape(len(x), -1).mean(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _summaries(x: np.ndarray, valid: np.ndarray | None, most: int) -> list[np.ndarray]:
    mask = np.ones((len(x), 1, *x.shape[2:]), dtype=bool) if valid is None else valid[:, None]
    axes = tuple(range(2, x.ndim))
    count = np.maximum(mask.sum(axis=axes), 1)
    mean = x.sum(axis=axes) / count  # padding is 0
    around = np.where(mask, x - np.expand_dims(mean, axes), 0)
    columns = [mean, np.sqrt((around**2).sum(axis=axes) / count)]
    columns += [
        x.min(axis=axes, initial=np.inf, where=mask),
        x.max(axis=axes, initial=-np.inf, where=mask),
    ]
    if x.shape[-1] > 1:
        both = mask[..., 1:] & mask[..., :-1]
        steps = np.where(both, np.abs(np.diff(x, axis=-1)), 0)
        columns.append(steps.sum(axis=axes) / np.maximum(both.sum(axis=axes), 1))
    if x.ndim == 3 and x.shape[2] >= 2 * _BANDS:
        power = np.abs(np.fft.rfft(around, axis=2)) ** 2
        edges = np.unique(np.geomspace(1, power.shape[2], _BANDS + 1).astype(int))
        bands = [
            power[:, :, low:high].mean(axis=2)
            for low, high in zip(edges[:-1], edges[1:], strict=True)
        ]
        columns.append(np.log1p(np.stack(bands, axis=2)).reshape(len(x), -1))
    columns = [
        np.where(np.isfinite(column), column, 0) for column in columns
    ]  # samples of padding alone
    left = most - sum(column.shape[1] for column in columns)
    if left < x.shape[1]:  # the channels' own figures take all the room
        return [np.concatenate(columns, axis=1)[:, : max(1, most)]]
    return [*columns, pooled(x, mask, left // x.shape[1])]


def pooled(x: np.ndarray, mask: np.ndarray, cells: int) -> np.ndarray:
    """Return means over a grid of at most `cells` cells of every channel of x [B, C, *E], [B, C * number of cells].

    `mask` [B, 1, *E] is False at padding, where x is 0 and does not count; a cell that is all
    padding has 0.
    """
    sizes = list(x.shape[2:])  # in proportion to the lengths of the axes
    while math.prod(sizes) > cells and max(sizes) > 1:
        factor = (cells / math.prod(sizes)) ** (1 / sum(size > 1 for size in sizes))
        largest = sizes.index(max(sizes))
        shrunk = [max(1, int(size * factor)) for size in sizes]
        sizes = (
            shrunk
            if shrunk != sizes
            else [*sizes[:largest], sizes[largest] - 1, *sizes[largest + 1 :]]
        )
    total, weight = x, np.broadcast_to(mask, (len(x), 1, *x.shape[2:])).astype(np.float32)
    for axis, size in enumerate(sizes, 2):
        starts = np.arange(size) * x.shape[axis] // size
        total, weight = (np.add.reduceat(part, starts, axis=axis) for part in (total, weight))
    return (total / np.maximum(weight, 1)).reshape(len(x), -1)
