"""Text encoders of the BERT and RoBERTa families as bodies; they take embedded sequences instead of words."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import EmbedderInit, Tokens
from orca_cli.models.bodies import checkpoints

FAMILIES = ("bert", "roberta")


def load(checkpoint: str, max_source_tokens: int = 32) -> TextBody:
    """Load a text encoder.

    Args:
        checkpoint: hub id or local folder of a BERT or RoBERTa model.
        max_source_tokens: source texts are cut to so many tokens.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as `checkpoints.load_model` says.
    """
    from transformers import AutoModel

    check_settings(checkpoint, max_source_tokens)
    model, folder = checkpoints.load_model(AutoModel, checkpoint, FAMILIES, attn_implementation="sdpa")
    return TextBody(model, folder, max_source_tokens)


def check_settings(checkpoint: str, max_source_tokens: int) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: no name of a checkpoint, or a number out of range.
    """
    checkpoints.check_name(checkpoint)
    if max_source_tokens < 3:  # a word between the two that mark beginning and end
        raise ConfigError(
            f"{max_source_tokens} is out of range", where="body.max_source_tokens", hint="allowed: 3 or more"
        )


class TextBody(nn.Module):
    """The encoder layers of a text model; a Body (interfaces).

    The word embeddings are kept aside: they embed the source and are neither trained nor stored with checkpoints.
    """

    modality = "text"
    canvas = None
    downsampling = 1

    def __init__(self, model: Any, folder: Path, max_source_tokens: int) -> None:
        """Take a transformers model apart.

        Args:
            model: BertModel or RobertaModel without pooler.
            folder: where it was read from.
            max_source_tokens: source texts are cut to so many tokens.
        """
        super().__init__()
        self.encoder = model.encoder
        self._aside = (model.embeddings.eval().requires_grad_(False),)  # a tuple: not a part of this module
        self.config = model.config
        self.folder = folder
        self.max_source_tokens = max_source_tokens
        # RoBERTa counts positions from padding_idx + 1; BERT from 0.
        self._first_position = model.config.pad_token_id + 1 if model.config.model_type == "roberta" else 0
        self.width = self.feature_width = model.config.hidden_size
        self.max_tokens = model.config.max_position_embeddings - self._first_position
        self.checkpoint_digest = checkpoints.digest(folder)

    @property
    def embeddings(self) -> Any:
        """Return the model's own embedding layer: words, positions, types, norm."""
        return self._aside[0]

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, T, D]; padding takes no part in attention, nor does the future where tokens are causal."""
        from transformers.masking_utils import causal_mask_function, create_bidirectional_mask

        # Nothing sees what lies behind the batch's last real token: it is not computed, and its features are 0.
        places = tokens.mask.any(0).nonzero()
        length = int(places.max()) + 1 if len(places) else tokens.mask.shape[1]
        x = tokens.x[:, :length]
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=tokens.mask[:, :length].to(torch.int64),
            and_mask_function=causal_mask_function if tokens.causal else None,
        )
        features = self.encoder(x, attention_mask=mask).last_hidden_state
        features = nn.functional.pad(features, (0, 0, 0, tokens.mask.shape[1] - length))
        return Tokens(features, tokens.mask, tokens.grid)

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | Any) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for B texts, cut to `max_source_tokens`."""
        device = next(self.encoder.parameters()).device
        encoded = self._tokenizer()(
            list(inputs), padding=True, truncation=True, max_length=self.max_source_tokens, return_tensors="pt"
        ).to(device)
        embeddings = self.embeddings.to(device).eval()
        x = embeddings(input_ids=encoded["input_ids"])
        return Tokens(x, encoded["attention_mask"].bool(), (x.shape[1],))

    def embedder_init(self) -> EmbedderInit:
        """Return norm and positions of the embedding layer."""
        embeddings = self.embeddings
        norm = embeddings.LayerNorm
        positions = embeddings.position_embeddings.weight[self._first_position :]
        return EmbedderInit(
            norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps, positions.detach().clone()
        )

    @torch.no_grad()
    def class_token(self) -> Tensor:
        """Return the embedded [CLS] or <s> [D], at the first position."""
        number = self._tokenizer().cls_token_id
        if number is None:
            raise DataError("the tokenizer has no classification token", where=str(self.folder))
        device = self.embeddings.word_embeddings.weight.device
        return self.embeddings(input_ids=torch.tensor([[number]], device=device))[0, 0].clone()

    def norms(self) -> list[nn.Module]:
        """Return all norms of the body."""
        return [module for module in self.modules() if isinstance(module, nn.LayerNorm)]

    def reset_weights(self) -> None:
        """Draw the encoder anew, by the architecture's own initialisation; the embedding layer stays."""
        fresh = type_of(self.config)(copy.deepcopy(self.config), add_pooling_layer=False)
        self.encoder.load_state_dict(fresh.encoder.state_dict())

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        if not hasattr(self, "_loaded_tokenizer"):
            try:
                self._loaded_tokenizer = AutoTokenizer.from_pretrained(
                    self.folder, trust_remote_code=False, local_files_only=True
                )
            except Exception as error:
                raise DataError(
                    "the checkpoint has no usable tokenizer, which embedding source texts needs",
                    where=f"{checkpoints.KEY}={self.folder}",
                    hint="save the tokenizer into the same folder",
                ) from error
        return self._loaded_tokenizer


def type_of(config: Any) -> Any:
    """Return the transformers class of a configuration."""
    from transformers import BertModel, RobertaModel

    return {"bert": BertModel, "roberta": RobertaModel}[config.model_type]
