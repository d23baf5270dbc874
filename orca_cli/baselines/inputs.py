"""A run as its baselines see it: the samples of its splits, as arrays of bounded size."""

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

# Largest number of training samples that a baseline is fitted to.
MOST_ROWS = 4096
# Largest number of values in the inputs of one split, and in its targets.
MOST_CELLS = 2**26
# Limit on processor time, so that other load does not decide which baselines a run has.
_LIMIT_S = 120
_BATCH_CELLS = 2**22
_EMBEDDED_AT_ONCE = 32
# Largest number of values of an input that become features without being summarised.
MOST_RAW = 4096
# Number of values that the table of training samples should have at most.
_CELLS = 2**22
# Number of features that a sample may have whatever the number of samples.
_LEAST_FEATURES = 1024


@dataclass(frozen=True)
class Subject:
    """A run as its baselines see it; `subject.subject_of` makes it.

    Samples are read when they are first needed.

    Each of `table`, `raw`, `embedded` and `probed` returns two arrays. The first has the n training
    samples in use (`rows`). The second has m other samples: the samples of `judge` in use
    (`judged_rows`), followed by the whole test split. All four raise DataError if reading takes
    more than 120 s of processor time.
    """

    task: TaskData
    # The task's own error.
    error: Error
    # Samples that stage 3 trained on: the training split, or the training and validation splits.
    learned: Samples
    # Whether the validation split differs from these samples and from the test split.
    may_judge: bool
    # Fold of each sample in `learned`, [n]; None if the run was not validated by folds.
    run_folds: np.ndarray | None
    # The embedder before any training, on the CPU.
    embedder: nn.Module
    # Returns the transfer before any training.
    start: Callable[[], TransferModel]
    # Opens the test split; called if the cache lacks some outputs.
    open_test: Callable[[], Samples]
    # Targets of the test split, [n, ...].
    targets: Tensor
    # Record of each test sample, [n]; None if samples are not cut from records.
    groups: np.ndarray | None
    # Name of a split (train, val or test) -> its SHA-256.
    digests: Mapping[str, str]
    # Output of the best constant predictor, [K] or [K, *E].
    constant: Tensor

    @functools.cached_property
    def test(self) -> Samples:
        """Return the test split, opened when it is first needed."""
        return self.open_test()

    @property
    def judge(self) -> Samples | None:
        """Return the validation split if candidates are compared on it, else None.

        Otherwise they are compared on folds of the training samples: the run's folds, or new folds
        if the run has none and its validation split is small or not separate.
        """
        validation = self.task.validation
        if self.run_folds is None and self.may_judge and len(validation) >= BEST_FROM:
            return validation
        return None

    @property
    def judged(self) -> dict[str, Any]:
        """Return which samples candidates are compared on, in the form of result.json.

        on: validation or folds; n: number of samples; folds: number of folds, or None.
        """
        if self.judge is not None:
            return {"on": "validation", "n": len(self.judge), "folds": None}
        num_folds = FOLDS if self.run_folds is None else int(self.run_folds.max()) + 1
        return {"on": "folds", "n": len(self.learned), "folds": num_folds}

    def rows(self, raw: bool) -> np.ndarray:
        """Return the indices of the training samples that are used, ascending.

        They are all training samples, or as many as the limits allow, drawn at random. The limit is
        lower for `raw` inputs than for features.
        """
        limit = MOST_ROWS
        if raw:
            limit = min(MOST_ROWS, self._raw_room() // 2)
        return _drawn(len(self.learned), limit)

    def judged_rows(self, raw: bool) -> np.ndarray:
        """Return the indices of the samples of `judge` that are used, ascending.

        For features they are all samples, and for `raw` inputs as many as the limits allow. They
        are empty without `judge`.
        """
        count = len(self.judge or ())
        return _drawn(count, self._raw_room() if raw else count)

    def _raw_room(self) -> int:
        """Return the number of inputs that have MOST_CELLS values together, at least 4."""
        return max(4, MOST_CELLS // math.prod(self.task.input_shape))

    @functools.cached_property
    def limit(self) -> int:
        """Return the argument `limit` of `features.table`."""
        num_learned = len(self.rows(raw=False))
        # The fewer the samples, the more features each may have.
        wished = max(_LEAST_FEATURES, min(MOST_RAW, _CELLS // max(1, num_learned)))
        # Neither the table of training samples nor the table of other samples exceeds MOST_CELLS.
        longer_table = max(num_learned, len(self.judge or ()) + len(self.test))
        room = max(1, MOST_CELLS // longer_table)
        return min(wished, room)

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the features that `features.table` computes, [n, F] and [m, F] float32."""

        def take(x: Tensor, valid: Tensor | None) -> np.ndarray:
            return table(x.numpy(), None if valid is None else valid.numpy(), self.limit)

        return self._read(take)

    @functools.cached_property
    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs, [n, C, *E] and [m, C, *E], 0 at padding.

        Raises:
            DataError: the test split is too large, or reading takes too long.
        """
        test_cells = len(self.test) * math.prod(self.task.input_shape)
        if test_cells > 2 * MOST_CELLS:
            raise DataError(
                f"the test split has {test_cells:,} values, more than the limit of "
                f"{2 * MOST_CELLS:,}"
            )
        return self._read(lambda x, valid: x.numpy(), raw=True)

    def embedded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the embedder's features of the samples, [n, F] and [m, F]."""
        embedder = self.embedder.eval()
        return self._read(functools.partial(embedded, embedder), at_once=_EMBEDDED_AT_ONCE)

    def probed(self, model: TransferModel) -> tuple[np.ndarray, np.ndarray]:
        """Return the pooled features that a model's predictor gets, [n, F] and [m, F].

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
                        "reading the samples takes more processor time than the limit of "
                        f"{_LIMIT_S} s"
                    )
                batch = samples.batch(rows[start : start + batch_size])
                yield take(batch.x, batch.valid)

        learned = np.concatenate([*read(self.learned, self.rows(raw))])
        judged: list[np.ndarray] = []
        if self.judge:
            judged += read(self.judge, self.judged_rows(raw))
        # All test samples are read, as for the run's own error.
        tested = read(self.test, np.arange(len(self.test)))
        return learned, np.concatenate([*judged, *tested])


def _drawn(count: int, limit: int) -> np.ndarray:
    """Return the indices of `count` samples, ascending: all, or `limit` drawn at random."""
    rows = np.arange(count)
    if count <= limit:
        return rows
    generator = seeding.numpy_generator(SEED, "baselines", "samples")
    return np.sort(generator.choice(rows, limit, replace=False))
