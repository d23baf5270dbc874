"""Swin transformers as bodies."""

import math
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional

from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import ImageBody

CLASSES = {"swin": "SwinModel"}

check_settings = checkpoints.check_name  # before anything is read


def load(checkpoint: str) -> ImageBody:
    """Load a Swin transformer from a hub id or a folder; raises as `checkpoints.load_model`."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint)
    return SwinBody(model, folder)


class SwinBody(ImageBody):
    """Encoder and last norm of a Swin model.

    Its windows accept no padding mask, so padded tokens enter as zeros and are left out of pooling.
    The content of padding therefore has no effect, but its presence does: the other tokens of a
    window attend to these zeros.
    """

    encoder: nn.Module
    norm: nn.Module
    takes_prefix = False  # a token outside the map belongs to no window

    def __init__(self, model: Any, folder: Path) -> None:
        config = model.config
        token_count = math.prod(model.embeddings.patch_grid)
        # Width at the input; each merge doubles it.
        super().__init__(model, folder, max_tokens=token_count, width=config.embed_dim)
        self.feature_width = model.num_features
        # Between its stages, a Swin merges 2 x 2 tokens into one.
        self._merges = len(config.depths) - 1
        self.downsampling = 2**self._merges
        # With at least this size, the windows of every layer are complete.
        self.least_grid = config.window_size * self.downsampling

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return encoder and last norm."""
        return {"encoder": model.encoder, "norm": model.layernorm}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, T', F] on a grid that is coarser by `downsampling`."""
        # Padding enters as 0, because the windows accept no mask for it.
        inputs = tokens.x * tokens.mask.unsqueeze(-1)
        mask_maps = tokens.mask.reshape(-1, 1, *tokens.grid)  # [B, 1, rows, columns]
        # Max pooling: a merged token is valid if any of its four tokens is valid.
        pooled = mask_maps.to(inputs.dtype)
        # Each merge joins 2 x 2 tokens, and pads odd sides at the end.
        for _ in range(self._merges):
            pooled = functional.max_pool2d(pooled, 2, ceil_mode=True)
        feature_grid = (pooled.shape[2], pooled.shape[3])
        # A grid below the window's size is padded to it; transformers would shrink the window
        # instead, and then its position biases no longer fit. Grids of the pretrained size are
        # never touched.
        is_small = min(feature_grid) < self.config.window_size
        outputs = self.encoder(inputs, tokens.grid, always_partition=is_small).last_hidden_state
        return Tokens(self.norm(outputs), pooled.flatten(1) > 0, feature_grid)
