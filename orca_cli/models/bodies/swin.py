"""Swin transformers as bodies; they take maps of embedded patches."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from orca_cli.interfaces import EmbedderInit, Tokens
from orca_cli.models.bodies import checkpoints

FAMILIES = ("swin",)
# The statistics that ImageNet models are trained with, for checkpoints that do not bring their own.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(checkpoint: str) -> SwinBody:
    """Load a Swin transformer.

    Args:
        checkpoint: hub id or local folder of a Swin model.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as `checkpoints.load_model` says.
    """
    from transformers import SwinModel

    check_settings(checkpoint)
    model, folder = checkpoints.load_model(SwinModel, checkpoint, FAMILIES)
    return SwinBody(model, folder)


def check_settings(checkpoint: str) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: no name of a checkpoint.
    """
    checkpoints.check_name(checkpoint)


class SwinBody(nn.Module):
    """Encoder and last norm of a Swin model; a Body (interfaces).

    The patch embedding is kept aside: it embeds the source and is neither trained nor stored with checkpoints.
    Windows know no padding mask. So padded tokens enter as zeros, and are left out of pooling.
    """

    modality = "image"

    def __init__(self, model: Any, folder: Path) -> None:
        """Take a transformers model apart.

        Args:
            model: SwinModel without pooler.
            folder: where it was read from.
        """
        super().__init__()
        self.encoder, self.norm = model.encoder, model.layernorm
        self._aside = (model.embeddings.eval().requires_grad_(False),)  # a tuple: not a part of this module
        self.config = model.config
        self.folder = folder
        self.canvas = (model.config.image_size, model.config.image_size)
        self.width = model.config.embed_dim
        self.feature_width = model.num_features
        self.max_tokens = int(np.prod(model.embeddings.patch_grid))
        self.downsampling = 2 ** (len(model.config.depths) - 1)
        self.checkpoint_digest = checkpoints.digest(folder)
        self._mean, self._std = _statistics(folder)

    @property
    def embeddings(self) -> Any:
        """Return the model's own embedding layer: patches, norm, positions where it has them."""
        return self._aside[0]

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, T', F] on a grid that is coarser by `downsampling`."""
        x = tokens.x * tokens.mask.unsqueeze(-1)
        rows, columns = tokens.grid
        mask = tokens.mask.reshape(-1, 1, rows, columns).to(x.dtype)
        for _ in range(len(self.config.depths) - 1):  # each merge takes 2 x 2, padding odd sides at the end
            mask = functional.max_pool2d(mask, 2, ceil_mode=True)
        grid = (mask.shape[2], mask.shape[3])
        # A grid below the window's size is padded to it; transformers would shrink the window instead, and then its
        # position biases no longer fit. Grids of the pretrained size are never touched.
        small = min(grid) < self.config.window_size
        features = self.encoder(x, tokens.grid, always_partition=small).last_hidden_state
        return Tokens(self.norm(features), mask.flatten(1) > 0, grid)

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | Any) -> Tokens:
        """Return the patch embedding's outputs [B, T, D] for images [B, 3, H, W] in 0..1, resized to the canvas."""
        device = next(self.encoder.parameters()).device
        images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32, device=device)
        if tuple(images.shape[-2:]) != self.canvas:
            images = functional.interpolate(
                images, size=self.canvas, mode="bilinear", align_corners=False, antialias=True
            )
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self._mean, self._std))
        x, grid = self.embeddings.to(device).eval()((images - mean) / std)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=device), tuple(grid))

    def embedder_init(self) -> EmbedderInit:
        """Return patch filter, norm and, where the model has them, positions."""
        embeddings = self.embeddings
        patch = embeddings.patch_embeddings.projection
        positions = embeddings.position_embeddings
        return EmbedderInit(
            embeddings.norm.weight.detach().clone(),
            embeddings.norm.bias.detach().clone(),
            embeddings.norm.eps,
            None if positions is None else positions.detach()[0].clone(),
            patch.weight.detach().clone(),
            patch.bias.detach().clone(),
        )

    def class_token(self) -> None:
        """Swin has no classification token."""
        return

    def norms(self) -> list[nn.Module]:
        """Return all norms of the body."""
        return [module for module in self.modules() if isinstance(module, nn.LayerNorm)]

    def reset_weights(self) -> None:
        """Draw encoder and norm anew, by the architecture's own initialisation; the patch embedding stays."""
        from transformers import SwinModel

        fresh = SwinModel(copy.deepcopy(self.config), add_pooling_layer=False)
        self.encoder.load_state_dict(fresh.encoder.state_dict())
        self.norm.load_state_dict(fresh.layernorm.state_dict())


def _statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation that a checkpoint's images were normalised with; ImageNet's where it does not say."""
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return _IMAGENET
