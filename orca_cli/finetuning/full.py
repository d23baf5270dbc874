"""All parameters are trained (the paper's full setting)."""

from __future__ import annotations

from orca_cli.finetuning.state import load_own_state, own_state
from orca_cli.interfaces import TransferParts


class Full:
    """Train embedder, body and predictor."""

    pretrained = True
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def apply(self, model: TransferParts) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)
