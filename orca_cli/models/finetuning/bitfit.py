"""Only the body's biases, the embedder and the predictor are trained (BitFit, Ben Zaken et al. 2022)."""

from __future__ import annotations

from orca_cli.exceptions import ConfigError
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class BitFit:
    """Train the biases of the body's linear layers and norms, with embedder and predictor."""

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
