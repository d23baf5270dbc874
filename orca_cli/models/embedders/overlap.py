"""Overlapping patches: as many tokens as `patch`, each of which also sees its neighbours' patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.interfaces import EmbedderInit, Resolution, TokenLayout
from orca_cli.models.embedders.convolution import ConvolutionEmbedder


@dataclass(frozen=True)
class Overlap:
    """Kernel of three strides, centred on the patch that a token stands for; an Embedder (interfaces).

    Beyond the input's ends a token sees zeros, and so it does where the input is padding. The body's patch filter, if any,
    starts in the centre of the kernel with zeros around it: the first answers are those of `patch`.

    Args:
        init, resolution, max_tokens: as in `patch.Patch`.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"
    pooled_tokens: ClassVar[None] = None
    can_be_causal: ClassVar[bool] = False

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix, reach=1)
