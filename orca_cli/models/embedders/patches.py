"""The embedders: plain patches, overlapping patches, and these with a multiscale filter bank.

All make a `ConvolutionEmbedder`: convolution, the body's norm, and positions (paper 3.1, f). They
differ in the part of the input that a token sees.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.config.ranges import Count
from orca_cli.interfaces import (
    Embedder,
    EmbedderInit,
    InputLayer,
    Resolution,
    TokenLayout,
    Tokens,
)
from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.geometry import coarse, resize, resize_positions, to_canvas

_POSITION_DEVIATION = 0.02  # BERT's own

Init = Annotated[
    Literal["pretrained", "random"],
    "initial weights of the embedder's normalisation, positions and patch filter; pretrained: "
    "copied from the body; random: random weights",
]
MaxTokens = Annotated[
    Count | None,
    "maximum number of tokens into which a sample is cut; null: for image bodies, "
    "embedder.resolution sets the maximum; for other bodies, the body's own maximum",
]

PooledTokens = Annotated[
    Count | None,
    "maximum number of tokens of a sequence; without effect if outputs are dense or max_tokens is "
    "set; null: the body's own maximum",
]


@dataclass(frozen=True)
class Patch(Embedder):
    """A token for every patch, convolved with kernel = stride (paper 3.1, f).

    Args:
        resolution: size at which an image body receives an input: "input", with few patches for a
            small input, or "body", with as many patches as in pretraining.
    """

    init: Init = "pretrained"
    max_tokens: MaxTokens = None
    pooled_tokens: PooledTokens = None
    resolution: Resolution = "body"
    can_be_causal = True

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix)


@dataclass(frozen=True)
class Overlap(Embedder):
    """The tokens of `Patch`, each of which also sees its neighbours' patches.

    The kernel is three strides wide and centred on the token's own patch. Padding and positions
    beyond the input's ends count as zeros. The body's patch filter, if any, starts in the centre of
    the kernel with zeros around it, so that the initial outputs are the same as with `Patch`. The
    arguments are the same, too.
    """

    init: Init = "pretrained"
    max_tokens: MaxTokens = None
    pooled_tokens: PooledTokens = None
    resolution: Resolution = "body"

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer."""
        return ConvolutionEmbedder(layout, width, body, init=self.init, prefix=prefix, reach=1)


@dataclass(frozen=True)
class Multiscale(Embedder):
    """`Overlap` plus the responses of dilated filters, in the patch and in the whole sample.

    Classes often differ in which shapes occur, at what scale and how often. Every filter is
    correlated with the input around some places of a patch; level and size of the input do not
    change the correlation. The features of a patch are, for every filter, the share of places where
    the correlation exceeds the filter's threshold (as in ROCKET and its successors, Dempster et al.
    2020) and its maximum, and for every scale the size of the input. The features of a sample are
    the means of these, and the values of a short sequence or the means of its patches if they are
    few. Both are standardised and added to the tokens.

    Args:
        init: as in `Patch`; the filter bank is always random.
        resolution, max_tokens: as in `Patch`.
        pooled_tokens: limit for bodies that take sequences: few tokens suffice, and a step's cost
            grows with their number.
        values: for sequences whose positions mean the same in every sample, such as splice sites.
        skip: whether the features of whole samples also bypass the body and go to the predictor,
            which can then start as a ridge regression on them. In that case, an embedder that
            starts as the body's own patch layer gets no features added to its tokens.
    """

    init: Init = "pretrained"
    max_tokens: MaxTokens = None
    resolution: Resolution = "body"
    pooled_tokens: PooledTokens = 25
    filters: Annotated[
        Count,
        "number of filters that describe the whole sample, at each scale",
    ] = 128
    token_filters: Annotated[
        Count, "number of filters that describe a single token, at each scale"
    ] = 32
    scales: Annotated[
        Count,
        "number of scales; the filters of scales 1, 2, 3, ... read values 1, 2, 4, ... positions "
        "apart; scales that are too wide for the input are left out",
    ] = 6
    values: Annotated[
        bool,
        "true: use a sequence's values as features if there are at most 1,024 values, else "
        "the means of its patches; false: use the means of its patches",
    ] = False
    skip: bool = False

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer."""
        bank_layout = layout
        bank_width: int | None = width
        has_bypass = self.skip and self.init == "pretrained"
        # The body's own patch layer gives tokens that the body knows, so nothing is added to them.
        # Features that bypass the body need fewer patches than a Swin, which has thousands.
        if has_bypass and body.patch_weight is not None:
            bank_layout = coarse(layout)
            bank_width = None
        bank = FilterBank(
            bank_layout,
            bank_width,
            filters=self.filters,
            token_filters=self.token_filters,
            scales=self.scales,
            values=self.values,
        )
        return ConvolutionEmbedder(
            layout,
            width,
            body,
            init=self.init,
            prefix=prefix,
            reach=1,
            beside=bank,
            has_bypass=has_bypass,
        )


class ConvolutionEmbedder(nn.Module, InputLayer):
    """Maps inputs to tokens in the body's space, a token for every k positions along every axis.

        token = norm(convolution(x) + features of `beside`) + position

    The initial weights come from torch's global generator and the body. If the body has no norm or
    no positions, neither has the embedder.

    Args:
        layout, width, body, prefix: as in `interfaces.Embedder`.
        init: "pretrained": norm, positions and, if the body has one, the patch filter start with
            the body's weights; "random": the convolution is drawn as in the paper, the norm has
            weight 1 and bias 0, positions are drawn from N(0, 0.02).
        reach: number of patches that a token sees on either side of its own patch.
        beside: filter bank whose features are added to the convolution's outputs, unless the filter
            bank has no width.
        has_bypass: whether the filter bank's features of whole samples bypass the body and go to
            the predictor.
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
        has_bypass: bool = False,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.reach = reach
        self.beside = beside
        if beside is not None and has_bypass:
            # The predictor reads this width to make its second layer.
            self.sample_width = beside.sample_width
        # With a reach of 1, a token sees its own patch and one on either side.
        self.kernel = (2 * reach + 1) * layout.kernel
        self.convolution = self._drawn_convolution(width)
        self.norm: nn.Module = nn.Identity()
        # The copy is trained, while the body's own norm stays frozen.
        if body.norm is not None:
            device = self.convolution.weight.device
            norm = copy.deepcopy(body.norm).to(device)
            self.norm = norm.requires_grad_(True)
        self.positions: nn.Parameter | None = None
        # A body without positions at its input adds its own inside.
        if body.positions is not None:
            drawn = torch.randn(layout.tokens, width) * _POSITION_DEVIATION
            self.positions = nn.Parameter(drawn)
        self.class_token: nn.Parameter | None = None
        if prefix is not None:
            # A single prefix token is kept as [D].
            token = prefix if len(prefix) > 1 else prefix[0]
            self.class_token = nn.Parameter(token.clone())
        # The body's patch filter, until `fit` knows the inputs' range.
        self._patch: EmbedderInit | None = None
        if init == "random":
            for name, parameter in self.norm.named_parameters():
                nn.init.constant_(parameter, float(name == "weight"))
        else:
            self._start_from_body(body, prefix_length=0 if prefix is None else len(prefix))

    def _drawn_convolution(self, width: int) -> Any:
        """Return the convolution over the layout's axes, with weights drawn as in the paper."""
        stride = self.layout.kernel
        axes = len(self.layout.extent)
        # Sequences, maps and volumes differ in this class only.
        convolution_class = getattr(nn, f"Conv{axes}d")
        convolution = convolution_class(
            self.layout.input_shape[0],
            width,
            self.kernel,
            stride=stride,
            # A margin of whole patches on either side keeps the number of tokens.
            padding=self.reach * stride,
        )
        nn.init.xavier_uniform_(convolution.weight, gain=math.sqrt(2))
        nn.init.zeros_(convolution.bias)
        return convolution

    def _start_from_body(self, body: EmbedderInit, *, prefix_length: int) -> None:
        """Copy the body's positions and, for maps, its patch filter."""
        if self.positions is not None and body.positions is not None:
            # Positions of the prefix come first.
            positions = body.positions[prefix_length:]
            if body.position_grid is not None:
                positions = resize_positions(positions, body.position_grid, self.layout.grid)
            # A text body may have more positions than the layout has tokens.
            token_positions = positions[: self.layout.tokens]
            self.positions.data.copy_(token_positions)
        # Only maps are convolved as the body's patches are.
        is_map = len(self.layout.extent) == 2
        if is_map and body.patch_weight is not None:
            self._patch = body
            # Stage 2 and the optimizer then move the layer in smaller steps (docs/decisions/0025).
            self.is_body_layer = True
            self._start_from_patch(body)

    @torch.no_grad()
    def _start_from_patch(self, body: EmbedderInit, *, are_pixels: bool = False) -> None:
        """Make the convolution respond like the body's patch filter, also if patches overlap.

        With `are_pixels`, it responds to images in 0..1 as the body does to normalised images.
        """
        weight = body.patch_weight
        bias = body.patch_bias
        assert weight is not None
        if are_pixels:
            # w (x - mean) / deviation + b  =  (w / deviation) x + (b - (w / deviation) mean)
            pixel_mean = torch.tensor(body.pixel_mean, device=weight.device).view(1, -1, 1, 1)
            pixel_deviation = torch.tensor(body.pixel_std, device=weight.device).view(1, -1, 1, 1)
            weight = weight / pixel_deviation
            shift = (weight * pixel_mean).sum((1, 2, 3))
            bias = -shift if bias is None else bias - shift
        stride = self.layout.kernel
        spread = spread_filter(weight, self.layout.input_shape[0], stride)
        margin = self.reach * stride
        # Zeros around the filter: at first a token sees its own patch alone.
        padded_filter = functional.pad(spread, (margin, margin, margin, margin))
        self.convolution.weight.copy_(padded_filter)
        if bias is not None:
            self.convolution.bias.copy_(bias)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return tokens [B, T, D] for a batch's `x` and `valid`.

        A token is valid if any position that it covers is valid.
        """
        canvas = self._canvas(x, valid)
        answers = self.convolution(_pad_end(canvas, self.layout.padded))  # [B, D, *grid]
        answers = answers.flatten(2).transpose(1, 2)  # [B, T, D]
        samples = None
        if self.beside is not None:
            # The filter bank gets the canvas without the convolution's margin, because it adds its
            # own.
            features, samples = self.beside(canvas, self._valid(x, valid))
            if features is not None:
                answers = answers + features
        tokens = self.norm(answers)
        if self.positions is not None:
            tokens = tokens + self.positions
        return Tokens(
            x=tokens,
            mask=self.mask(x, valid),
            grid=self.layout.grid,
            samples=samples if self.sample_width else None,
        )

    def tokens_at(self, x: Tensor, valid: Tensor | None, rows: Tensor, places: Tensor) -> Tensor:
        """Return p tokens [p, D] of a batch, token `places[i]` of sample `rows[i]`.

        Only these tokens are computed.
        """
        # At a few tokens, a convolution is a linear layer over their windows.
        canvas = self._canvas(x, valid)
        grid_indices = torch.unravel_index(places, self.layout.grid)
        windows = self._windows(canvas)[(rows, *grid_indices)]  # [p, C, *kernel]
        weight = self.convolution.weight.flatten(1)
        answers = functional.linear(windows.flatten(1), weight, self.convolution.bias)  # [p, D]
        if self.beside is not None and self.beside.adds:
            answers = answers + self.beside.at(canvas, self._valid(x, valid), rows, places)
        tokens = self.norm(answers)
        if self.positions is not None:
            tokens = tokens + self.positions[places]
        return tokens

    def _windows(self, canvas: Tensor) -> Tensor:
        """Return the window of each token, [B, *grid, C, *kernel], in a canvas [B, C, *extent]."""
        axes = len(self.layout.extent)
        margin = self.reach * self.layout.kernel
        windows = _pad_end(canvas, self.layout.padded)
        windows = functional.pad(windows, (margin, margin) * axes)
        for axis in range(axes):
            # Each unfold appends an axis with the positions of a window.
            windows = windows.unfold(2 + axis, self.kernel, self.layout.kernel)
        # Channels behind the grid, as in the convolution's own weight [D, C, *kernel].
        return windows.movedim(1, 1 + axes)

    @torch.no_grad()
    def sample_features(self, x: Tensor, valid: Tensor | None) -> Tensor | None:
        """Return the features of whole samples [B, F] that are added to every token, or None."""
        if self.beside is None:
            return None
        _, samples = self.beside(self._canvas(x, valid), self._valid(x, valid))
        return samples

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Learn from training inputs, before any training.

        The filter bank, if any, learns the scale of its features. If all inputs are in 0..1, as
        pixels are, the patch filter is set so that it responds to them as the body's own layer does
        to pixels that are normalised with the body's mean and deviation.
        """
        # The filter is set here at most once, because training changes it afterwards.
        patch = self._patch
        self._patch = None
        knows_pixels = patch is not None and patch.pixel_mean is not None
        # Reading `watched` fills `in_range`, a value for each batch.
        in_range: list[bool] = []
        watched = _watched(batches, in_range)
        if self.beside is not None:
            canvases = ((self._canvas(x, valid), self._valid(x, valid)) for x, valid in watched)
            self.beside.fit(canvases)
        elif knows_pixels:
            for _ in watched:
                pass  # only the range is needed
        # A single value outside 0..1 shows that the inputs are not pixels.
        if patch is not None and knows_pixels and all(in_range):
            self._start_from_patch(patch, are_pixels=True)

    def _canvas(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return the inputs on the canvas that is cut into tokens, [B, C, *extent]."""
        # Zeros in place of padding, which a token may see in and around its own patch.
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(1), 0.0)
        return to_canvas(x, self.layout)

    def _valid(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return which positions of the canvas show a valid input, [B, *extent] bool."""
        if valid is None:
            return torch.ones(x.shape[0], *self.layout.extent, dtype=torch.bool, device=x.device)
        channel = valid.unsqueeze(1).to(x.dtype)  # [B, 1, *E]
        # A resized position counts as valid if any valid position contributed to it.
        return to_canvas(channel, self.layout)[:, 0] > 0

    def mask(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return which tokens of a batch are valid, [B, T] bool."""
        if valid is None:
            return torch.ones(x.shape[0], self.layout.tokens, dtype=torch.bool, device=x.device)
        is_valid = self._valid(x, valid).unsqueeze(1)  # [B, 1, *extent]
        axes = len(self.layout.extent)
        max_pool = getattr(functional, f"max_pool{axes}d")
        padded = _pad_end(is_valid.to(x.dtype), self.layout.padded)
        # A patch is valid if any of its positions is.
        pooled = max_pool(padded, self.layout.kernel)
        mask = pooled.flatten(1) > 0  # [B, T]
        # A sample without valid positions keeps its first token: softmax needs at least one.
        mask[:, 0] |= ~mask.any(1)
        return mask


def _watched(
    batches: Iterable[tuple[Tensor, Tensor | None]], in_range: list[bool]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the batches; append to `in_range` whether the inputs of each are in 0..1."""
    for x, valid in batches:
        is_in_range = x.min() >= 0 and x.max() <= 1
        in_range.append(bool(is_in_range))
        yield x, valid


def spread_filter(patch: Tensor, channels: int, kernel: int) -> Tensor:
    """Return a filter [D, channels, kernel, kernel] that responds like the pretrained filter.

    A single channel counts as all c channels, as in a grey image. Several channels get the filters
    of the c channels in turn, scaled by c / channels so that the response does not grow with the
    number of channels. If k differs from p, the filter is resized and scaled by (p / k)^2, which
    keeps the response to a constant input.

    Args:
        patch: the pretrained filter, [D, c, p, p].
        channels: number of channels of the input.
        kernel: k.
    """
    patch_channels = patch.shape[1]
    if channels == 1:
        # The sum over channels responds to a grey image as the filter to three equal channels.
        spread = patch.sum(1, keepdim=True)
    else:
        rounds = -(-channels // patch_channels)
        repeated = patch.repeat(1, rounds, 1, 1)
        spread = repeated[:, :channels] * (patch_channels / channels)
    scale = (patch.shape[-1] / kernel) ** 2
    return resize(spread, (kernel, kernel)) * scale


def _pad_end(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return [B, C, *size] for [B, C, *E], with zeros at the end of every axis."""
    paddings: list[int] = []
    # functional.pad counts axes from the last one.
    for new_length, length in zip(reversed(size), reversed(maps.shape[2:]), strict=True):
        paddings += [0, new_length - length]
    return functional.pad(maps, paddings) if any(paddings) else maps
