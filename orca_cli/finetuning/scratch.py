"""All parameters are trained, from a random body (train-from-scratch, paper 4.2.1)."""

from __future__ import annotations

from orca_cli.finetuning.state import load_own_state, own_state
from orca_cli.interfaces import TransferParts


class Scratch:
    """Train embedder, body and predictor; the body's weights are drawn by its architecture's own initialisation.

    conf/finetune/scratch.yaml also draws the embedder's weights at random and leaves stage 2 out.
    """

    pretrained = False
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def apply(self, model: TransferParts) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)
