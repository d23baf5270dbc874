"""What baselines learn from and are measured on.

That is a run, and the samples of its splits as arrays of bounded size.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.baselines.features import table
from orca_cli.baselines.models import FOLDS, SEED
from orca_cli.baselines.network_features import embedded, probed
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Error, Samples, TaskData
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.plan import BEST_FROM

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
    def limit(self) -> int:
        """Return the limit of the function `table`."""
        num_learned = len(self.rows(raw=False))
        # The fewer the samples, the more features each may have.
        wished = max(_LEAST_FEATURES, min(MOST_RAW, _CELLS // max(1, num_learned)))
        # Neither the training table nor that of the other samples exceeds MOST_CELLS values.
        longer_table = max(num_learned, len(self.judge or ()) + len(self.test))
        room = max(1, MOST_CELLS // longer_table)
        return min(wished, room)

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features by the function `table`, [n, F] and [m, F] float32."""

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return table(x.numpy(), None if valid is None else valid.numpy(), self.limit)

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
        """Return the embedder's features of the samples, [n, F] and [m, F]."""
        embedder = self.embedder.eval()
        return self._read(functools.partial(embedded, embedder), at_once=_EMBEDDED_AT_ONCE)

    def probed(self, model: TransferModel) -> tuple[np.ndarray, np.ndarray]:
        """Return what a model's predictor sees of the samples, pooled features [n, F] and [m, F].

        The model stays on its device.
        """
        device = next(model.eval().parameters()).device

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return probed(model, x.to(device), None if valid is None else valid.to(device))

        return self._read(take, at_once=_EMBEDDED_AT_ONCE)

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
