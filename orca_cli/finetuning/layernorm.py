"""Only the body's norms, the embedder and the predictor are trained (FPT, paper 4.2.2)."""

from __future__ import annotations

from orca_cli.finetuning.state import load_own_state, own_state, train_parts
from orca_cli.interfaces import TransferParts


class LayerNorm:
    """Train the norms that the body names, with embedder and predictor."""

    pretrained = True
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def apply(self, model: TransferParts) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        train_parts(model, model.body.norms())
