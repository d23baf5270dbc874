"""Only the predictor is trained (linear probing)."""

from __future__ import annotations

from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class Head:
    """Train the predictor; embedder and body stay as stages 1 and 2 left them."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)
