"""Overlapping patches and, added to them, what filters of several scales answer in the patch and in the whole sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.interfaces import EmbedderInit, Resolution, TokenLayout
from orca_cli.models.embedders.convolution import ConvolutionEmbedder
from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.geometry import coarse


@dataclass(frozen=True)
class Multiscale:
    """Kernel of three strides, as in `overlap.Overlap`, with a bank of dilated filters added to it; an Embedder (interfaces).

    What tells classes apart is often which shapes occur, at what scale and how often. Every filter is compared with the
    shape of the input around some positions of the patch, as a correlation, which is free of level and size. Features are
    the share of positions where that exceeds the filter's threshold (as in ROCKET and its successors, Dempster et al.
    2020), its maximum, and the size of what was seen; those of the patch and those of the sample (their means, and the
    values of a short sequence or the means of few patches), standardised, are added to every token.

    Args:
        init: as in `patch.Patch`, of norm, positions and patch filter; the bank is random.
        resolution, max_tokens: as in `patch.Patch`.
        pooled_tokens: ... and where a sample has one answer, this: so few suffice, and a step's cost grows with their number.
        filters: per scale, all of which give features of the whole sample.
        token_filters: how many of them also give features of a token.
        scales: the taps of a filter are 1, 2, 4, ... positions apart; as many of these as the input has room for.
        values: whether the values of a sequence, where they are few, are features of the sample instead of the means of its
            patches: for sequences whose places mean the same in every sample, such as splice sites.
        skip: whether, where the embedder begins as the body's own patch layer, no features are added to its tokens, and those
            of whole samples go past the body to the predictor.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"
    pooled_tokens: Count = 25
    filters: Count = 128
    token_filters: Count = 32
    scales: Count = 6
    values: bool = False
    skip: bool = False
    can_be_causal: ClassVar[bool] = False

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        # A patch layer of the body's own gives tokens that it knows: nothing is added to them.
        is_own = self.skip and self.init == "pretrained" and body.patch_weight is not None
        # What goes past the body needs no feature for each of the body's patches, of which a Swin has thousands.
        bank = FilterBank(
            coarse(layout) if is_own else layout,
            None if is_own else width,
            filters=self.filters,
            token_filters=self.token_filters,
            scales=self.scales,
            values=self.values,
        )
        return ConvolutionEmbedder(
            layout, width, body, init=self.init, prefix=prefix, reach=1, beside=bank, skip=is_own
        )
