"""Only the predictor is trained (linear probing)."""

from __future__ import annotations

from orca_cli.finetuning.state import load_own_state, own_state, train_parts
from orca_cli.interfaces import TransferParts


class Head:
    """Train the predictor; embedder and body stay as stages 1 and 2 left them."""

    pretrained = True
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def apply(self, model: TransferParts) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)
