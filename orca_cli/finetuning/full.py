"""All parameters are trained (the paper's full setting)."""

from __future__ import annotations

from orca_cli.finetuning.state import OwnState
from orca_cli.interfaces import TransferParts


class Full(OwnState):
    """Train embedder, body and predictor."""

    def apply(self, model: TransferParts) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)
