"""The error that a run reports: the one that its task names, averaged as its protocol says."""

from typing import Any

import numpy as np

from orca_cli.config import parts
from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Error, Score

# Kind -> error of a task that does not name one.
_USUAL = {"labels": "map", "values": "rmse"}


class ChunkMean:
    """Unweighted mean of another error over consecutive chunks of a split.

    Only for comparison with published numbers. Batches are put together until a chunk holds `size`
    samples or more. The last chunk is smaller, yet counts as much. AUROC, F1 and the like of chunks
    differ from those of the whole split, which are in `others`.

    Args:
        size: samples after which a chunk is closed: 1000 in the published code.
        batch: samples in a batch of the evaluation; a chunk holds whole batches.
        drop_tail: whether samples after the last full chunk are left out, unless there is nothing
            else. A chunk is then full when its number of batches times the size of its last batch
            is `size` or more.

    Raises:
        ConfigError: `error` is not an error.
    """

    def __init__(
        self, error: Error, size: Count = 1000, batch: Count = 1, drop_tail: bool = False
    ) -> None:
        if not callable(error):
            hint = "give a node with _target_"
            raise ConfigError(f"{error!r} is not an error", where="task.error.error", hint=hint)
        self._error = error
        self._size = size
        self._batch = batch
        self._drop_tail = drop_tail
        self.name = f"{error.name}, mean over chunks"
        self.percent = error.percent

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the mean over chunks.

        `n` counts chunks, `skipped` those that are left out or have no error.
        """
        whole = self._error(outputs, targets, groups)
        of_whole = {self._error.name: whole.value, **whole.others}
        chunks = self._chunks(len(outputs))
        defined: list[float] = []
        for chunk in chunks:
            records = None if groups is None else groups[chunk]
            score = self._error(outputs[chunk], targets[chunk], records)
            if score.value is not None:
                defined.append(score.value)
        is_cut = bool(chunks) and chunks[-1].stop < len(outputs)
        return Score(
            value=sum(defined) / len(defined) if defined else None,
            n=len(defined),
            skipped=len(chunks) - len(defined) + is_cut,
            others={f"{name}, whole split": error for name, error in of_whole.items()},
        )

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the best constant of the other error."""
        return self._error.constant(train_targets, num_outputs)

    def _chunks(self, n: int) -> list[slice]:
        """Return the chunks that count."""
        full = []
        start = 0
        batches = 0
        for first in range(0, n, self._batch):
            end = min(first + self._batch, n)
            batches += 1
            samples = batches * (end - first) if self._drop_tail else end - start
            if samples >= self._size:
                full.append(slice(start, end))
                start = end
                batches = 0
        if start < n and not (full and self._drop_tail):
            full.append(slice(start, n))
        return full


def named_error(
    node: Any, kind: str, integer_targets: bool, chunk: int | None, batch: int
) -> Error:
    """Return the error of a run.

    Args:
        node: its setting `task.error`: a node, a short name, or None for the usual one of its kind.
        kind: of the task.
        integer_targets: whether its targets are classes.
        chunk: samples after which its protocol averages an error; None: it is that of the whole
            split.
        batch: its setting `train.batch_size`.

    Raises:
        ConfigError: the kind does not have this error, or the node is something else.
    """
    if node is None:
        node = "mse" if kind == "dense" and not integer_targets else _USUAL.get(kind, "zero_one")
    error: Error = parts.build(parts.named("error", node, kind, integer_targets), "task.error")
    is_error = hasattr(error, "name") and hasattr(error, "percent")
    if not is_error:  # such as a loss
        hint = "give a short name, or a class of orca_cli.scoring that measures a whole split"
        raise ConfigError(f"{type(error).__name__} is not an error", where="task.error", hint=hint)
    # A chunk would cut records apart.
    is_by_record = getattr(error, "by", "") == "records"
    if chunk is None or isinstance(error, ChunkMean) or is_by_record:
        return error
    return ChunkMean(error, chunk, batch)
