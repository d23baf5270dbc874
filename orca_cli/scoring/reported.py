"""The error that a run reports: its task's error, averaged as its protocol says."""

from typing import Any

import numpy as np

from orca_cli.config import parts
from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Error, Score

# Kind -> error of a task that does not name an error.
_USUAL = {"labels": "map", "values": "rmse"}


class ChunkMean:
    """Unweighted mean of another error over consecutive chunks of a split.

    It serves only for comparison with published numbers. A chunk takes batches until it contains
    `size` samples or more. The last chunk is smaller, yet has the same weight. AUROC, F1 and
    similar errors differ between chunks and the whole split; the errors of the whole split are in
    `others`.

    Args:
        size: number of samples after which a chunk is closed: 1000 in the published code.
        batch: number of samples in a batch of the evaluation; a chunk contains whole batches.
        drop_tail: whether samples after the last full chunk are left out, unless no chunk is full.
            A chunk is then full when its number of batches times the size of its last batch
            is `size` or more.

    Raises:
        ConfigError: `error` is not an error.
    """

    def __init__(
        self, error: Error, size: Count = 1000, batch: Count = 1, drop_tail: bool = False
    ) -> None:
        if not callable(error):
            raise ConfigError(
                f"{error!r} is not an error measure",
                where="task.error.error",
                hint="set task.error.error._target_ to a class of orca_cli.scoring",
            )
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

        `n` counts chunks, `skipped` chunks that are left out or have no error.
        """
        split_score = self._error(outputs, targets, groups)
        split_errors = {self._error.name: split_score.value, **split_score.others}
        chunks = self._chunks(len(outputs))
        defined: list[float] = []
        end = 0
        for chunk in chunks:
            end = chunk.stop
            records = None if groups is None else groups[chunk]
            score = self._error(outputs[chunk], targets[chunk], records)
            # A chunk may lack a class or a positive entry, so that its error is undefined.
            if score.value is not None:
                defined.append(score.value)
        # Samples after the last chunk count as one skipped chunk.
        has_tail = end < len(outputs)
        return Score(
            value=sum(defined) / len(defined) if defined else None,
            n=len(defined),
            skipped=len(chunks) - len(defined) + has_tail,
            others={f"{name}, whole split": error for name, error in split_errors.items()},
        )

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the best constant for the error that is averaged."""
        return self._error.constant(train_targets, num_outputs)

    def _chunks(self, sample_count: int) -> list[slice]:
        """Return the chunks that count."""
        chunks = []
        start = 0
        batches = 0
        # Batches are never divided between two chunks.
        for batch_start in range(0, sample_count, self._batch):
            end = min(batch_start + self._batch, sample_count)
            batches += 1
            samples = end - start
            if self._drop_tail:
                # The count assumes that all batches are as large as the last batch.
                samples = batches * (end - batch_start)
            if samples >= self._size:
                chunks.append(slice(start, end))
                start = end
                batches = 0
        # A split that fills no chunk is one chunk all the same.
        if start < sample_count and not (chunks and self._drop_tail):
            chunks.append(slice(start, sample_count))
        return chunks


def named_error(
    node: Any, kind: str, integer_targets: bool, chunk: int | None, batch: int
) -> Error:
    """Return the error of a run.

    Args:
        node: the setting `task.error`: a node, a short name, or None for the usual error of a kind.
        kind: kind of the task.
        integer_targets: whether its targets are classes.
        chunk: number of samples in a chunk, if the protocol averages the error over chunks; None
            for the error of the whole split.
        batch: the setting `train.batch_size`.

    Raises:
        ConfigError: the kind does not have this error, or the node does not make an error.
    """
    if node is None:
        node = _USUAL.get(kind, "zero_one")
        # Dense classes keep the 0-1 error.
        if kind == "dense" and not integer_targets:
            node = "mse"
    error: Error = parts.build(parts.named("error", node, kind, integer_targets), "task.error")
    is_error = hasattr(error, "name") and hasattr(error, "percent")
    # The node may describe a loss.
    if not is_error:
        raise ConfigError(
            f"{type(error).__name__} is not an error measure",
            where="task.error",
            hint="use a name such as rmse, or a class of orca_cli.scoring that scores a whole "
            "split",
        )
    # A chunk could hold only some samples of a record.
    is_by_record = getattr(error, "by", "") == "records"
    if chunk is None or isinstance(error, ChunkMean) or is_by_record:
        return error
    return ChunkMean(error, chunk, batch)
