"""Vision transformers (ViT) as bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Tokens
from orca_cli.models.bodies import checkpoints
from orca_cli.models.bodies.base import ImageBody

check_settings = checkpoints.check_name  # before anything is read


def load(checkpoint: str) -> ViTBody:
    """Load a vision transformer from a hub id or a local folder; raises what `checkpoints.load_model` does."""
    model, folder = checkpoints.load_model({"vit": "ViTModel"}, checkpoint, attn_implementation="sdpa")
    if not hasattr(model, "layers"):
        hint = "pip install -U transformers"
        raise ConfigError("the installed transformers is too old for ViT", where="body", hint=hint)
    return ViTBody(model, folder)


class ViTBody(ImageBody):
    """Layers and last norm of a ViT model; its classification token always stands before the patches."""

    layers: nn.ModuleList
    norm: nn.Module
    needs_prefix = True
    stack = "layers"
    linears = {
        "query": r"\.q_proj",
        "key": r"\.k_proj",
        "value": r"\.v_proj",
        "output": r"\.o_proj",
        "feed_forward": r"\.fc[12]",
    }

    def __init__(self, model: Any, folder: Path) -> None:
        tokens = model.embeddings.position_embeddings.shape[1]
        super().__init__(model, folder, max_tokens=tokens, width=model.config.hidden_size)

    @staticmethod
    def trained(model: Any) -> dict[str, nn.Module]:
        """Return layers and last norm."""
        return {"layers": model.layers, "norm": model.layernorm}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features; nothing attends to padding."""
        x = tokens.x
        mask = self.attention_mask(x, tokens.mask)
        for layer in self.layers:
            x = layer(x, mask)
        return Tokens(self.norm(x), tokens.mask, tokens.grid, prefix=tokens.prefix)

    @torch.no_grad()
    def prefix_tokens(self) -> Tensor:
        """Return the classification token [1, D] at its position."""
        return (self.embeddings.cls_token + self.embeddings.position_embeddings[:, :1])[0]

    def embed_patches(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patches at their positions, and their grid."""
        return self.embeddings(pixels)[:, 1:], self.patch_grid
