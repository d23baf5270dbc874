"""Patches that also see two neighbours on either side."""

from dataclasses import dataclass

from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.interfaces import Embedder, EmbedderInit, Resolution, TokenLayout
from orca_cli.models.embedders.patches import ConvolutionEmbedder


@dataclass(frozen=True)
class Wide(Embedder):
    """Kernel of `2 * reach + 1` strides."""

    init: str = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"
    reach: Count = 2

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(
            layout, width, body, init=self.init, prefix=prefix, reach=self.reach
        )
