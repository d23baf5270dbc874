"""A bank of dilated filters; features are its responses around the positions of a patch, and over the whole sample."""

import hashlib
import itertools
import math
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.interfaces import TokenLayout

# By number of axes: taps of a filter, and positions of a patch at which filters are evaluated, along each axis.
_TAPS = {1: 9, 2: 3, 3: 3}
_PLACES = {1: 16, 2: 4, 3: 2}
_FLAT = 0.03  # deviations of the data below which a window counts as flat
_CONSTANT = 1e-4  # deviation of a feature below which it is not divided by it
_FARTHEST = 5.0  # deviations from its mean that a feature may be
_MOST_VALUES = 1024  # of a sequence, or means of patches, that are features of a sample
# With more features than this, the whole vector is scaled to the length of this many: otherwise a step of Adam would change a
# layer's outputs more, the more inputs it has.
_WIDE = 400
_MOST_BYTES = 2**28  # of the features that a run keeps


class FilterBank(nn.Module):
    """Features [B, T, D] of a batch's canvas: of every token, and of the whole sample, the same for all its tokens.

    The filters are random and stay as they are; `fit` standardises their features over training data, and two linear layers,
    which are trained, take them to the body's width D. The arguments beside layout and width are as in `patches.Multiscale`.

    Attributes:
        adds: whether there are features of tokens; without a width there are those of whole samples alone.
        sample_width: number of the latter.
    """

    def __init__(
        self,
        layout: TokenLayout,
        width: int | None,
        filters: int,
        token_filters: int,
        scales: int,
        values: bool = False,
    ) -> None:
        super().__init__()
        self._kept, self._kept_of = (
            _Kept(),
            (0, 0),
        )  # features by content, and the filters that they are of
        self._token_filters = min(token_filters, filters)
        extent, axes = layout.extent, len(layout.extent)
        reach = _TAPS[axes] // 2
        powers = (2**scale for scale in range(scales))
        spacings = list(
            itertools.takewhile(
                lambda spacing: spacing == 1 or 2 * reach * spacing < max(extent), powers
            )
        )
        each = min(
            layout.kernel, _PLACES[axes]
        )  # places within a patch, along each axis; some lie beyond the end
        places = [int((i + 0.5) * layout.kernel / each) for i in range(each)]
        within = np.array(list(itertools.product(places, repeat=axes)))
        centres = (
            np.array(list(np.ndindex(*layout.grid)))[:, None] * layout.kernel + within
        )  # [T, M, axes]
        around = np.array(
            list(itertools.product(range(-reach, reach + 1), repeat=axes))
        )  # [taps, axes]
        # [scales, T, M, taps, axes]
        windows = np.stack([centres[:, :, None] + spacing * around for spacing in spacings])
        self.places = nn.Buffer(_numbered(centres, extent), persistent=False)
        self.taps = nn.Buffer(_numbered(windows, extent), persistent=False)
        weight = torch.randn(len(spacings), filters, layout.input_shape[0], len(around))
        weight -= weight.mean(-1, keepdim=True)
        self.weight = nn.Buffer(functional.normalize(weight.flatten(2), dim=2).view_as(weight))
        channels = layout.input_shape[0]
        self._has_values = values and axes == 1 and channels * extent[0] <= _MOST_VALUES
        raw_count = channels * (extent[0] if self._has_values else layout.tokens)
        self._has_means = not self._has_values and raw_count <= _MOST_VALUES
        self.adds = width is not None
        self.sample_width = len(spacings) * (2 * filters + 1) + raw_count * (
            self._has_values or self._has_means
        )
        token_width = len(spacings) * (2 * self._token_filters + 1)
        self.token_mean, self.token_deviation = (
            nn.Buffer(torch.zeros(token_width)),
            nn.Buffer(torch.ones(token_width)),
        )
        self.sample_mean = nn.Buffer(torch.zeros(self.sample_width))
        self.sample_deviation = nn.Buffer(torch.ones(self.sample_width))
        if width is not None:
            self.token, self.sample = _layer(token_width, width), _layer(self.sample_width, width)

    def forward(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return features [B, T, D], or None without a width, and the standardised ones of whole samples [B, F].

        The canvas [B, C, *extent] is 0 where `valid` [B, *extent] is False.
        """
        tokens, samples = self._standardised(canvas, valid)
        return (
            self.token(tokens) + self.sample(samples).unsqueeze(1) if self.adds else None
        ), samples

    def at(self, canvas: Tensor, valid: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Return features [p, D] of token `places[i]` of sample `rows[i]` alone."""
        tokens, samples = self._standardised(canvas, valid)
        return self.token(tokens[rows, places]) + self.sample(samples)[rows]

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take the features' means and deviations from training data, batches of (canvas, valid) as in `forward`."""
        totals: dict[str, list[Any]] = {
            "token": [0, 0.0, 0.0],
            "sample": [0, 0.0, 0.0],
        }  # number, sum, sum of squares
        for canvas, valid in batches:
            tokens, samples, seen = self._cached_features(canvas, valid)
            for name, rows in (
                ("token", tokens[seen].double()),
                ("sample", samples[seen.any(1)].double()),
            ):
                added = (len(rows), rows.sum(0), rows.square().sum(0))
                totals[name] = [
                    total + more for total, more in zip(totals[name], added, strict=True)
                ]
        for name, (count, total, squares) in totals.items():
            if count > 1:
                mean = total / count
                deviation = (squares / count - mean.square()).clamp(min=0).sqrt().float()
                getattr(self, f"{name}_mean").copy_(mean)
                getattr(self, f"{name}_deviation").copy_(
                    torch.where(deviation > _CONSTANT, deviation, 1.0)
                )

    @torch.no_grad()
    def _standardised(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of tokens [B, T, n] and samples [B, m]; 0 where nothing is valid."""
        tokens, samples, seen = self._cached_features(canvas, valid)
        tokens = _scaled(tokens, self.token_mean, self.token_deviation)
        samples = _scaled(samples, self.sample_mean, self.sample_deviation)
        return tokens * seen.unsqueeze(-1), samples * seen.any(1, keepdim=True)

    def _cached_features(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return `_features`; on the CPU, those of samples seen before are kept, as long as they fit into 256 MiB.

        There a sample's features are computed from it alone, so that they have the same bits whatever batch it comes in.
        """
        if canvas.device.type != "cpu" or torch.compiler.is_compiling():
            return self._features(canvas, valid)
        filters = (
            self.weight.data_ptr(),
            self.weight._version,
        )  # another where weights were loaded or copied
        if filters != self._kept_of:
            self._kept, self._kept_of = _Kept(), filters
        features = []
        for x, is_valid in zip(canvas.split(1), valid.split(1), strict=True):
            name = hashlib.blake2b(
                x.numpy().tobytes() + is_valid.numpy().tobytes(), digest_size=16
            ).digest()
            one = self._kept.get(name)
            if one is None:
                one = self._features(x, is_valid)
                if (len(self._kept) + 1) * sum(part.nbytes for part in one) <= _MOST_BYTES:
                    self._kept[name] = one
            features.append(one)
        return tuple(torch.cat(part) for part in zip(*features, strict=True))

    def _features(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return raw features of tokens [B, T, n] and samples [B, m], and which tokens [B, T] show anything valid.

        Those of a sample are the means of its tokens', of all filters, and, where these are not too many, the values of a
        sequence or the means of its patches.
        """
        # One position more, outside of the input, holds 0 and is not valid.
        x = functional.pad(canvas.flatten(2).transpose(1, 2), (0, 0, 0, 1))  # [B, P + 1, C]
        is_valid = functional.pad(valid.flatten(1), (0, 1))[:, self.places]  # [B, T, M]
        weight = is_valid.unsqueeze(-1).to(x.dtype)
        count = weight.sum(-2).clamp(min=1)
        # Over -1 to 1 deviation of an answer. Not in __init__: a model whose weights come from a file is built without values.
        threshold = torch.linspace(-1.0, 1.0, self.weight.shape[1], device=x.device)
        lowest = torch.where(is_valid.unsqueeze(-1), 0.0, -math.inf)
        token_filters, token_parts, sample_parts = self._token_filters, [], []
        for taps, filters in zip(self.taps, self.weight, strict=True):
            windows = x[:, taps]  # [B, T, M, taps, C]
            shape = (windows - windows.mean(-2, keepdim=True)).flatten(-2)
            size = shape.square().mean(-1, keepdim=True).sqrt()
            # A random filter answers with a deviation of about 1, whatever the window's size is.
            answers = functional.linear(shape, filters.transpose(1, 2).flatten(1)).div_(
                size + _FLAT
            )
            share = 2 * (answers > threshold).to(x.dtype).mul_(weight).sum(-2) / count - 1
            largest = (
                answers.add_(lowest).amax(-2).masked_fill_(~is_valid.any(-1, keepdim=True), 0.0)
            )
            level = (torch.log(size + _FLAT) * weight).sum(-2) / count
            token_parts += [share[..., :token_filters], largest[..., :token_filters], level]
            sample_parts += [share, largest, level]
        tokens, seen = torch.cat(token_parts, -1), is_valid.any(-1)
        part = seen.unsqueeze(-1).to(tokens.dtype)
        samples = (torch.cat(sample_parts, -1) * part).sum(1) / part.sum(1).clamp(min=1)
        if self._has_values:
            samples = torch.cat([samples, canvas.flatten(1)], -1)
        elif self._has_means:
            means = (x[:, self.places] * weight).sum(-2) / count  # [B, T, C]
            samples = torch.cat([samples, means.transpose(1, 2).flatten(1)], -1)
        return tokens, samples, seen


class _Kept(dict[bytes, tuple[Tensor, ...]]):
    """Features that a copy of the bank does without."""

    def __deepcopy__(self, _: Any) -> Self:
        return type(self)()


def _layer(features: int, width: int) -> nn.Linear:
    layer = nn.Linear(features, width)
    nn.init.xavier_uniform_(layer.weight, gain=1 / _share(features))
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return ((features - mean) / deviation).clamp(-_FARTHEST, _FARTHEST) * _share(len(mean))


def _share(features: int) -> float:
    return min(1.0, math.sqrt(_WIDE / features))


def _numbered(positions: np.ndarray, extent: tuple[int, ...]) -> Tensor:
    """Return positions [..., axes] as numbers in row-major order; those beyond the input get the number after the last."""
    inside = ((positions >= 0) & (positions < np.array(extent))).all(-1)
    clipped = np.clip(positions, 0, np.array(extent) - 1)
    numbers = np.ravel_multi_index(tuple(np.moveaxis(clipped, -1, 0)), extent)
    return torch.from_numpy(np.where(inside, numbers, math.prod(extent)))
