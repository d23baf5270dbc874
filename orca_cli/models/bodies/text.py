"""Text encoders of the BERT and RoBERTa families as bodies."""

import copy
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor, nn

from orca_cli.interfaces import EmbedderInit
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import TextBody

CLASSES = {"bert": "BertModel", "roberta": "RobertaModel"}

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(3), "maximum number of tokens of a source text"] = 32,
) -> TextBody:
    """Load a text encoder from a hub id or a local folder; raises as `checkpoints.load_model`."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    return BertBody(model, folder, max_source_tokens)


class BertBody(TextBody):
    """The encoder layers of a BERT or RoBERTa model."""

    encoder: nn.Module
    can_be_causal = True
    layer_list = "encoder.layer"

    def __init__(self, model: Any, folder: Path, max_source_tokens: int) -> None:
        config = model.config
        # RoBERTa counts positions from padding_idx + 1; BERT from 0.
        self._first_position = 0
        if config.model_type == "roberta":
            self._first_position = config.pad_token_id + 1
        # The positions before the first one belong to padding.
        usable_positions = config.max_position_embeddings - self._first_position
        super().__init__(model, folder, max_source_tokens, usable_positions)

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the encoder's outputs."""
        attention = self.attention_mask(x, mask, causal=causal)
        return self.encoder(x, attention_mask=attention).last_hidden_state

    def embedder_init(self) -> EmbedderInit:
        """Return norm and positions of the embedding layer."""
        positions = self.embeddings.position_embeddings.weight[self._first_position :]
        return EmbedderInit(
            norm=copy.deepcopy(self.embeddings.LayerNorm), positions=positions.detach().clone()
        )
