"""All parameters are trained, from a random body (train-from-scratch, paper 4.2.1)."""

from __future__ import annotations

from orca_cli.models.transfer import TransferModel


class Scratch:
    """Train embedder, body and predictor; the body's weights are drawn by its architecture's own initialisation.

    conf/finetune/scratch.yaml also draws the embedder's weights at random and leaves stage 2 out.
    """

    pretrained = False

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)
