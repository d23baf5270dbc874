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
    """Load a Swin transformer from a hub id or a local folder; raises what `checkpoints.load_model` does."""
    return SwinBody(*checkpoints.load_model(CLASSES, checkpoint))


class SwinBody(ImageBody):
    """Encoder and last norm of a Swin model.

    Its windows take no padding mask, so padded tokens enter as zeros and are left out of pooling. What stands in padding has
    no effect then; that there is padding has, since the other tokens of a window attend to these zeros.
    """

    encoder: nn.Module
    norm: nn.Module
    takes_prefix = False  # a token outside the map belongs to no window

    def __init__(self, model: Any, folder: Path) -> None:
        tokens = math.prod(model.embeddings.patch_grid)
        super().__init__(model, folder, max_tokens=tokens, width=model.config.embed_dim)
        self.feature_width = model.num_features
        self.downsampling = 2 ** (len(model.config.depths) - 1)
        self.least_grid = (
            self.config.window_size * self.downsampling
        )  # of which every layer's windows are whole

    @staticmethod
    def trained(model: Any) -> dict[str, nn.Module]:
        """Return encoder and last norm."""
        return {"encoder": model.encoder, "norm": model.layernorm}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, T', F] on a grid that is coarser by `downsampling`."""
        x = tokens.x * tokens.mask.unsqueeze(-1)
        rows, columns = tokens.grid
        mask = tokens.mask.reshape(-1, 1, rows, columns).to(x.dtype)
        for _ in range(
            len(self.config.depths) - 1
        ):  # each merge takes 2 x 2, padding odd sides at the end
            mask = functional.max_pool2d(mask, 2, ceil_mode=True)
        grid = (mask.shape[2], mask.shape[3])
        # A grid below the window's size is padded to it; transformers would shrink the window instead, and then its
        # position biases no longer fit. Grids of the pretrained size are never touched.
        small = min(grid) < self.config.window_size
        features = self.encoder(x, tokens.grid, always_partition=small).last_hidden_state
        return Tokens(self.norm(features), mask.flatten(1) > 0, grid)
