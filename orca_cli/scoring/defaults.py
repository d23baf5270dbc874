"""The error of a task that names none."""

from __future__ import annotations

from orca_cli.exceptions import ConfigError, suggest
from orca_cli.interfaces import KINDS, Error
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.multilabel import MeanAveragePrecision
from orca_cli.scoring.regression import MeanSquared
from orca_cli.scoring.values import RMSE


def default_error(kind: str, integer_targets: bool) -> Error:
    """Return the error for a kind of output; dense gives the 0-1 error over positions where targets are integers.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not a kind", where="task.kind", hint=suggest(kind, KINDS))
    if kind == "labels":
        return MeanAveragePrecision()
    if kind == "values":
        return RMSE()
    return MeanSquared() if kind == "dense" and not integer_targets else ZeroOne()
