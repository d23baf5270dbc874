"""The error that a run reports: the one that its task names, and how the code released with the paper averages it."""

from typing import Any

import numpy as np

from orca_cli.config import parts
from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Error, Score

_USUAL = {"labels": "map", "values": "rmse"}  # kind -> error of a task that names none


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

    def __init__(
        self, error: Error, size: Count = 1000, batch: Count = 1, drop_tail: bool = False
    ) -> None:
        if not callable(error):
            raise ConfigError(
                f"{error!r} is not an error",
                where="task.error.error",
                hint="give a node with _target_",
            )
        self._error, self._size, self._batch, self._drop_tail = error, size, batch, drop_tail
        self.name, self.percent = f"{error.name}, mean over chunks", error.percent

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the mean over chunks; `n` counts chunks, `skipped` those left out or for which the error is undefined."""
        whole = self._error(outputs, targets, groups)
        chunks = self._chunks(len(outputs))
        parts = [
            (outputs[chunk], targets[chunk], None if groups is None else groups[chunk])
            for chunk in chunks
        ]
        defined = [value for part in parts if (value := self._error(*part).value) is not None]
        whole_split = {self._error.name: whole.value, **whole.others}
        others = {f"{name}, whole split": value for name, value in whole_split.items()}
        is_cut = bool(chunks) and chunks[-1].stop < len(outputs)
        skipped = len(chunks) - len(defined) + is_cut
        return Score(
            sum(defined) / len(defined) if defined else None, len(defined), skipped, others
        )

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the best constant of the other error."""
        return self._error.constant(train_targets, num_outputs)

    def _chunks(self, n: int) -> list[slice]:
        """Return the chunks that count."""
        full, start, batches = [], 0, 0
        for first in range(0, n, self._batch):
            end = min(first + self._batch, n)
            batches += 1
            samples = batches * (end - first) if self._drop_tail else end - start
            if samples >= self._size:
                full.append(slice(start, end))
                start, batches = end, 0
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
        chunk: samples after which its protocol averages an error; None: it is that of the whole split.
        batch: its setting `train.batch_size`.

    Raises:
        ConfigError: the kind has no such error, or the node is none.
    """
    if node is None:
        node = "mse" if kind == "dense" and not integer_targets else _USUAL.get(kind, "zero_one")
    error: Error = parts.build(parts.named("error", node, kind, integer_targets), "task.error")
    if not (hasattr(error, "name") and hasattr(error, "percent")):  # such as a loss
        hint = "give a short name, or a class of orca_cli.scoring that measures a whole split"
        raise ConfigError(f"{type(error).__name__} is not an error", where="task.error", hint=hint)
    # One that is an average over chunks itself stays as it is, and so does one by records, which a chunk would cut apart.
    is_whole = (
        chunk is None or isinstance(error, ChunkMean) or getattr(error, "by", "") == "records"
    )
    return error if is_whole else ChunkMean(error, chunk or 0, batch)
