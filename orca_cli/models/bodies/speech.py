"""Encoders of speech as bodies: wav2vec 2.0 (Baevski et al. 2020) and HuBERT (Hsu et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import EmbedderInit, Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import SequenceBody, norm_of, preparation

CLASSES = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}
_AT_ONCE = 2**16  # values of sounds, 4 s: the first convolution makes 100 numbers of each
# SpecAugment replaces tokens in training; checkpoints that were fine-tuned lack the token that it puts there.
_NO_MASKING = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_tokens: Annotated[Count, "longest sequence; longer inputs get coarser tokens"] = 512,
) -> SpeechBody:
    """Load a speech encoder from a hub id or a local folder; raises what `checkpoints.load_model` does."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa", **_NO_MASKING)
    return SpeechBody(model, folder, max_tokens)


class SpeechBody(SequenceBody):
    """The encoder layers of a wav2vec 2.0 or HuBERT model, and the convolution over tokens that tells them their positions.

    The embedding layer, kept aside, is the convolutions over the waveform and the projection of what they find: a token of
    400 values (25 ms) every 320. Positions are relative and have no bound.
    """

    encoder: nn.Module
    modality = "audio"
    layer_list = "encoder.layers"

    def __init__(self, model: Any, folder: Path, max_tokens: int) -> None:
        if getattr(model.config, "conv_pos_batch_norm", False):
            what = f"'{folder}' is a HuBERT whose positions depend on the other samples of a batch"
            raise ConfigError(what, where=checkpoints.KEY, hint="for example facebook/hubert-base-ls960")
        model.config.layerdrop = 0.0  # whole layers that are left out at random in training
        input_layer = nn.ModuleDict({"convolutions": model.feature_extractor, "projection": model.feature_projection})
        super().__init__(model, folder, input_layer, max_tokens=max_tokens, width=model.config.hidden_size)

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the encoder's outputs; padding is 0 for the convolution, as what lies beyond the ends is."""
        # The encoder would write zeros into what it is given.
        return self.encoder(x.masked_fill(~mask.unsqueeze(-1), 0.0), attention_mask=mask).last_hidden_state

    @torch.no_grad()
    def embed_source(self, inputs: Any) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for sounds [B, L] in -1..1, 16,000 values a second."""
        from transformers import Wav2Vec2FeatureExtractor

        # Each sound gets mean 0 and deviation 1 where the checkpoint does not say otherwise.
        prepare = Wav2Vec2FeatureExtractor(do_normalize=bool(preparation(self.folder).get("do_normalize", True)))
        sounds = list(np.asarray(inputs, dtype=np.float32))
        prepared = prepare(sounds, sampling_rate=prepare.sampling_rate, return_tensors="pt")
        waves = prepared["input_values"].to(self.device)
        self.embeddings.to(self.device).eval()
        pieces = []
        for part in waves.split(max(1, _AT_ONCE // waves.shape[1])):
            hidden = self.embeddings["convolutions"](part).transpose(1, 2)
            projected = self.embeddings["projection"](hidden)
            pieces.append(projected[0] if isinstance(projected, tuple) else projected)  # wav2vec 2.0 returns both
        x = torch.cat(pieces)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=self.device), (x.shape[1],))

    @torch.no_grad()
    def embedder_init(self) -> EmbedderInit:
        """Return a norm that gives tokens about the mean and deviation of the projection's outputs."""
        # What is projected went through a norm: up to its gain and shift, an input has mean 0 and deviation 1, and their
        # sum is 0. So the outputs have these statistics if no input goes with another.
        layer = self.embeddings["projection"]
        weight, bias = layer.projection.weight, layer.projection.bias
        normalised = getattr(layer, "layer_norm", None)
        gain = weight if normalised is None else weight * normalised.weight
        mean = bias if normalised is None else weight @ normalised.bias + bias
        return EmbedderInit(norm=norm_of(mean, gain.std(1) * gain.shape[1] ** 0.5))
