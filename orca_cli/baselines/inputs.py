"""What baselines learn from and are measured on.

That is a run, and the samples of its splits as arrays of bounded size.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.baselines.models import SEED
from orca_cli.baselines.network_features import embedded, probed
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Error, Samples, TaskData
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.plan import BEST_FROM

# Of the training samples, where the run has none and validation samples are few.
FOLDS = 5
# Training samples that a model is fitted to.
MOST_ROWS = 4096
# Values of the inputs of one split, and of its targets.
MOST_CELLS = 2**26
# Processor time, so that other load does not decide which baselines a run has.
_LIMIT_S = 120
_BATCH_CELLS = 2**22
_EMBEDDED_AT_ONCE = 32
# Values of an input that are features as they are.
MOST_RAW = 4096
# Values of the table of the training samples.
_CELLS = 2**22
# Features that a sample may have, however many samples there are.
_LEAST_FEATURES = 1024
# Bands of a series' spectrum.
_BANDS = 16


@dataclass(frozen=True)
class Subject:
    """A run as its baselines see it, made by `experiment`.

    Samples are read when they are asked for.

    Each of `table`, `raw`, `embedded` and `probed` returns two arrays: of the n training samples in
    use (`rows`), and of m others, those of `judge` (`judged_rows`) before all of the test split.
    DataError where reading takes more than 120 s of processor time.
    """

    task: TaskData
    # The task's own.
    error: Error
    # What its stage 3 trained on: the training split, or validation as well.
    learned: Samples
    # Whether the validation split is another one than these and the test split.
    may_judge: bool
    # Of each of these samples, [n], where the run was validated by folds; None where it was not.
    run_folds: np.ndarray | None
    # As it was before any training, on the CPU.
    embedder: nn.Module
    # Returns the whole model as it was before any training.
    start: Callable[[], TransferModel]
    # Called where the cache does not have all outputs.
    open_test: Callable[[], Samples]
    # Of the test split, [n, ...].
    targets: Tensor
    # Records of the test samples, [n].
    groups: np.ndarray | None
    # Of the splits by name: train, val and test.
    digests: Mapping[str, str]
    # Output of the best constant predictor, [K] or [K, *E].
    constant: Tensor

    @functools.cached_property
    def test(self) -> Samples:
        """Return the test split, opened when it is first needed."""
        return self.open_test()

    @property
    def judge(self) -> Samples | None:
        """Return the split that says which model is best.

        None where folds of the training samples do: those of the run, or others where it has none
        and the validation split is small.
        """
        validation = self.task.validation
        if self.run_folds is None and self.may_judge and len(validation) >= BEST_FROM:
            return validation
        return None

    @property
    def judged(self) -> dict[str, Any]:
        """Return what says which model is best, as result.json holds it.

        on: validation or folds; n: samples of it; folds: their number, or None.
        """
        if self.judge is not None:
            return {"on": "validation", "n": len(self.judge), "folds": None}
        num_folds = FOLDS if self.run_folds is None else int(self.run_folds.max()) + 1
        return {"on": "folds", "n": len(self.learned), "folds": num_folds}

    def rows(self, raw: bool) -> np.ndarray:
        """Return the indices of the training samples that are used, ascending.

        These are all, or as many as there is room for, drawn at random. There is less room for
        `raw` inputs than for features.
        """
        limit = MOST_ROWS
        if raw:
            limit = min(MOST_ROWS, self._raw_room() // 2)
        return _drawn(len(self.learned), limit)

    def judged_rows(self, raw: bool) -> np.ndarray:
        """Return the indices of the samples of `judge` that are used, ascending; none without it.

        These are all, as of the test split; of `raw` inputs as many as there is room for.
        """
        count = len(self.judge or ())
        return _drawn(count, self._raw_room() if raw else count)

    def _raw_room(self) -> int:
        """Return how many inputs have MOST_CELLS values, but at least 4."""
        return max(4, MOST_CELLS // math.prod(self.task.input_shape))

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features by the function `table`, [n, F] and [m, F] float32."""
        num_learned = len(self.rows(raw=False))
        # The fewer the samples, the more features each may have.
        wished = max(_LEAST_FEATURES, min(MOST_RAW, _CELLS // max(1, num_learned)))
        # Neither the training table nor that of the other samples exceeds MOST_CELLS values.
        longer_table = max(num_learned, len(self.judge or ()) + len(self.test))
        room = max(1, MOST_CELLS // longer_table)
        limit = min(wished, room)

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return table(x.numpy(), None if valid is None else valid.numpy(), limit)

        return self._read(take)

    @functools.cached_property
    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs, [n, C, *E] and [m, C, *E], 0 at padding.

        DataError for a test split that is too large.
        """
        test_cells = len(self.test) * math.prod(self.task.input_shape)
        if test_cells > 2 * MOST_CELLS:
            raise DataError(
                f"the test split has more than {2 * MOST_CELLS:,} values, too many for it"
            )
        return self._read(lambda x, valid: x.numpy(), raw=True)

    def embedded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the embedder's features of the samples, [n, F] and [m, F].

        These are its own where it has such, else the mean and the maximum of its tokens.
        """
        embedder: Any = self.embedder.eval()

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return embedded(embedder, x, valid)

        return self._read(take, at_once=_EMBEDDED_AT_ONCE)

    def probed(self, model: TransferModel) -> tuple[np.ndarray, np.ndarray]:
        """Return what a model's predictor sees of the samples, pooled features [n, F] and [m, F].

        The model stays on its device.
        """
        device = next(model.eval().parameters()).device

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return probed(model, x.to(device), None if valid is None else valid.to(device))

        return self._read(take, at_once=_EMBEDDED_AT_ONCE)

    @torch.no_grad()
    def _read(
        self,
        take: Callable[[Tensor, Tensor | None], np.ndarray],
        *,
        raw: bool = False,
        at_once: int = 256,
    ) -> tuple[np.ndarray, np.ndarray]:
        sample_cells = math.prod(self.task.input_shape)
        batch_size = max(1, min(at_once, _BATCH_CELLS // sample_cells))
        began = time.process_time()

        def read(samples: Samples, rows: np.ndarray) -> Iterator[np.ndarray]:
            for start in range(0, len(rows), batch_size):
                signals.check()
                if time.process_time() - began > _LIMIT_S:
                    raise DataError(
                        f"reading the samples takes more than {_LIMIT_S} s of processor time"
                    )
                batch = samples.batch(rows[start : start + batch_size])
                yield take(batch.x, batch.valid)

        learned = np.concatenate([*read(self.learned, self.rows(raw))])
        judged: list[np.ndarray] = []
        if self.judge:
            judged += read(self.judge, self.judged_rows(raw))
        # All test samples, as for the run's own error.
        tested = read(self.test, np.arange(len(self.test)))
        return learned, np.concatenate([*judged, *tested])


def _drawn(count: int, limit: int) -> np.ndarray:
    """Return the indices of `count` samples, ascending: all, or `limit` drawn at random."""
    rows = np.arange(count)
    if count <= limit:
        return rows
    generator = seeding.numpy_generator(SEED, "baselines", "samples")
    return np.sort(generator.choice(rows, limit, replace=False))


def table(x: np.ndarray, valid: np.ndarray | None, limit: int) -> np.ndarray:
    """Return features [B, F] float32 of x [B, C, *E], 0 at padding.

    These are all values, or summaries where a sample has more than `limit` values.

    Summaries are means over a grid of cells, and of every channel mean, deviation, least and
    largest value, mean absolute step along the last axis, and for series the logarithm of the power
    in bands of frequency. Where there is padding, `valid` [B, *E], the share of positions that are
    not padding is a feature too.
    """
    if math.prod(x.shape[1:]) <= limit:
        columns = [x.reshape(len(x), -1)]
    else:
        columns = _summaries(x, valid, limit)
    if valid is not None:
        columns.append(valid.reshape(len(x), -1).mean(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _summaries(x: np.ndarray, valid: np.ndarray | None, limit: int) -> list[np.ndarray]:
    num_channels = x.shape[1]
    mask_shape = (len(x), 1, *x.shape[2:])  # [B, 1, *E]
    mask: np.ndarray = np.ones(mask_shape, dtype=bool)
    if valid is not None:
        mask = valid[:, None]
    axes = tuple(range(2, x.ndim))
    count = np.maximum(mask.sum(axis=axes), 1)
    # Padding is 0 and adds nothing to the sum.
    mean = x.sum(axis=axes) / count
    centred = np.where(mask, x - np.expand_dims(mean, axes), 0)
    variance = (centred**2).sum(axis=axes) / count
    columns = [
        mean,
        np.sqrt(variance),
        x.min(axis=axes, initial=np.inf, where=mask),
        x.max(axis=axes, initial=-np.inf, where=mask),
    ]
    if x.shape[-1] > 1:
        is_step = mask[..., 1:] & mask[..., :-1]
        steps = np.where(is_step, np.abs(np.diff(x, axis=-1)), 0)
        step_count = np.maximum(is_step.sum(axis=axes), 1)
        columns.append(steps.sum(axis=axes) / step_count)
    if x.ndim == 3 and x.shape[2] >= 2 * _BANDS:
        columns.append(_spectrum(centred))
    # A sample of padding alone has an infinite least and largest value.
    columns = [np.where(np.isfinite(column), column, 0) for column in columns]
    num_features = sum(column.shape[1] for column in columns)
    room = limit - num_features
    if room < num_channels:
        # The channels' own figures take all the room.
        figures = np.concatenate(columns, axis=1)
        return [figures[:, : max(1, limit)]]
    return [*columns, pooled(x, mask, room // num_channels)]


def _spectrum(x: np.ndarray) -> np.ndarray:
    """Return the log power of series [B, C, T] in bands of frequency, [B, C * bands]."""
    power = np.abs(np.fft.rfft(x, axis=2)) ** 2
    spaced = np.geomspace(1, power.shape[2], _BANDS + 1)
    edges = np.unique(spaced.astype(int))
    band_means = []
    for low, high in pairwise(edges):
        band = power[:, :, low:high]
        band_means.append(band.mean(axis=2))
    band_power = np.stack(band_means, axis=2)
    return np.log1p(band_power).reshape(len(x), -1)


def pooled(x: np.ndarray, mask: np.ndarray, cells: int) -> np.ndarray:
    """Return means over a grid of cells of every channel of x [B, C, *E], [B, C * number of cells].

    A channel has at most `cells` cells, in proportion to the lengths of the axes.

    `mask` [B, 1, *E] is False at padding, where x is 0 and does not count; a cell that is all
    padding has 0.
    """
    sizes = list(x.shape[2:])
    while math.prod(sizes) > cells and max(sizes) > 1:
        num_long_axes = sum(size > 1 for size in sizes)
        factor = (cells / math.prod(sizes)) ** (1 / num_long_axes)
        shrunk = [max(1, int(size * factor)) for size in sizes]
        if shrunk == sizes:
            shrunk[sizes.index(max(sizes))] -= 1
        sizes = shrunk
    total = x
    weight_shape = (len(x), 1, *x.shape[2:])
    weight = np.broadcast_to(mask, weight_shape).astype(np.float32)
    for axis, size in enumerate(sizes, 2):
        starts = np.arange(size) * x.shape[axis] // size
        total = np.add.reduceat(total, starts, axis=axis)
        weight = np.add.reduceat(weight, starts, axis=axis)
    return (total / np.maximum(weight, 1)).reshape(len(x), -1)
