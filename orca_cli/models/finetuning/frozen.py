"""Embedder and predictor are trained, and nothing of the body (an ablation's control)."""

from __future__ import annotations

from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class Frozen:
    """Train embedder and predictor around a body that stays as it was pretrained, norms included."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable but the body's."""
        train_parts(model)
