"""The embedders (interfaces): patches side by side, overlapping ones, and overlapping ones with filters of several scales.

All make a `ConvolutionEmbedder`: convolution, the body's norm, and positions (paper 3.1, f). They differ in what a token sees.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.config.ranges import Count
from orca_cli.interfaces import EmbedderInit, Resolution, TokenLayout, Tokens
from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.geometry import coarse, resize, resize_positions, to_canvas


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

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
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

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
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
        pooled_tokens: upper bound where `max_tokens` is None, a sample has one answer, and the body takes sequences: so few
            suffice, and a step's cost grows with their number.
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

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer."""
        # A patch layer of the body's own gives tokens that it knows: nothing is added to them.
        is_own = self.skip and self.init == "pretrained" and body.patch_weight is not None
        # What goes past the body needs no feature for each of the body's patches, of which a Swin has thousands.
        cut, size = (coarse(layout), None) if is_own else (layout, width)
        bank = FilterBank(cut, size, self.filters, self.token_filters, self.scales, self.values)
        return ConvolutionEmbedder(
            layout, width, body, init=self.init, prefix=prefix, reach=1, beside=bank
        )


class ConvolutionEmbedder(nn.Module):
    """Maps inputs of any shape to tokens in the body's space, one for every k positions along every axis.

        token = norm(convolution(x) + features of `beside`) + position

    First weights come from torch's global generator and the body. Bodies without a norm or positions leave them out.

    Args:
        layout, width, body, prefix: as in `interfaces.Embedder`.
        init: "pretrained": norm, positions and, where there is one, the patch filter start from the body's; "random":
            convolution as below, norm 1 and 0, positions N(0, 0.02).
        reach: patches that a token sees on either side of its own.
        beside: features that are added to the convolution's answers; without a width they are not, and those of whole samples
            go past the body to the predictor.
    """

    def __init__(
        self,
        layout: TokenLayout,
        width: int,
        body: EmbedderInit,
        *,
        init: str,
        prefix: Tensor | None,
        reach: int = 0,
        beside: FilterBank | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.reach, self.beside = layout, reach, beside
        self.is_body_layer = False
        self.sample_width = 0 if beside is None or beside.adds else beside.sample_width
        self.kernel = (2 * reach + 1) * layout.kernel
        kind, channels = getattr(nn, f"Conv{len(layout.extent)}d"), layout.input_shape[0]
        padding = reach * layout.kernel
        self.convolution = kind(channels, width, self.kernel, stride=layout.kernel, padding=padding)
        nn.init.xavier_uniform_(self.convolution.weight, gain=math.sqrt(2))
        nn.init.zeros_(self.convolution.bias)
        device = self.convolution.weight.device
        self.norm = (
            nn.Identity()
            if body.norm is None
            else copy.deepcopy(body.norm).to(device).requires_grad_(True)
        )
        self.positions: nn.Parameter | None = None
        if body.positions is not None:
            self.positions = nn.Parameter(
                torch.randn(layout.tokens, width) * 0.02
            )  # BERT's own deviation
        # A single prefix token is kept as [D].
        self.class_token = (
            None
            if prefix is None
            else nn.Parameter((prefix if len(prefix) > 1 else prefix[0]).clone())
        )
        self._patch: EmbedderInit | None = None  # until `fit` has seen the inputs' range
        if init == "random":
            for name, values in self.norm.named_parameters():
                nn.init.constant_(values, float(name == "weight"))
            return
        if self.positions is not None and body.positions is not None:
            positions = body.positions[
                0 if prefix is None else len(prefix) :
            ]  # those of the prefix stand first
            if body.position_grid is not None:
                positions = resize_positions(positions, body.position_grid, layout.grid)
            self.positions.data.copy_(positions[: layout.tokens])
        if body.patch_weight is not None and self.convolution.weight.dim() == 4:
            self._patch, self.is_body_layer = body, True
            self._start_from_patch(body)

    @torch.no_grad()
    def _start_from_patch(self, body: EmbedderInit, *, are_pixels: bool = False) -> None:
        """Let the convolution answer like the body's patch filter, also where patches overlap.

        To images in 0..1 (`are_pixels`) it then answers as the body does to normalised ones.
        """
        assert body.patch_weight is not None
        weight, bias, kernel = body.patch_weight, body.patch_bias, self.layout.kernel
        if are_pixels:
            values = (
                torch.tensor(value, device=weight.device)
                for value in (body.pixel_mean, body.pixel_std)
            )
            mean, std = (value.view(1, -1, 1, 1) for value in values)
            weight = weight / std
            shift = (weight * mean).sum((1, 2, 3))
            bias = -shift if bias is None else bias - shift
        spread = spread_filter(weight, self.layout.input_shape[0], kernel)
        self.convolution.weight.copy_(functional.pad(spread, (self.reach * kernel,) * 4))
        if bias is not None:
            self.convolution.bias.copy_(bias)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return tokens [B, T, D] for a batch's `x` and `valid`; a token is valid where any position it stands for is."""
        canvas = self._canvas(x, valid)
        answers = (
            self.convolution(_pad_end(canvas, self.layout.padded)).flatten(2).transpose(1, 2)
        )  # [B, T, D]
        samples = None
        if self.beside is not None:
            features, samples = self.beside(canvas, self._valid(x, valid))
            answers = answers if features is None else answers + features
        tokens: Tensor = self.norm(answers)
        if self.positions is not None:
            tokens = tokens + self.positions
        return Tokens(
            tokens,
            self.mask(x, valid),
            self.layout.grid,
            samples=samples if self.sample_width else None,
        )

    def tokens_at(self, x: Tensor, valid: Tensor | None, rows: Tensor, places: Tensor) -> Tensor:
        """Return some tokens [p, D] of a batch, token `places[i]` of sample `rows[i]`, without computing the others."""
        canvas, axes = self._canvas(x, valid), len(self.layout.extent)
        windows = _pad_end(canvas, self.layout.padded)
        margin = self.reach * self.layout.kernel
        windows = functional.pad(windows, (margin, margin) * axes)
        for axis in range(axes):
            windows = windows.unfold(
                2 + axis, self.kernel, self.layout.kernel
            )  # [B, C, *grid, *kernel]
        index = torch.unravel_index(places, self.layout.grid)
        windows = windows.movedim(1, 1 + axes)[(rows, *index)]  # [p, C, *kernel]
        answers = functional.linear(
            windows.flatten(1), self.convolution.weight.flatten(1), self.convolution.bias
        )
        if self.beside is not None and self.beside.adds:
            answers = answers + self.beside.at(canvas, self._valid(x, valid), rows, places)
        tokens: Tensor = self.norm(answers)
        return tokens if self.positions is None else tokens + self.positions[places]

    @torch.no_grad()
    def sample_features(self, x: Tensor, valid: Tensor | None) -> Tensor | None:
        """Return the features of whole samples [B, F] that are added to every token; None where there are none."""
        return (
            None
            if self.beside is None
            else self.beside(self._canvas(x, valid), self._valid(x, valid))[1]
        )

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Take what is learned from training inputs before any training.

        That is the scale of the features, where there are some, and whether inputs are images in 0..1, which the patch filter
        then takes as the body's own layer does: less the mean, divided by the deviation of its pixels.
        """
        patch, self._patch = self._patch, None
        in_range = [
            patch is not None and patch.pixel_mean is not None
        ]  # and of every batch, whether it is in 0..1

        def read() -> Iterator[tuple[Tensor, Tensor | None]]:
            for x, valid in batches:
                in_range.append(bool(x.min() >= 0 and x.max() <= 1))
                yield x, valid

        if self.beside is not None:
            self.beside.fit((self._canvas(x, valid), self._valid(x, valid)) for x, valid in read())
        elif in_range[0]:
            for _ in read():
                pass
        if patch is not None and all(in_range):
            self._start_from_patch(patch, are_pixels=True)

    def _canvas(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return what is cut into tokens, [B, C, *extent]."""
        if valid is not None:  # a patch may hold padding, and a token sees beyond its own patch
            x = x.masked_fill(~valid.unsqueeze(1), 0.0)
        return to_canvas(x, self.layout)

    def _valid(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return which positions of the canvas are valid, [B, *extent] bool: those that show any valid input."""
        if valid is None:
            return torch.ones(x.shape[0], *self.layout.extent, dtype=torch.bool, device=x.device)
        return to_canvas(valid.unsqueeze(1).to(x.dtype), self.layout)[:, 0] > 0

    def mask(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return which tokens of a batch are valid, [B, T] bool."""
        if valid is None:
            return torch.ones(x.shape[0], self.layout.tokens, dtype=torch.bool, device=x.device)
        seen = self._valid(x, valid).unsqueeze(1).to(x.dtype)
        pool = getattr(functional, f"max_pool{len(self.layout.extent)}d")
        mask = pool(_pad_end(seen, self.layout.padded), self.layout.kernel).flatten(1) > 0  # [B, T]
        # Without any valid position, softmax would run over nothing; such a sample keeps its first token.
        mask[:, 0] |= ~mask.any(1)
        return mask


def spread_filter(patch: Tensor, channels: int, kernel: int) -> Tensor:
    """Return a filter [D, channels, kernel, kernel] that answers like the pretrained one [D, c, p, p].

    A single channel counts as each of the c, as in a grey image. Several are answered by the c in turn, scaled by c / channels
    so that the answer does not grow with their number.
    Where k differs from p the filter is resized and scaled by (p / k)^2, which keeps the answer to a constant input.
    """
    patch_channels = patch.shape[1]
    repeated = patch.repeat(1, -(-channels // patch_channels), 1, 1)[:, :channels] * (
        patch_channels / channels
    )
    if channels == 1:
        repeated = patch.sum(1, keepdim=True)
    return resize(repeated, (kernel, kernel)) * (patch.shape[-1] / kernel) ** 2


def _pad_end(x: Tensor, size: tuple[int, ...]) -> Tensor:
    missing = [target - present for target, present in zip(size, x.shape[2:], strict=True)]
    pads = [width for amount in reversed(missing) for width in (0, amount)]
    return functional.pad(x, pads) if any(missing) else x
