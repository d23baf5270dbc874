"""The loss of a task that names none."""

from __future__ import annotations

from torch import nn

from orca_cli.exceptions import ConfigError, suggest
from orca_cli.interfaces import KINDS
from orca_cli.losses.masked import MaskedBCE, MaskedCrossEntropy, MaskedMSE


def default_loss(kind: str, integer_targets: bool) -> nn.Module:
    """Return the loss for a kind of output; dense gives cross-entropy at every position where targets are integers.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not a kind", where="task.kind", hint=suggest(kind, KINDS))
    if kind == "labels":
        return MaskedBCE()
    return MaskedMSE() if kind == "dense" and not integer_targets else MaskedCrossEntropy()
