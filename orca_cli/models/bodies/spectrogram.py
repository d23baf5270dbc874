"""The Audio Spectrogram Transformer (Gong, Chung and Glass 2021) as a body: a vision transformer over log-mel spectrograms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli.interfaces import EmbedderInit, Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import preparation
from orca_cli.models.bodies.vit import ViTBody

CLASSES = {"audio-spectrogram-transformer": "ASTModel"}
_WINDOW, _HOP = 400, 160  # values that a frame of a spectrogram stands for, and from one frame to the next

check_settings = checkpoints.check_name  # before anything is read


def load(checkpoint: str) -> SpectrogramBody:
    """Load an AST from a hub id or a local folder; raises what `checkpoints.load_model` does."""
    return SpectrogramBody(*checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa"))


class SpectrogramBody(ViTBody):
    """Layers and last norm; a map's rows are frequencies, its columns frames of 10 ms. Patches overlap in pretraining."""

    modality = "audio"

    def __init__(self, model: Any, folder: Path) -> None:
        model.embeddings.patch_embeddings.num_patches = math.prod(model.embeddings.get_shape(model.config))
        super().__init__(model, folder)

    @staticmethod
    def resolution(config: Any) -> tuple[int, int]:
        """Return mel bins and frames of the longest sound."""
        return config.num_mel_bins, config.max_length

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Return (rows, columns) of the model's own patches."""
        return tuple(self.embeddings.get_shape(self.config))

    def embedder_init(self) -> EmbedderInit:
        """Return filter, norm and positions; the statistics of pixels say nothing of spectrograms."""
        return replace(super().embedder_init(), pixel_mean=None, pixel_std=None)

    def canvas_for(self, input_shape: tuple[int, ...], max_tokens: int | None) -> tuple[tuple[int, int], int | None]:
        """Return the body's own canvas: its patches overlap, and a row of them is a band of frequencies."""
        return self.canvas, max_tokens

    def embed_patches(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patches at their positions, and their grid, for normalised spectrograms [B, frames, mels]."""
        (rows, longest), columns = self.patch_grid, self._columns(pixels.shape[1] - self.config.patch_size + 1)
        positions = self.embeddings.position_embeddings[:, -rows * longest :].unflatten(1, (rows, longest))
        patches: Tensor = self.embeddings.patch_embeddings(pixels)
        return patches + positions[:, :, :columns].flatten(1, 2), (rows, columns)

    @torch.no_grad()
    def embed_source(self, inputs: Any) -> Tokens:
        """Return the patches' embeddings [B, T, D] for sounds [B, L] in -1..1, 16,000 values a second.

        The model fills short sounds up to its longest. Patches that see nothing but that are left out: they are no data.
        """
        from transformers import ASTFeatureExtractor

        sounds = np.asarray(inputs, dtype=np.float32)
        columns = self._columns(1 + (sounds.shape[1] - _WINDOW) // _HOP)
        frames = self.config.patch_size + (columns - 1) * self.config.time_stride
        sizes = {"num_mel_bins": self.config.num_mel_bins, "max_length": frames}
        # As those of AudioSet where the checkpoint does not say how they were normalised.
        settings = preparation(self.folder)
        known = {
            key: settings[key] for key in ("mean", "std", "do_normalize") if isinstance(settings.get(key), int | float)
        }
        extract = ASTFeatureExtractor(**sizes, **known)
        values = extract(list(sounds), sampling_rate=extract.sampling_rate, return_tensors="np")["input_values"]
        self.embeddings.to(self.device).eval()
        x, grid = self.embed_patches(torch.from_numpy(values).to(self.device))
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=self.device), grid)

    def _columns(self, frames: int) -> int:
        """Return how many patches begin within the first frames."""
        return min(self.patch_grid[1], -(-frames // int(self.config.time_stride)))
