"""The paper's embedder: a token for every patch, convolved with kernel = stride (paper 3.1, f)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.interfaces import EmbedderInit, Resolution, TokenLayout
from orca_cli.models.embedders.convolution import ConvolutionEmbedder


@dataclass(frozen=True)
class Patch:
    """Patches side by side; an Embedder (interfaces).

    Args:
        init: whether norm, positions and patch filter start from the body's or at random.
        resolution: at which a body of images takes an input: "input", with few patches for a small one, or "body", with as many
            as in pretraining.
        max_tokens: upper bound on the tokens of a sample; by default what the resolution says, or the body's own maximum.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"
    pooled_tokens: ClassVar[None] = None
    can_be_causal: ClassVar[bool] = True

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix)
