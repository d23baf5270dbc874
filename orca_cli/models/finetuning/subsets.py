"""Modes that train some of the model's own parameters and add none."""

from __future__ import annotations

from orca_cli.exceptions import ConfigError
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class Full:
    """Train embedder, body and predictor (the paper's full setting)."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)


class Scratch(Full):
    """Train all of them from a body whose weights are drawn by its architecture's own initialisation (paper 4.2.1).

    conf/finetune/scratch.yaml also draws the embedder's weights at random and leaves stage 2 out.
    """

    pretrained = False


class LayerNorm:
    """Train the norms that the body names, with embedder and predictor (FPT, paper 4.2.2)."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        train_parts(model, model.body.norms())


class BitFit:
    """Train the biases of the body's linear layers and norms, with embedder and predictor (Ben Zaken et al. 2022)."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's biases trainable, and nothing else.

        Raises:
            ConfigError: the body has no biases.
        """
        biases = [value for name, value in model.body.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            hint = "use finetune=lora or finetune=layernorm"
            raise ConfigError("this body has no biases to train", where="finetune", hint=hint)
        train_parts(model, biases)


class Frozen:
    """Train embedder and predictor around a body that stays as it was pretrained, norms included (an ablation's control)."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable but the body's."""
        train_parts(model)


class Head:
    """Train the predictor (linear probing); embedder and body stay as stages 1 and 2 left them."""

    pretrained = True

    def apply(self, model: TransferModel) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)
