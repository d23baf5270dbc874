"""The parts of a transfer model, and how stage 3 trains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor, nn


@dataclass(frozen=True)
class TokenLayout:
    """How an input is cut into a grid of tokens.

    Args:
        input_shape: (C, L), (C, H, W) or (C, D, H, W), the task's.
        fold: (rows, columns) that the steps of a sequence or the slices of a volume are folded into, row by row; None where
            nothing is folded.
        canvas: (height, width) that the (folded) map is resized to; None where it keeps its size.
        kernel: k, the positions along every axis that a token stands for.
        extent: what the embedder sees, before padding: (L,), (H, W), (D, H, W) or the canvas.
        grid: tokens per axis, ceil(extent / k).
    """

    input_shape: tuple[int, ...]
    fold: tuple[int, int] | None
    canvas: tuple[int, int] | None
    kernel: int
    extent: tuple[int, ...]
    grid: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Return T, the number of tokens of a sample."""
        return math.prod(self.grid)

    @property
    def padded(self) -> tuple[int, ...]:
        """Return the extent after padding its end to a multiple of k."""
        return tuple(self.kernel * size for size in self.grid)


@dataclass(frozen=True)
class Tokens:
    """A batch of sequences in the body's own space."""

    x: Tensor  # [B, P + T, D]
    mask: Tensor  # [B, P + T] bool, False where the token is padding
    grid: tuple[
        int, ...
    ]  # extent of the T tokens: (T,) for a sequence, (rows, columns) for a map, and so on
    causal: bool = False  # whether a feature may depend on its own and earlier tokens only
    prefix: int = 0  # P, the tokens that stand before those of the grid
    samples: Tensor | None = (
        None  # [B, S], features of whole samples that go past the body to the predictor
    )


@dataclass(frozen=True)
class EmbedderInit:
    """The weights of a body's own input layer that an embedder can start from; None where the body has none.

    Args:
        norm: a copy of its norm, of any kind (layer norm or RMS norm, with or without a bias).
        positions: [S, D], row t belongs to token t, prefix tokens included.
        position_grid: (rows, columns) of the positions after those of the prefix, where they lie on a map.
        patch_weight: [D, c, p, p], the filter of a patch embedding; c = 3.
        patch_bias: [D].
        pixel_mean, pixel_std: per channel of images in 0..1, which the body expects less this mean, divided by this deviation.
    """

    norm: nn.Module | None = None
    positions: Tensor | None = None
    position_grid: tuple[int, int] | None = None
    patch_weight: Tensor | None = None
    patch_bias: Tensor | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


class Embedder(Protocol):
    """What makes the input layer for a task's shapes; the settings of conf/embedder/. Paper 3.1, f.

    The layer is an nn.Module: `layer(x, valid)` takes [B, C, *E] and [B, *E] bool (or None) and returns Tokens of the
    layout's grid, without prefix; no token depends on what x holds where `valid` is False. It has `layout`, `kernel` (what a
    token sees along every axis) and `class_token`: the prefix tokens as a parameter [P, D], or [D] where P = 1, or None.
    Where it returns `Tokens.samples`, it has their width S as `sample_width`; where it starts as the body's own layer, it has
    `is_body_layer`, which is True.
    Optional: `can_be_causal`, True where a token sees nothing beyond the positions that it stands for, and `pooled_tokens`, an
    upper bound on tokens where a sample has one answer and `max_tokens` is None.
    Optional in the layer: with `mask(x, valid)`, [B, T] bool, and `tokens_at(x, valid, rows, places)`, [p, D], token places[i]
    of sample rows[i], stage 2 computes no token that it omits. `fit(batches)` is called once with training inputs (x, valid) in
    batches, before any training; what it learns is in the layer's state. `sample_features(x, valid)`, [B, F] or None, is what
    it knows of a whole sample, for the baseline `features`; otherwise that pools the tokens.

    Attributes:
        max_tokens: upper bound on the tokens of a sample; the body's own maximum where None.
        resolution: "input" or "body": whether a body that takes maps gets them at the size that the input is worth, or at the
            one that it was pretrained with.
    """

    max_tokens: int | None
    resolution: Resolution

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer, of width D; random weights are drawn from torch's global generator.

        `body` is what it can start from; `prefix` [P, D] the body's tokens that are to stand before the others, or None.
        """


Role = Literal["query", "key", "value", "output", "feed_forward"]
Resolution = Literal["input", "body"]


class Finetune(Protocol):
    """Which parameters stage 3 trains. With the attribute `pretrained`, False, the body's weights are drawn at random."""

    def apply(self, model: Any) -> None:
        """Set requires_grad on every parameter of a transfer model, adding parameters of the mode's own first; idempotent.

        First values of these are drawn from torch's global generator.

        Raises:
            ConfigError: the mode does not suit the body or the inputs.
            UnavailableError: a package that it needs is not installed.
        """
