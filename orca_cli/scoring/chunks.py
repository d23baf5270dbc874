"""How the code released with the paper averages an error over a split."""

from __future__ import annotations

import numpy as np

from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Error, Score


class ChunkMean:
    """Unweighted mean of another error over consecutive chunks of a split; only for comparison with published numbers.

    Batches are put together until a chunk holds `size` samples or more. The last chunk is smaller, yet counts as much. AUROC,
    F1 and the like of chunks differ from those of the whole split, which are in `others`.

    Args:
        size: samples after which a chunk is closed: 1000 in the published code.
        batch: samples in a batch of the evaluation; a chunk holds whole batches.
        drop_tail: whether samples after the last full chunk are left out, unless there is nothing else. A chunk is then
            full when its number of batches times the size of its last batch is `size` or more.

    Raises:
        ConfigError: `error` is not an error.
    """

    def __init__(self, error: Error, size: Count = 1000, batch: Count = 1, drop_tail: bool = False) -> None:
        if not callable(error):
            raise ConfigError(f"{error!r} is not an error", where="task.error.error", hint="give a node with _target_")
        self._error, self._size, self._batch, self._drop_tail = error, size, batch, drop_tail
        self.name, self.percent = f"{error.name}, mean over chunks", error.percent

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None) -> Score:
        """Return the mean over chunks; `n` counts chunks, `skipped` those left out or for which the error is undefined."""
        whole = self._error(outputs, targets, groups)
        chunks, dropped = self._chunks(len(outputs))
        parts = [(outputs[chunk], targets[chunk], None if groups is None else groups[chunk]) for chunk in chunks]
        defined = [value for part in parts if (value := self._error(*part).value) is not None]
        whole_split = {self._error.name: whole.value, **whole.others}
        others = {f"{name}, whole split": value for name, value in whole_split.items()}
        skipped = len(chunks) - len(defined) + dropped
        return Score(sum(defined) / len(defined) if defined else None, len(defined), skipped, others)

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the best constant of the other error."""
        return self._error.constant(train_targets, num_outputs)

    def _chunks(self, n: int) -> tuple[list[slice], int]:
        """Return the chunks that count, and how many are dropped."""
        full, start, batches = [], 0, 0
        for first in range(0, n, self._batch):
            end = min(first + self._batch, n)
            batches += 1
            samples = batches * (end - first) if self._drop_tail else end - start
            if samples >= self._size:
                full.append(slice(start, end))
                start, batches = end, 0
        if start == n:
            return full, 0
        if full and self._drop_tail:
            return full, 1
        return [*full, slice(start, n)], 0
