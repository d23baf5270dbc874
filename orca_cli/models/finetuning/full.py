"""All parameters are trained (the paper's full setting)."""

from __future__ import annotations

from orca_cli.models.transfer import TransferModel


class Full:
    """Train embedder, body and predictor."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)
