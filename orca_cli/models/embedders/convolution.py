"""The embedder: convolution with kernel = stride, layer norm, positions (paper 3.1, f)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.interfaces import EmbedderInit, Tokens
from orca_cli.models.canvas import to_canvas
from orca_cli.models.geometry import TokenLayout

_POSITION_SD = 0.02  # what BERT draws its own positions with


class ConvolutionEmbedder(nn.Module):
    """Maps inputs of any shape to tokens in the body's space.

    All random weights come from torch's global generator, which the caller seeds.
    """

    def __init__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, *, init: str, class_token: Tensor | None = None
    ) -> None:
        """Make the layers and their first weights.

        Args:
            layout: how inputs become tokens.
            width: D.
            body: the weights of the body's own input layer.
            init: "pretrained": norm, positions and, where there is one, the patch filter start from the body's;
                "random": convolution as below, norm 1 and 0, positions N(0, 0.02).
            class_token: [D], the body's embedded classification token where one is to stand before the others, else None.
                The transfer model puts it there; the positions of the other tokens then start at 1.
        """
        super().__init__()
        self.layout = layout
        channels, axes = layout.input_shape[0], len(layout.extent)
        convolution: Any = nn.Conv1d if axes == 1 else nn.Conv2d
        self.convolution = convolution(channels, width, layout.kernel, stride=layout.kernel)
        nn.init.xavier_uniform_(self.convolution.weight, gain=math.sqrt(2))
        nn.init.zeros_(self.convolution.bias)
        self.norm = nn.LayerNorm(width, eps=body.norm_eps)
        self.positions: nn.Parameter | None = None
        if body.positions is not None:
            self.positions = nn.Parameter(torch.randn(layout.tokens, width) * _POSITION_SD)
        self.class_token = None if class_token is None else nn.Parameter(class_token.clone())
        if init == "pretrained":
            self._start_from(body, first_position=int(class_token is not None))

    @torch.no_grad()
    def _start_from(self, body: EmbedderInit, first_position: int) -> None:
        self.norm.weight.copy_(body.norm_weight)
        self.norm.bias.copy_(body.norm_bias)
        if self.positions is not None and body.positions is not None:
            self.positions.copy_(body.positions[first_position : first_position + self.layout.tokens])
        if body.patch_weight is not None and self.convolution.weight.dim() == 4:
            channels, kernel = self.layout.input_shape[0], self.layout.kernel
            self.convolution.weight.copy_(spread_filter(body.patch_weight, channels, kernel))
            if body.patch_bias is not None:
                self.convolution.bias.copy_(body.patch_bias)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return tokens [B, T, D].

        Args:
            x: [B, C, *E].
            valid: [B, *E] bool, False where the input is padding. A token is valid where any position under it is.
        """
        seen = to_canvas(x, self.layout)
        maps = self.convolution(_pad_end(seen, self.layout.padded))  # [B, D, *grid]
        tokens = self.norm(maps.flatten(2).transpose(1, 2))  # [B, T, D]
        if self.positions is not None:
            tokens = tokens + self.positions
        return Tokens(tokens, self._mask(x, valid), self.layout.grid)

    def _mask(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return torch.ones(len(x), self.layout.tokens, dtype=torch.bool, device=x.device)
        seen = to_canvas(valid.unsqueeze(1).to(x.dtype), self.layout)
        pool = functional.max_pool1d if len(self.layout.extent) == 1 else functional.max_pool2d
        mask = pool(_pad_end(seen, self.layout.padded), self.layout.kernel).flatten(1) > 0  # [B, T]
        # A sample without any valid position would give a softmax over nothing; it keeps its first token.
        empty = ~mask.any(1)
        mask[:, 0] |= empty
        return mask


def spread_filter(patch: Tensor, channels: int, kernel: int) -> Tensor:
    """Return a filter [D, channels, kernel, kernel] that answers like the pretrained one [D, 3, p, p].

    The three channels are repeated, and scaled by 3 / channels so that the size of the answer does not grow with the number of
    channels. Where k differs from p the filter is resized and scaled by (p / k)^2, which keeps the answer to a constant input.
    """
    repeated = patch.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    size = patch.shape[-1]
    if kernel == size:
        return repeated
    resized = functional.interpolate(
        repeated, size=(kernel, kernel), mode="bilinear", align_corners=False, antialias=True
    )
    return resized * (size / kernel) ** 2


def _pad_end(x: Tensor, size: tuple[int, ...]) -> Tensor:
    missing = [wanted - present for wanted, present in zip(size, x.shape[2:], strict=True)]
    pads = [width for amount in reversed(missing) for width in (0, amount)]
    return functional.pad(x, pads) if any(missing) else x
