"""Text encoders without learned absolute positions as bodies.

They are ModernBERT, DeBERTa-v3, T5's encoder and ESM-2 (proteins).
"""

import copy
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import EmbedderInit
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import TextBody

CLASSES = {
    "modernbert": "ModernBertModel",
    "deberta-v2": "DebertaV2Model",
    "t5": "T5EncoderModel",
    "esm": "EsmModel",
}

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(3), "maximum number of tokens of a source text"] = 32,
    max_tokens: Annotated[
        Count,
        "maximum number of tokens of a sample, at most the model's own limit; "
        "if an input has more positions, each token covers several positions",
    ] = 512,
) -> TextBody:
    """Load a text encoder from a hub id or a local folder; raises as `checkpoints.load_model`."""
    family = checkpoints.family(checkpoint, tuple(CLASSES))
    classes: dict[str, type[EncoderBody]] = {
        "modernbert": ModernBertBody,
        "deberta-v2": DebertaBody,
        "t5": T5Body,
        "esm": EsmBody,
    }
    body_class = classes[family]
    attention = {"attn_implementation": "sdpa"}
    # transformers implements DeBERTa's attention in one way only.
    if body_class is DebertaBody:
        attention = {}
    model, folder = checkpoints.load_model(CLASSES, checkpoint, **attention)
    if body_class is EsmBody:
        _check_esm2(model.config, folder)
    return body_class(model, folder, max_source_tokens, max_tokens)


def _check_esm2(config: Any, folder: Any) -> None:
    """Raise ConfigError for ESM-1, whose embedding layer has absolute positions and a norm."""
    if config.position_embedding_type != "rotary" or config.emb_layer_norm_before:
        raise ConfigError(
            f"'{folder}' is an ESM-1 model, but this body needs an ESM-2 model",
            where=checkpoints.KEY,
            hint="use for example body.checkpoint=facebook/esm2_t12_35M_UR50D",
        )


class EncoderBody(TextBody):
    """A body that computes its own, mostly relative, positions; the embedder adds no positions.

    Attributes:
        reader: name of the submodule that reads the tokens.
    """

    reader = "model"
    can_be_causal = True

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the last norm's outputs."""
        encoder = self.get_submodule(self.reader)
        attention = self.attention_mask(x, mask, causal=causal)
        return encoder(inputs_embeds=x, attention_mask=attention).last_hidden_state


class ModernBertBody(EncoderBody):
    """A ModernBERT model without its word embeddings and their norm, which the embedder gets."""

    model: nn.Module

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the model with an embedding layer that returns its inputs."""
        model.embeddings = _PassThrough()
        return {"model": model}

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the last norm's outputs; some layers attend within a sliding window only."""
        from transformers.masking_utils import (
            causal_mask_function,
            create_bidirectional_sliding_window_mask,
        )

        and_mask = causal_mask_function if causal else None
        integer_mask = mask.to(torch.int64)
        window_mask = create_bidirectional_sliding_window_mask(
            self.config, x, integer_mask, and_mask_function=and_mask
        )
        # Each layer takes the mask of its kind.
        masks_by_kind = {
            "full_attention": self.attention_mask(x, mask, causal=causal),
            "sliding_attention": window_mask,
        }
        return self.model(inputs_embeds=x, attention_mask=masks_by_kind).last_hidden_state

    def embedder_init(self) -> EmbedderInit:
        """Return the norm of the word embeddings."""
        return EmbedderInit(norm=copy.deepcopy(self.embeddings.norm))


class DebertaBody(EncoderBody):
    """The encoder of a DeBERTa-v3 (or v2) model, whose attention weighs relative positions."""

    encoder: nn.Module
    # The convolution of its larger models sees the next token.
    can_be_causal = False

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the encoder's outputs."""
        # DeBERTa makes its own square mask from the mask of tokens.
        outputs = self.encoder(x, mask.to(torch.int64), output_hidden_states=False)
        return outputs.last_hidden_state

    def embedder_init(self) -> EmbedderInit:
        """Return the norm of the word embeddings and, if the model has them, absolute positions."""
        position_layer = self.embeddings.position_embeddings
        positions = None
        # In some models the embeddings of words and positions are narrower than the layers.
        if position_layer is not None and position_layer.weight.shape[1] == self.width:
            positions = position_layer.weight.detach().clone()
        return EmbedderInit(norm=copy.deepcopy(self.embeddings.LayerNorm), positions=positions)


class T5Body(EncoderBody):
    """The encoder stack of a T5 model."""

    reader = "stack"

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the stack without word embeddings."""
        # The word embeddings embed the source; `Body` keeps them separately.
        model.encoder.embed_tokens = None
        return {"stack": model.encoder}


class EsmBody(EncoderBody):
    """An ESM-2 model without its word embeddings and its prediction of contacts."""

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the model without word embeddings and contact head."""
        model.embeddings = None
        model.contact_head = None
        return {"model": model}


class _PassThrough(nn.Module):
    """An embedding layer whose outputs are its inputs."""

    # transformers' signature, with which the model calls its embedding layer.
    def forward(self, input_ids: None = None, inputs_embeds: Tensor | None = None) -> Tensor | None:
        """Return the embedded inputs."""
        return inputs_embeds
