"""Embedder and predictor are trained, and nothing of the body (an ablation's control)."""

from __future__ import annotations

from orca_cli.finetuning.state import load_own_state, own_state, train_parts
from orca_cli.interfaces import TransferParts


class Frozen:
    """Train embedder and predictor around a body that stays as it was pretrained, norms included."""

    pretrained = True
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def apply(self, model: TransferParts) -> None:
        """Make every parameter trainable but the body's."""
        train_parts(model)
