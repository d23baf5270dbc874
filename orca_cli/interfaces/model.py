"""The parts of a transfer model, and how stage 3 trains it.

A trait is an attribute of a protocol that has a default: a part that derives from the protocol has
the default, and any part may state its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor, nn

# The role of a linear layer in a block, by which `finetune` selects layers.
Role = Literal["query", "key", "value", "output", "feed_forward"]
Resolution = Literal["input", "body"]


@dataclass(frozen=True)
class TokenLayout:
    """How an input is cut into a grid of tokens.

    Args:
        input_shape: (C, L), (C, H, W) or (C, D, H, W), the task's.
        fold: (rows, columns) that the steps of a sequence or the slices of a volume are folded
            into, row by row; None where nothing is folded.
        canvas: (height, width) that the (folded) map is resized to; None where it keeps its size.
        kernel: k, the number of positions along every axis that a token covers.
        extent: extent of the embedder's input, before padding: (L,), (H, W), (D, H, W) or the
            canvas.
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
        # Prefix tokens do not count.
        return math.prod(self.grid)

    @property
    def padded(self) -> tuple[int, ...]:
        """Return the extent after padding its end to a multiple of k."""
        # The grid is rounded up, so that this is never smaller than the extent.
        return tuple(self.kernel * size for size in self.grid)


@dataclass(frozen=True)
class Tokens:
    """A batch of sequences in the body's own space.

    Args:
        x: [B, P + T, D].
        mask: [B, P + T] bool, False where the token is padding.
        grid: extent of the T tokens: (T,) for a sequence, (rows, columns) for a map, and so on.
        causal: whether a feature may depend on its own and earlier tokens only.
        prefix: P, the number of tokens that come before the tokens of the grid.
        samples: [B, S], features of whole samples, which bypass the body and go to the predictor.
    """

    x: Tensor
    mask: Tensor
    grid: tuple[int, ...]
    causal: bool = False
    prefix: int = 0
    samples: Tensor | None = None


@dataclass(frozen=True)
class EmbedderInit:
    """The weights of a body's own input layer that an embedder can start from.

    A field is None if the body has no such weights.

    Args:
        norm: a copy of the body's norm (layer norm or RMS norm, with or without a bias).
        positions: [S, D]; row t belongs to token t, prefix tokens included.
        position_grid: (rows, columns) of the positions after the prefix, if they lie on a map.
        patch_weight: [D, c, p, p], the filter of a patch embedding; c = 3.
        patch_bias: [D].
        pixel_mean, pixel_std: per channel. The body expects images in 0..1 minus this mean, divided
            by this deviation.
    """

    norm: nn.Module | None = None
    positions: Tensor | None = None
    position_grid: tuple[int, int] | None = None
    patch_weight: Tensor | None = None
    patch_bias: Tensor | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


class Embedder(Protocol):
    """Makes the input layer for a task's shapes (f in the paper, 3.1); settings in conf/embedder/.

    Attributes:
        max_tokens: upper bound on the tokens of a sample; the body's own maximum where None.
        resolution: size of the maps that a body of images gets: "input" for a size that fits the
            size of the input, "body" for the size that the body was pretrained with.
        can_be_causal: a trait; whether a token sees only the positions that it covers.
        pooled_tokens: a trait; upper bound on tokens if a sample has one answer and `max_tokens` is
            None. If both are None, only the body's own maximum applies.
    """

    max_tokens: int | None
    resolution: Resolution
    can_be_causal: bool = False
    pooled_tokens: int | None = None

    def __init__(self) -> None:
        # A part without settings takes no arguments; the default of typing.Protocol takes any.
        pass

    def __call__(
        self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None
    ) -> nn.Module:
        """Return the layer, an `InputLayer`; random weights come from torch's global generator.

        Args:
            layout: how the task's inputs are cut into tokens.
            width: D, the width of the body's tokens.
            body: the weights that the layer can start from.
            prefix: [P, D], the body's prefix tokens, which come before the tokens of the grid, or
                None.
        """


class InputLayer(Protocol):
    """An nn.Module that an `Embedder` makes: `layer(x, valid)` returns the tokens of a batch.

    x is [B, C, *E], and `valid` [B, *E] bool or None. The layer returns `Tokens` of the layout's
    grid, without prefix. No token depends on x where `valid` is False.

    A layer may have `tokens_at(x, valid, rows, places)`, which returns [p, D], token places[i] of
    sample rows[i], so that stage 2 computes only the tokens that it compares. Such a layer also has
    `mask(x, valid)`, [B, T] bool.

    Attributes:
        layout: the `TokenLayout` that the embedder was called with.
        kernel: the number of positions that a token sees along every axis.
        class_token: the prefix tokens as a parameter [P, D], or [D] where P = 1, or None.
        is_body_layer: a trait; whether the layer starts as the body's own layer.
        sample_width: a trait; S, the width of `Tokens.samples`, or 0 without such features.
        tokens_at: a trait; None where the layer can compute only all tokens at once.
    """

    is_body_layer: bool = False
    sample_width: int = 0
    # A method or None: protocols have no optional methods.
    tokens_at: Any = None

    def fit(self, batches: Iterable[Any]) -> None:
        """Learn from training inputs (x, valid), once, before any training.

        What the layer learns is part of its state. A layer that learns nothing reads no batch.
        """
        return

    def sample_features(self, x: Tensor, valid: Tensor | None) -> Tensor | None:
        """Return the layer's features of whole samples, [B, F], for the baseline `features`.

        None if the layer has no such features; the baseline then pools the tokens.
        """
        return None


class Finetune(Protocol):
    """A finetune mode: selects the parameters that stage 3 trains.

    Attributes:
        pretrained: a trait; whether the body has the checkpoint's weights. Where it is False, they
            are drawn at random.
    """

    pretrained: bool = True

    def __init__(self) -> None:
        # As in `Embedder`.
        pass

    def apply(self, model: Any) -> None:
        """Set requires_grad on every parameter of a transfer model; idempotent.

        A mode that has its own parameters adds them first, with initial values that are drawn from
        torch's global generator.

        Raises:
            ConfigError: the mode does not suit the body or the inputs.
            UnavailableError: a package that the mode needs is not installed.
        """
