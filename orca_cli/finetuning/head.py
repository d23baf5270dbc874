"""Only the predictor is trained (linear probing)."""

from __future__ import annotations

from orca_cli.finetuning.state import OwnState
from orca_cli.interfaces import TransferParts


class Head(OwnState):
    """Train the predictor; embedder and body stay as stages 1 and 2 left them."""

    def apply(self, model: TransferParts) -> None:
        """Make the predictor's parameters trainable, and no others."""
        model.requires_grad_(False)
        model.predictor.requires_grad_(True)
