"""Only the body's norms, the embedder and the predictor are trained (FPT, paper 4.2.2)."""

from __future__ import annotations

from orca_cli.finetuning.state import OwnState
from orca_cli.interfaces import TransferParts


class LayerNorm(OwnState):
    """Train the norms that the body names, with embedder and predictor."""

    def apply(self, model: TransferParts) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        model.requires_grad_(True)
        model.body.requires_grad_(False)
        for norm in model.body.norms():
            norm.requires_grad_(True)
