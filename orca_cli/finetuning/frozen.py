"""Embedder and predictor are trained, and nothing of the body (an ablation's control)."""

from __future__ import annotations

from orca_cli.finetuning.state import OwnState
from orca_cli.interfaces import TransferParts


class Frozen(OwnState):
    """Train embedder and predictor around a body that stays as it was pretrained, norms included."""

    def apply(self, model: TransferParts) -> None:
        """Make every parameter trainable but the body's."""
        model.requires_grad_(True)
        model.body.requires_grad_(False)
