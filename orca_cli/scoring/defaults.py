"""The error that a task names, and the one of a task that names none."""

from __future__ import annotations

from typing import Any

from orca_cli.config import parts, short_names
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Error
from orca_cli.scoring.chunks import ChunkMean
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.multilabel import MeanAveragePrecision
from orca_cli.scoring.regression import RMSE, MeanSquared


def default_error(kind: str, integer_targets: bool) -> Error:
    """Return the error of a task that names none; dense takes the 0-1 error over positions where targets are integers."""
    if kind == "labels":
        return MeanAveragePrecision()
    if kind == "values":
        return RMSE()
    return MeanSquared() if kind == "dense" and not integer_targets else ZeroOne()


def named_error(node: Any, kind: str, integer_targets: bool, chunk: int | None, batch: int) -> Error:
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
    node = short_names.node("error", node, kind, integer_targets)
    error: Error = default_error(kind, integer_targets) if node is None else parts.build(node, "task.error")
    if not (hasattr(error, "name") and hasattr(error, "percent")):  # such as a loss
        hint = "give a short name, or a class of orca_cli.scoring that measures a whole split"
        raise ConfigError(f"{type(error).__name__} is not an error", where="task.error", hint=hint)
    # One that is an average over chunks itself stays as it is, and so does one by records, which a chunk would cut apart.
    is_whole = chunk is None or isinstance(error, ChunkMean) or getattr(error, "by", "") == "records"
    return error if is_whole else ChunkMean(error, chunk or 0, batch)
