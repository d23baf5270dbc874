"""Only the body's norms, the embedder and the predictor are trained (FPT, paper 4.2.2)."""

from __future__ import annotations

from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class LayerNorm:
    """Train the norms that the body names, with embedder and predictor."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        train_parts(model, model.body.norms())
