"""Only the predictor is trained (linear probing)."""

from __future__ import annotations

from orca_cli.interfaces import TransferParts
from orca_cli.models.finetuning.state import train_parts


class Head:
    """Train the predictor; embedder and body stay as stages 1 and 2 left them."""

    pretrained = True

    def apply(self, model: TransferParts) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)
