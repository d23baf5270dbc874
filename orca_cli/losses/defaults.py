"""The loss of a task that names none."""

from __future__ import annotations

from torch import nn

from orca_cli.exceptions import ConfigError, suggest
from orca_cli.interfaces import KINDS
from orca_cli.losses.masked import MaskedBCE, MaskedCrossEntropy, MaskedMSE


def default_loss(kind: str, integer_targets: bool) -> nn.Module:
    """Return the loss for a kind of output.

    Args:
        kind: classes gives cross-entropy; labels binary cross-entropy; dense the mean squared error, or cross-entropy at
            every position where targets are integers.
        integer_targets: whether targets are integers; for dense only.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind == "labels":
        return MaskedBCE()
    if kind == "dense" and not integer_targets:
        return MaskedMSE()
    if kind in KINDS:
        return MaskedCrossEntropy()
    raise ConfigError(f"'{kind}' is not a kind", where="task.kind", hint=suggest(kind, KINDS))
