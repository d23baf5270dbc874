"""The embedders (interfaces): patches side by side, overlapping ones, and overlapping ones with filters of several scales."""

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
class Patch:
    """A token for every patch, convolved with kernel = stride (paper 3.1, f).

    Args:
        init: whether norm, positions and patch filter start from the body's or at random.
        resolution: at which a body of images takes an input: "input", with few patches for a small one, or "body", with as many
            as in pretraining.
        max_tokens: upper bound on the tokens of a sample; by default what the resolution says, or the body's own maximum.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"
    can_be_causal: ClassVar[bool] = True

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix)


@dataclass(frozen=True)
class Overlap:
    """As many tokens, each of which also sees its neighbours' patches: a kernel of three strides, centred on its own.

    Beyond the input's ends a token sees zeros, and so it does where the input is padding. The body's patch filter, if any,
    starts in the centre of the kernel with zeros around it: the first answers are those of `Patch`.

    Args:
        init, resolution, max_tokens: as in `Patch`.
    """

    init: Literal["pretrained", "random"] = "pretrained"
    max_tokens: Count | None = None
    resolution: Resolution = "body"

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix, reach=1)


@dataclass(frozen=True)
class Multiscale:
    """`Overlap` and, added to it, what dilated filters answer in the patch and in the whole sample.

    What tells classes apart is often which shapes occur, at what scale and how often. Every filter is compared with the
    shape of the input around some positions of the patch, as a correlation, which is free of level and size. Features are
    the share of positions where that exceeds the filter's threshold (as in ROCKET and its successors, Dempster et al.
    2020), its maximum, and the size of what was seen; those of the patch and those of the sample (their means, and the
    values of a short sequence or the means of few patches), standardised, are added to every token.

    Args:
        init: as in `Patch`, of norm, positions and patch filter; the bank is random.
        resolution, max_tokens: as in `Patch`.
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

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer."""
        # A patch layer of the body's own gives tokens that it knows: nothing is added to them.
        is_own = self.skip and self.init == "pretrained" and body.patch_weight is not None
        # What goes past the body needs no feature for each of the body's patches, of which a Swin has thousands.
        cut, size = (coarse(layout), None) if is_own else (layout, width)
        sizes = {"filters": self.filters, "token_filters": self.token_filters, "scales": self.scales}
        bank = FilterBank(cut, size, **sizes, values=self.values)
        return ConvolutionEmbedder(
            layout, width, body, init=self.init, prefix=prefix, reach=1, beside=bank, skip=is_own
        )
